"""The courier: sends the webhooks that are owed, and follows the events for those who subscribed to them.

A round begins what is due, as far as there is room, and does not wait for it: a receiver that is slow holds
one of its own few places. Each place takes the next delivery when it has ended one, until nothing is due. A
delivery is claimed for a lease by Redis' clock: of a courier that dies another sends it again, with the
same id.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from datetime import timedelta

from colony.metrics.names import DELIVERIES
from colony.store import Store
from colony.store.deliveries import Failed, Owed
from workers.node.context import NodeContext
from workers.node.following import follow_events
from workers.node.role import Role
from workers.node.sending import Outcome, Sender

log = logging.getLogger("colony.courier")

MARGIN = timedelta(seconds=5)
"""By how much the lease of a delivery is longer than an attempt may take."""
END_SECONDS = 5.0
JITTER = 0.1


class Courier(Role):
    """One round: owe what has happened, send what is due."""

    name = "courier"

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._settings = context.settings
        self._lease = self._settings.delivery_timeout + MARGIN
        self._places: set[asyncio.Task[None]] = set()
        self._sender: Sender | None = None

    @property
    def interval(self) -> timedelta:
        return self._settings.sweep_interval

    async def begin(self, store: Store) -> None:
        """Raises `ConfigurationError` for addresses that cannot be meant."""
        self._sender = Sender(self._settings)

    async def round(self, store: Store) -> None:
        """Follow, claim, and begin to send."""
        await follow_events(store, interval=self.interval * 0.9)
        free = self._settings.delivery_concurrency - len(self._places)
        if free <= 0:
            return
        for owed in await self._claim(store, free):
            place = asyncio.create_task(self._attempt(self._work(store, owed)))
            self._places.add(place)
            place.add_done_callback(self._places.discard)

    async def end(self, store: Store) -> None:
        """Let what is being sent arrive, for a moment; the rest is sent by another when its lease is over."""
        if self._places:
            await asyncio.wait(self._places, timeout=END_SECONDS)
        for place in self._places:
            place.cancel()
        await asyncio.gather(*self._places, return_exceptions=True)
        if self._sender is not None:
            await self._sender.close()

    async def _work(self, store: Store, owed: Owed) -> None:
        """One place: this delivery, and whatever is due after it."""
        claimed = [owed]
        while claimed:
            await self._deliver(store, claimed[0])
            claimed = [] if self._stopping.is_set() else await self._claim(store, 1)

    async def _claim(self, store: Store, most: int) -> list[Owed]:
        return await store.claim_deliveries(
            secrets.token_hex(8),
            lease=self._lease,
            most=most,
            per_lane=self._settings.delivery_per_endpoint,
        )

    async def _deliver(self, store: Store, owed: Owed) -> None:
        assert self._sender is not None
        began = time.monotonic()
        outcome = await self._sender.send(owed)
        seconds = time.monotonic() - began
        if outcome.error is None:
            DELIVERIES.observe(seconds, "delivered")
            await store.delivered(owed.id)
            return
        verdict = await store.delivery_failed(
            owed.id,
            owed.token,
            outcome.error,
            again_after=self._again_after(outcome, owed.attempt),
            gone=outcome.gone,
        )
        DELIVERIES.observe(seconds, "dead" if verdict is Failed.DEAD else "failed")
        if verdict is Failed.DEAD:
            log.warning("webhook %s is given up: %s", owed.id, outcome.error)

    def _again_after(self, outcome: Outcome, attempt: int) -> timedelta | None:
        """By the schedule, spread a little, or later where the receiver asks for it. None: never."""
        schedule = self._settings.delivery_retries
        if outcome.final or attempt > len(schedule):
            return None
        spread = 1 + JITTER * random.random()
        return max(schedule[attempt - 1] * spread, outcome.retry_after)
