"""The heart: renews the node's lease, and gives back what the node holds but does not run."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from celery.worker import state as celery_state

from colony.bell import Bell
from colony.store import Ring, Store
from colony.triggers.keeping import declare
from workers.loop import agent_loop
from workers.node.context import NodeContext
from workers.node.lease import lease_clock
from workers.node.role import Role
from workers.running import RUNNING

log = logging.getLogger("colony.heart")

LAG_WARNING_SECONDS = 1.0
SAY_AGAIN_SECONDS = 3600.0
"""How often word is left anew that this node lives: what is old on a disk is removed."""
STOOD_STILL, TICK = 0.5, 0.1
"""Parts of a lease: a node that stood still for so long may have lost it by that; how often it looks."""


class Heart(Role):
    """Beats. A lease that was taken away is taken anew; what was rescued meanwhile is dropped here."""

    name = "heart"

    def __init__(
        self,
        context: NodeContext,
        *,
        pool: str,
        concurrency: int,
        silent_for: Callable[[], float] = lambda: 0.0,
    ) -> None:
        super().__init__(context)
        self._silent_for = silent_for
        self._about: dict[str, str | int] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pool": pool,
            "concurrency": concurrency,
            "version": context.colony.version,
        }
        self._registered_at = math.inf
        self._missing: dict[str, str] = {}
        self._asked_at: float | None = None
        self._last_lag = 0.0
        self._answered_at = time.monotonic()
        self._stood_still_at = self._renewed_at = self._said_at = -math.inf
        self._ticking: asyncio.Task[None] | None = None
        self._bell = Bell(context.doorbells())
        self._ringing: asyncio.Task[None] | None = None

    @property
    def interval(self) -> timedelta:
        return self.context.settings.beat_interval

    @property
    def concurrency(self) -> int:
        """How many workers this node runs at once."""
        return int(self._about["concurrency"])

    @property
    def lag(self) -> float:
        """Seconds that the agent loop took for the last sign it was asked for, or has taken so far."""
        asked_at = self._asked_at
        return (
            self._last_lag if asked_at is None else max(self._last_lag, time.monotonic() - asked_at)
        )

    @property
    def unheard_for(self) -> float:
        """Seconds since a beat was answered."""
        return time.monotonic() - self._answered_at

    async def begin(self, store: Store) -> None:
        """Make the colony known and take the lease: before the first claim, and before anybody rescues."""
        await self.context.word.tell_earlier(store)
        await self._register(store)
        asked_at = lease_clock()
        await self._beat(store, join=True)
        self._renewed(asked_at)
        self._ticking = asyncio.create_task(self._tick(), name="colony-heart-tick")

    async def round(self, store: Store) -> None:
        """Renew the lease; compare held with running."""
        self._watch_agent_loop()
        asked_at = lease_clock()
        held = await self._beat(store)
        if held is None or not self.context.lease.good:
            await self._judge(store)
        if held is None:
            log.error(
                "the lease of node %s was lost: its workers were rescued; starting anew",
                self.context.node,
            )
            self._said_at = -math.inf
            await self.context.word.tell_earlier(store)
            await self._register_again(store)
            asked_at = lease_clock()
            held = await self._beat(store, join=True) or {}
        self._drop_rescued(held)
        self._renewed(asked_at)  # after the dropping
        await self._give_back_lost(store, held)
        await self._see_to_drain(store)

    async def _register(self, store: Store) -> None:
        """Make the colony and its triggers known; the last definition wins."""
        began, self._registered_at = await store.now_ms(), math.inf  # not before all of it is done
        await store.register(self.context.face())
        await declare(store, list(self.context.colony.triggers.values()))
        self._registered_at = began

    async def _register_again(self, store: Store) -> None:
        """Where Redis has lost what this node registered (emptied, or back at an older state). What another
        has registered since then stands: it may be the next version."""
        if await store.last_registered() < self._registered_at:
            log.error("Redis has lost data: colony %s is registered again", store.colony_id)
            await self._register(store)

    async def _see_to_drain(self, store: Store) -> None:
        """Tell the store that this node drains; or do so, if the store says that it is to."""
        drain = self.context.drain
        if drain.begun:
            await store.drain(self.context.node)
        elif await store.is_draining(self.context.node):
            drain.end_node()

    async def end(self, store: Store) -> None:
        """Leave: what is still held is handed over at once, and counts as no death."""
        self.context.word.ends()  # also where no drain has begun
        await self.hand_over(store)

    async def hand_over(self, store: Store) -> None:
        """Give up the lease and whatever is held, and ring for it. Counts as no death. From any loop."""
        node, after = self.context.node, self.context.settings.ring_again_after
        taken = 1
        while taken:
            taken, rings = await store.rescue(node, cap=200, ring_again_after=after, died=False)
            await Bell(self.context.doorbells()).ring(rings)
        await self._judge(store)
        self.context.word.take_back()

    async def _beat(self, store: Store, *, join: bool = False) -> dict[str, str] | None:
        state = {"lag_ms": int(1000 * self.lag), "silent_ms": int(1000 * self._silent_for())}
        held = await store.beat(
            self.context.node,
            lease=self.context.settings.lease,
            about={**self._about, **state},
            join=join,
        )
        self._answered_at = time.monotonic()
        return held

    def _renewed(self, asked_at: float) -> None:
        self._renewed_at = asked_at
        self.context.lease.renewed(asked_at, self.context.settings.lease)
        if asked_at > self._said_at + SAY_AGAIN_SECONDS:
            self._said_at = asked_at
            self.context.word.lives()

    async def _tick(self) -> None:
        """Notice when this process stands still with its lease: frozen, or a tool lets no thread run."""
        lease = self.context.settings.lease.total_seconds()
        while True:
            asked_at = lease_clock()
            await asyncio.sleep(TICK * lease)
            had_lease = asked_at < self._renewed_at + lease
            if had_lease and lease_clock() - asked_at > STOOD_STILL * lease:
                self._stood_still_at = lease_clock()

    async def _judge(self, store: Store) -> None:
        """What this node was counted for as dead is taken back, if it was cut off. It stands, if the node has
        stood still since its lease was last renewed: what stops node after node may not go on for ever."""
        node = self.context.node
        if self._stood_still_at > self._renewed_at:
            await store.uphold(node)
            return
        counted, taken_back = await store.exonerate(node, "was cut off")
        if counted:
            log.warning(
                "%d workers of this node were rescued while it was cut off; of %d that is no death",
                counted,
                taken_back,
            )

    def _drop_rescued(self, held: dict[str, str]) -> None:
        """A slice whose claim the store no longer knows runs elsewhere, or has ended: cut it here."""
        for running in list(RUNNING.values()):
            if running.claimed_at < time.monotonic() - self.interval.total_seconds() and (
                held.get(running.worker_id) != running.token
            ):
                running.drop()

    async def _give_back_lost(self, store: Store, held: dict[str, str]) -> None:
        """Held for a second beat and not run by any slice: a crashed slice, a killed pool child."""
        here = _running_here()
        missing = {w: token for w, token in held.items() if w not in here}
        lost = [(w, token) for w, token in missing.items() if self._missing.get(w) == token]
        self._missing = missing
        given_back = [await self._give_back(store, w, token) for w, token in lost]
        if rings := [ring for ring in given_back if ring is not None]:
            self._ringing = asyncio.create_task(
                self._bell.ring(rings)
            )  # a beat waits for no broker

    async def _give_back(self, store: Store, worker_id: str, token: str) -> Ring | None:
        log.warning("worker %s was claimed by this node but is not run here: given back", worker_id)
        draining = self.context.drain.begun
        why = f"its slice on {self.context.node} was lost" + (" in its drain" if draining else "")
        return await store.give_back(
            worker_id,
            token,
            why,
            counted=not draining,
            ring_again_after=self.context.settings.ring_again_after,
        )

    def _watch_agent_loop(self) -> None:
        """Ask the agent loop for a sign, and say how long the last one took to come."""
        now = time.monotonic()
        if self._asked_at is not None:
            if now - self._asked_at > LAG_WARNING_SECONDS:
                log.warning(
                    "the agent loop has been blocked for %.1f s: a tool or model blocks it",
                    now - self._asked_at,
                )
            return
        self._asked_at = now
        agent_loop().call_soon_threadsafe(self._answered)

    def _answered(self) -> None:
        asked_at, self._asked_at = self._asked_at, None
        if asked_at is not None:
            self._last_lag = time.monotonic() - asked_at


def _running_here() -> set[str]:
    """The ids of all doorbells that this node has taken and not finished, in whatever pool.

    Celery's sets are weak and change under our feet in other threads: an iteration that fails is
    begun again.
    """
    while True:
        try:
            requests: list[Any] = [
                *celery_state.reserved_requests,
                *celery_state.active_requests,
                *celery_state.requests.values(),
            ]
        except RuntimeError:
            continue
        return {request.id for request in requests} | set(RUNNING)
