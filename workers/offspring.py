"""A slice's children: spawned under its claim, with ids that follow from the tool call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from colony.definition import AgentSpec
from colony.errors import SpawnRefused, UnknownWorker
from colony.models import BatchRecord, Report, TaskSpec
from colony.spawning import Spawner, SpawnOptions, new_batch
from colony.store import Claim
from colony.store.records import derived_ids
from colony.store.workers import Background, Parent
from colony.tasks import Limits, check_tasks
from workers.agent.spawning import Unit
from workers.host import Host


class SliceOffspring:
    """What the spawning tools need, for one slice. Raises `SpawnRefused` and `InvalidTask`, which the
    model is told, and `StaleToken`, which ends the slice."""

    def __init__(self, host: Host, claim: Claim, spec: AgentSpec) -> None:
        self._host = host
        self._claim = claim
        self._background = Background(spec.max_async_children, spec.async_policy == "queue")
        context = host.context
        self._spawner = Spawner(
            host.store,
            host.bell,
            context.settings.ring_again_after,
            context.colony.default_agent,
        )

    async def spawn(
        self,
        tool_call_id: str,
        tasks: Sequence[TaskSpec],
        timeout: timedelta | None,
        *,
        background: bool = False,
    ) -> str:
        """Accept one child per task; the same call finds the same batch."""
        colony, record = self._host.context.colony, self._claim.record
        config = colony.config
        limits = Limits(config.max_task_bytes, config.max_data_bytes, frozenset(colony.agents))
        specs = check_tasks(tasks, limits)
        batch_id, ids = derived_ids(record.worker_id, tool_call_id, len(specs))
        batch = new_batch(batch_id, len(specs), "all", None, None)
        await self._spawner.spawn(
            ids,
            specs,
            config,
            SpawnOptions(correlation_id=record.correlation_id, deadline=timeout),
            batch=replace(batch, background=self._background) if background else batch,
            parent=Parent(record.worker_id, self._claim.token),
        )
        return batch_id

    async def reports(self, batch_id: str) -> list[Report] | None:
        """The reports in order once the batch is joined."""
        store = self._host.store
        batch = await store.batch(batch_id)
        if batch is None:
            raise SpawnRefused(f"batch {batch_id} is gone: its results were not kept so long")
        if batch.result is None:
            return None
        ids = [member.worker_id for member in batch.result.members]
        found = await store.wait_for(ids, ttl=timedelta(minutes=1))
        if not all(isinstance(report, Report) for report in found):
            raise UnknownWorker(f"batch {batch_id}: not all reports were kept so long")
        return [report for report in found if isinstance(report, Report)]

    async def ended(self, handles: Sequence[str]) -> list[Unit]:
        """Those of these units that have ended, in the given order."""
        found = await asyncio.gather(*map(self._host.store.batch, handles))
        pairs = zip(handles, found, strict=True)
        return [await self._unit(h, b) for h, b in pairs if b is None or b.result is not None]

    async def _unit(self, handle: str, batch: BatchRecord | None) -> Unit:
        members = batch.result.members if batch and batch.result else ()
        read = await asyncio.gather(*(self._host.store.get(member.worker_id) for member in members))
        records = [record for record in read if record is not None]
        return Unit(handle, records, {record.agent: self._face(record.agent) for record in records})

    def _face(self, agent: str) -> str:
        """What an agent is: its name, its model, its tools."""
        colony = self._host.context.colony
        spec = colony.agents.get(agent)
        if spec is None:
            return agent
        model = spec.model if isinstance(spec.model, str) else spec.model.model_name
        tools = ", ".join(colony.tools_of(spec)) or "none"
        return f"{agent}; model: {model}; tools: {tools}"
