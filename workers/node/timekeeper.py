"""The timekeeper: looks for timers that are due, beside beat, and for events that fire triggers.

With beats that tick it mostly finds nothing to do; while they change over, or where there is none, due
times are met all the same. Looking is safe for any number of nodes at once: see `colony.triggers`.
"""

from __future__ import annotations

from datetime import timedelta

from colony.bell import Bell
from colony.store import Store
from workers.node.context import NodeContext
from workers.node.role import Role
from workers.node.watching import watch_events
from workers.ticking import Look


class Timekeeper(Role):
    """One round: the timers, then the events."""

    name = "timekeeper"

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._look: Look | None = None

    @property
    def interval(self) -> timedelta:
        return self.context.settings.sweep_interval

    async def round(self, store: Store) -> None:
        """Look."""
        look = self._look = self._look or Look(self.context, store, Bell(self.context.doorbells()))
        await look.at_timers()
        await watch_events(store, look.firing, interval=self.interval * 0.9)
