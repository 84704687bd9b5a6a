"""The journal of a slice: the agent loop's checkpoints, written to the store under the claim's token."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from colony.conversation import Step
from colony.errors import StoreUnavailable
from colony.models import WorkerRecord
from colony.store import Claim
from workers.host import Host
from workers.running import Running
from workers.showing import SHOWING

log = logging.getLogger("colony.journal")


class StoreJournal:
    """Appends, fenced. The append that learns that the worker has been told to stop cancels the run."""

    def __init__(self, host: Host, claim: Claim, running: Running) -> None:
        self._host = host
        self._store = host.store
        self._record: WorkerRecord = claim.record
        self._running = running
        self._length = len(claim.parts)

    async def append(self, step: Step) -> None:
        """One checkpoint; raises `StaleToken` when the claim is lost."""
        await self._host.still_owns(self._running)
        told = await self._store.checkpoint(
            self._record.worker_id, self._running.token, step, after=self._length
        )
        self._length += len(step.parts)
        if (progress := self._running.progress) is not None:
            progress.add(step)
            SHOWING.step(self._host.context, progress)
        if told is not None:
            self._running.told = True
            raise asyncio.CancelledError(f"told to stop: {told}")

    async def tell(self, event_type: str, data: Mapping[str, Any]) -> None:
        """A live event; one that cannot be sent is dropped, and said so in the log."""
        record = self._record
        try:
            await self._store.say(
                event_type,
                data,
                worker_id=record.worker_id,
                stream_id=record.stream_id,
                correlation_id=record.correlation_id,
            )
        except StoreUnavailable as error:
            log.debug("live event %s of %s was dropped: %s", event_type, record.worker_id, error)
