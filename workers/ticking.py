"""The tick: beat says "look at the timers", a node looks. The janitor is the second who does, so a due
time is met while the beats change over. Nothing depends on when, or how often, a tick comes."""

from __future__ import annotations

from colony.bell import Bell
from colony.intake import Intake
from colony.spawning import Spawner
from colony.store import Store
from colony.triggers.firing import Firing
from colony.triggers.ringing import ring_timers
from workers.node.context import NodeContext


class Look:
    """Looks at the timers of a colony, with this node's definition, on one store."""

    def __init__(self, context: NodeContext, store: Store, bell: Bell) -> None:
        self._context, self._store, self._bell = context, store, bell
        self._intake = Intake(store, context.colony.pipeline)

    async def at_timers(self) -> None:
        """Fire what is due."""
        await ring_timers(self._store, self.firing, self._bell)

    async def firing(self) -> Firing:
        """Fires by what the colony says of itself now."""
        context = self._context
        after, agent = context.settings.ring_again_after, context.colony.default_agent
        entrance = await self._intake.entrance(await self._store.face())
        spawner = Spawner(self._store, self._bell, after, agent)
        return Firing(spawner, entrance, context.settings.stop_grace)
