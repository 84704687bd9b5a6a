"""What the slices of one process share: store, models, threads for tools, and the ear.

One per process that runs slices: the node itself, or each child of a prefork pool. Made on the
agent loop by the first slice.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic_ai.models import Model

from colony.bell import Bell
from colony.credentials import Keyring
from colony.definition import AgentSpec
from colony.errors import StaleToken
from colony.store import Ring, Store
from workers.agent.model import Models
from workers.agent.threads import ToolThreads
from workers.node.context import NodeContext
from workers.node.ear import Ear
from workers.pool import AsyncioPool
from workers.running import Running
from workers.ticking import Look


@dataclass(slots=True)
class Host:
    """A process's share of its node."""

    context: NodeContext
    store: Store
    threads: ToolThreads
    ear: Ear
    models: Models
    keyring: Keyring
    bell: Bell
    _look: Look | None = None

    @classmethod
    def open(cls, context: NodeContext) -> Host:
        """On the agent loop. Its store never gives up: a node holds its writes while Redis is away."""
        store = context.open_store(patience=None)
        ear = Ear(store, context.node, context.drain)
        ear.start()
        context.children.follow()
        settings = context.settings
        if not issubclass(context.children.pool, AsyncioPool):  # which cuts itself what is late
            context.drain.cut_late(settings.drain_grace.total_seconds())
        models = Models(max_connections=2 * settings.concurrency)
        colony = context.colony
        keyring = Keyring(colony.credentials, colony.vaults, ttl=settings.credential_ttl)
        bell = Bell(context.doorbells())
        return cls(context, store, ToolThreads(settings.tool_threads), ear, models, keyring, bell)

    async def ring(self, rings: Sequence[Ring]) -> None:
        """Ring doorbells, off the loop; those that cannot be sent are rung again by a janitor."""
        await self.bell.ring(rings)

    @property
    def look(self) -> Look:
        """What a tick has this process do."""
        self._look = self._look or Look(self.context, self.store, self.bell)
        return self._look

    async def join(self, batch_id: str) -> None:
        """Join a batch if all it needs is in, ring for its parent, and send its notice."""
        after = self.context.settings.ring_again_after
        rings = await self.store.join(batch_id, ring_again_after=after)
        await self.ring(rings)

    async def still_owns(self, running: Running) -> None:
        """Wait while the lease is not good; raises `StaleToken` when the claim was lost meanwhile."""
        await self.context.lease.hold()
        if running.lost:
            raise StaleToken(f"worker {running.worker_id} was rescued: this node's lease ran out")

    def model_of(self, spec: AgentSpec) -> Model:
        """The agent's model, made once per process. Raises `ModelError`."""
        return self.models.of(spec)


_host: Host | None = None
_pid = 0


def host_of(context: NodeContext) -> Host:
    """This process's host; a forked child makes its own. Call on the agent loop."""
    global _host, _pid
    asyncio.get_running_loop()
    if _host is None or _pid != os.getpid():
        _host, _pid = Host.open(context), os.getpid()
    return _host
