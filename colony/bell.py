"""One bell for an event loop: who rings while another's doorbells are being sent is sent for with the next.

A doorbell alone costs a trip to a thread and to the broker; a hundred requests at once share a few of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from colony.doorbell import AT_ONCE, Doorbells
from colony.errors import StoreUnavailable
from colony.store import Ring

log = logging.getLogger("colony.bell")


class Bell:
    """Rings from an event loop. What cannot be sent is left to the janitors, and said in the log."""

    def __init__(self, doorbells: Doorbells) -> None:
        self._doorbells = doorbells
        self._waiting: list[Ring] = []
        self._sending: asyncio.Task[None] | None = None
        self._next: asyncio.Future[None] | None = None

    async def ring(self, rings: Sequence[Ring], *, chord_of: str = "") -> None:
        """Returns when the messages are sent, or cannot be. `chord_of`: these are a whole batch."""
        if not rings:
            return
        if chord_of:
            await self._send(rings, chord_of)
            return
        self._waiting += rings
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        sent = self._next
        if self._sending is None:
            self._sending = asyncio.create_task(self._send_all())
        await asyncio.shield(sent)

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                rings, self._waiting = self._waiting, []
                sent, self._next = self._next, None
                try:
                    await self._send(rings)
                finally:
                    if sent is not None and not sent.done():
                        sent.set_result(None)
        finally:
            self._sending = None

    async def _send(self, rings: Sequence[Ring], chord_of: str = "") -> None:
        sent = 0
        try:
            if chord_of:
                await self._doorbells.in_time(self._doorbells.expect, chord_of, len(rings))
            while sent < len(rings):
                some = rings[sent : sent + AT_ONCE]
                await self._doorbells.in_time(self._doorbells.ring, some)
                sent += len(some)
        except StoreUnavailable as error:
            log.warning(
                "%d workers are accepted but were not announced; a node will find them: %s",
                len(rings) - sent,
                error,
            )
