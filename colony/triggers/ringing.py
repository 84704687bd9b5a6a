"""Ringing for timers: fire what is due. Done by whoever is told to look, beat or janitor, as often as
they like."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from colony.bell import Bell
from colony.logs import Seldom
from colony.store import Ring, Store
from colony.store.triggers import DueTimer
from colony.triggers.firing import Firing

log = logging.getLogger("colony.triggers")
stay_due = Seldom(log)

PAGE = 100
"""Timers that are fired together."""

RUNG_TOGETHER = 500
"""Workers of timers: who runs here holds up those who are not accepted yet."""

MOST_PAGES = 50


async def ring_timers(
    store: Store,
    made: Callable[[], Awaitable[Firing]],
    bell: Bell,
) -> int:
    """Fire the timers that are due and nobody else rings for, unless the colony takes nothing now; returns
    how many were tried. `made` is asked only where there are some."""
    rung, turn = 0, asyncio.Lock()
    rings: list[Ring] = []
    ringing: list[asyncio.Task[None]] = []  # while the next are fired
    try:
        for _ in range(MOST_PAGES):
            now, due = await store.due_timers(PAGE)
            if not due:
                break
            firing = await made()
            found = await asyncio.gather(*(_fire(firing, timer, now, turn) for timer in due))
            rings += [ring for each in found for ring in each]
            if len(rings) >= RUNG_TOGETHER:
                ringing.append(asyncio.create_task(bell.ring(rings)))
                rings = []
            rung += len(due)
            if firing.refusals:  # it would refuse the others, too
                stay_due.warn("timers stay due: %s", firing.refusals[0])
                break
    finally:
        await asyncio.gather(bell.ring(rings), *ringing)
    return rung


async def _fire(firing: Firing, timer: DueTimer, now: int, turn: asyncio.Lock) -> list[Ring]:
    """Planned one after the other, with a pause for others on this loop; fired together."""
    try:
        async with turn:
            await asyncio.sleep(0)
            planned = await firing.plan_timer(timer, now)
        return [] if planned is None else await firing.fire_planned(planned)
    except ConnectionError:
        raise
    except Exception:
        log.exception("timer %s did not fire, it is tried again", timer.trigger_id)
        return []
