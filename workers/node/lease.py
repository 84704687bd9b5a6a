"""The node's own view of its lease: may it still act for the workers that it has claimed?

    heart ── renewed(asked at, lease) ──▶ Lease ◀── hold() ── before a model call, a tool call, a write

The store grants a lease from the moment in which it answers a beat, so one counted from the moment
in which the beat was asked ends earlier; it ends earlier still by `MARGIN`. While it is over, the
node's workers may have been rescued: what is in flight goes on, and nothing new is begun or written
until a beat has been answered, and what was rescued has been dropped.

This saves calls that somebody else makes too. That no stale byte is written is the token's doing.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import time
from datetime import timedelta
from multiprocessing.sharedctypes import RawValue

log = logging.getLogger("colony.lease")

MARGIN = 0.1
"""The part of a lease that is not used: for clocks that run unlike Redis', and for the way there."""
LOOK_SECONDS = 0.02

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_clock() -> float:
    """Seconds, from any start; they also pass while the process is stopped or its host sleeps."""
    return time.clock_gettime(_CLOCK)


class Lease:
    """One for a node, shared with the children of a prefork pool. Good until told otherwise: where
    no heart beats (a slice run by hand) nothing is held."""

    def __init__(self) -> None:
        self._until = RawValue(ctypes.c_double, math.inf)
        self._look: asyncio.Task[None] | None = None

    def renewed(self, asked_at: float, lease: timedelta) -> None:
        """A beat that was asked at `asked_at` (`lease_clock`) was answered. From any thread."""
        self._until.value = asked_at + lease.total_seconds() * (1 - MARGIN)

    @property
    def seconds_left(self) -> float:
        """How long it is good for; zero or less when it is over."""
        return float(self._until.value) - lease_clock()

    @property
    def good(self) -> bool:
        """Whether this node's claims surely hold."""
        return self.seconds_left > 0

    async def hold(self) -> None:
        """Return at once while the lease is good, else when it has been renewed."""
        while not self.good:
            loop = asyncio.get_running_loop()
            if self._look is None or self._look.done() or self._look.get_loop() is not loop:
                self._look = loop.create_task(self._until_good(), name="colony-lease")
            await asyncio.shield(self._look)

    async def _until_good(self) -> None:
        """One look-out for all who wait."""
        began = lease_clock()
        log.warning(
            "the lease has not been renewed: calls in flight go on, new calls and writes are held"
        )
        while not self.good:  # noqa: ASYNC110 (set by another thread, or another process)
            await asyncio.sleep(LOOK_SECONDS)
        log.warning("the lease is good again: after %.1f s all go on", lease_clock() - began)
