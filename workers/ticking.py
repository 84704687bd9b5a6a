"""The tick: beat says "look at the timers", a node looks. The janitor is the second who does, so a due
time is met while the beats change over. Nothing depends on when, or how often, a tick comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from colony.doorbell import TICK
from colony.spawning import Spawner
from colony.store import Ring, Store
from colony.tasks import Limits
from colony.triggers.firing import Firing
from colony.triggers.ringing import ring_timers
from workers.coroutine_task import CoroutineTask
from workers.host import host_of
from workers.node.context import NodeContext


class Tick(CoroutineTask):
    """``colony.tick()``: fire the timers that are due. What it is called with is not looked at."""

    name = TICK
    acks_late = False
    ignore_result = True
    typing = False

    def __init__(self, context: NodeContext) -> None:
        self.context = context

    async def arun(self, request: Any, *args: Any, **kwargs: Any) -> None:
        """One look."""
        host = host_of(self.context)
        await look_at_timers(self.context, host.store, host.ring)


async def look_at_timers(
    context: NodeContext, store: Store, ring: Callable[[Sequence[Ring]], Awaitable[None]]
) -> None:
    """Fire what is due."""
    await ring_timers(firing_of(context, store), ring)


def firing_of(context: NodeContext, store: Store) -> Firing:
    """Fires with this node's definition and connections."""
    colony, settings = context.colony, context.settings
    config = colony.config
    limits = Limits(config.max_task_bytes, config.max_data_bytes, frozenset(colony.agents))
    spawner = Spawner(store, context.doorbells(), settings.ring_again_after, colony.default_agent)
    return Firing(spawner, limits, config, settings.stop_grace)
