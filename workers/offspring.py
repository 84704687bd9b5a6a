"""A slice's children: spawned under its claim, with ids that follow from the tool call."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from colony.errors import SpawnRefused, UnknownWorker
from colony.models import Report, TaskSpec
from colony.spawning import Spawner, SpawnOptions, new_batch
from colony.store import Claim
from colony.store.records import derived_ids
from colony.store.workers import Parent
from colony.tasks import Limits, check_tasks
from workers.host import Host


class SliceOffspring:
    """What `run_parallel_workers` needs, for one slice. Raises `SpawnRefused` and `InvalidTask`, which
    the model is told, and `StaleToken`, which ends the slice."""

    def __init__(self, host: Host, claim: Claim) -> None:
        self._host = host
        self._claim = claim
        context = host.context
        self._spawner = Spawner(
            host.store,
            context.doorbells(),
            context.settings.ring_again_after,
            context.colony.default_agent,
        )

    async def spawn(
        self, tool_call_id: str, tasks: Sequence[TaskSpec], timeout: timedelta | None
    ) -> str:
        """Accept one child per task; the same call finds the same batch."""
        colony, record = self._host.context.colony, self._claim.record
        config = colony.config
        limits = Limits(config.max_task_bytes, config.max_data_bytes, frozenset(colony.agents))
        specs = check_tasks(tasks, limits)
        batch_id, ids = derived_ids(record.worker_id, tool_call_id, len(specs))
        await self._spawner.spawn(
            ids,
            specs,
            config,
            SpawnOptions(correlation_id=record.correlation_id, deadline=timeout),
            batch=new_batch(batch_id, len(specs), "all", None, None),
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
