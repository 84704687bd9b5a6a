"""`Operations`: what an operator asks of a fleet and changes in it, from an event loop.

Reads, stops, nodes, caps, intake and quarantine of one colony. `colony.runtime.ColonyRuntime` adds what
producers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from colony.bell import Bell
from colony.conversation import Part
from colony.definition import ColonyConfig
from colony.doorbell import Doorbells, celery_app
from colony.errors import (
    InvalidTask,
    NotQuarantined,
    UnknownBatch,
    UnknownColony,
    UnknownNode,
    UnknownWorker,
)
from colony.intake import Entrance, Intake
from colony.models import (
    BatchRecord,
    FleetStats,
    Limit,
    NodeInfo,
    Rejected,
    Report,
    ReportStatus,
    WorkerRecord,
    WorkerState,
    from_ms,
)
from colony.pipeline.stage import Stage
from colony.settings import Settings
from colony.sizes import MAX_REASON, check_label
from colony.spawning import Spawner
from colony.store import Link, Stopped, Store
from colony.store.keys import COLONIES
from colony.store.records import CAPS, limits_of
from colony.tasks import MAX_WORKERS, Limits, limits_in

STOP_PAGE = 500


class Operations:
    """The operator's verbs of one colony, part of `ColonyRuntime`. Use it as ``async with``.

    Every verb raises `StoreUnavailable` within 2 s when Redis is away.
    """

    def __init__(
        self,
        colony_id: str,
        *,
        redis_url: str | None = None,
        broker_url: str | None = None,
        settings: Settings | None = None,
        pipeline: Sequence[Stage] = (),
    ) -> None:
        given = {"redis_url": redis_url, "broker_url": broker_url}
        base = settings or Settings()
        self.settings = base.model_copy(update={k: v for k, v in given.items() if v is not None})
        self.colony_id = colony_id
        self._link = Link(self.settings.store_url, patience=self.settings.connect_timeout)
        self._store = Store(self._link, colony_id)
        self._intake = Intake(self._store, pipeline)
        self._doorbells = Doorbells(celery_app(colony_id, self.settings), colony_id, self.settings)
        self._bell = Bell(self._doorbells)

    async def __aenter__(self) -> Self:
        try:
            await self._store.check_schema()
        except BaseException:
            await self._link.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._link.close()
        await asyncio.to_thread(self._doorbells.close)

    # -- reading ----------------------------------------------------------------------------

    async def get_worker(self, worker_id: str) -> WorkerRecord | None:
        """All that is known of a worker, or None."""
        return await self._store.get(worker_id)

    async def get_worker_result(self, worker_id: str) -> Report | None:
        """The report of an ended worker; None while it runs, or when it is unknown."""
        record = await self._store.get(worker_id)
        return None if record is None else record.report

    async def get_batch(self, batch_id: str) -> BatchRecord | None:
        """A batch: how many are in, and its result once it is joined; None when it is unknown."""
        return await self._store.batch(batch_id)

    async def get_batch_members(
        self, batch_id: str, start: int = 0, count: int = MAX_WORKERS
    ) -> list[str]:
        """The ids of a batch's workers, in input order. Raises `UnknownBatch`."""
        ids = await self._store.members(batch_id, start, count)
        if not ids:
            await self._must_get_batch(batch_id)
        return ids

    async def get_batch_reports(
        self, batch_id: str, start: int = 0, count: int = 100
    ) -> list[Report | None]:
        """A page of the members' reports in input order; None for one that has not ended."""
        ids = await self._store.members(batch_id, start, count)
        if not ids and await self._store.batch(batch_id) is None:
            raise unknown_batch(batch_id, self.colony_id)
        found = await self._store.wait_for(ids, ttl=timedelta(seconds=60))
        return [report if isinstance(report, Report) else None for report in found]

    async def get_children(self, worker_id: str) -> list[str]:
        """The ids of the workers that a worker has spawned."""
        return await self._store.children(worker_id)

    async def get_conversation(
        self, worker_id: str, start: int = 0, count: int | None = None
    ) -> list[Part]:
        """The worker's conversation so far (or `count` parts of it, from part `start`), as
        `colony.conversation` describes it. Parts are only ever appended."""
        return await self._store.conversation(worker_id, start, count)

    async def list_workers(
        self, *, status: WorkerState | str | None = None, limit: int = 100
    ) -> list[WorkerRecord]:
        """Workers, newest change first; `status` is a `WorkerState` (any case)."""
        state = None if status is None else WorkerState(str(status).upper())
        return await self._store.newest(state, limit)

    async def get_stats(self) -> FleetStats:
        """The colony in numbers. Raises `UnknownColony`."""
        stats = await self._store.stats()
        if stats is None:
            raise unknown_colony(self.colony_id)
        return stats

    async def now(self) -> datetime:
        """Redis' clock, by which all that the store tells is dated."""
        return from_ms(await self._store.now_ms())

    async def list_rejected(self, limit: int = 100) -> list[Rejected]:
        """Messages on the queue that were set aside, newest first."""
        return await self._store.rejected(limit)

    async def queue_depth(self) -> int:
        """How many doorbells wait in the Celery queue."""
        depth, _ = await asyncio.to_thread(self._doorbells.depth)
        return depth

    async def intake_depth(self) -> int:
        """How many messages of foreign producers wait to be accepted: because the intake is paused, the
        fleet is full, or no node is there."""
        return await asyncio.to_thread(self._doorbells.intake_depth)

    async def tally(self, what: str) -> None:
        """Count something in the colony's totals (`get_stats`)."""
        await self._store.tally(what)

    # -- stopping ---------------------------------------------------------------------------

    async def stop_worker(self, worker_id: str, reason: str | None = None) -> bool:
        """Stop a worker: at once when it waits, within `stop_grace` when it runs. A report it has
        filed stands. False when it had ended before. Raises `UnknownWorker`."""
        check_label("reason", reason, MAX_REASON)
        verdict = await self._store.stop(
            worker_id,
            status=ReportStatus.STOPPED,
            reason=reason or "Worker was stopped before it ended.",
            grace=self.settings.stop_grace,
        )
        if verdict is Stopped.UNKNOWN:
            raise unknown_worker(worker_id, self.colony_id)
        await self._stop_children(worker_id)
        return verdict is not Stopped.ENDED

    async def stop_batch(self, batch_id: str, reason: str | None = None) -> int:
        """Stop every worker of a batch that has not ended, with its children; returns how many."""
        record = await self._must_get_batch(batch_id)
        ids = await self._store.members(batch_id, 0, record.size)
        return await self._stop_each(ids, reason or "The batch was stopped.")

    async def stop_all_workers(self, reason: str | None = None) -> int:
        """Stop every worker that has not ended; returns how many were stopped or told to."""
        check_label("reason", reason, MAX_REASON)
        stopped = 0
        for state in (WorkerState.PENDING, WorkerState.PARKED, WorkerState.RUNNING):
            ids = await self._store.ids_in(state)
            stopped += await self._stop_each(ids, reason or "All workers were stopped.")
        return stopped

    # -- nodes, caps, intake, quarantine ----------------------------------------------------

    async def list_nodes(self) -> list[NodeInfo]:
        """The nodes with their leases."""
        return await self._store.nodes()

    async def drain_node(self, node: str) -> str:
        """Have a node end as after SIGTERM: it takes nothing new, lets the calls in flight end (at most
        `drain_grace`), hands its workers over and leaves; under a supervisor of ours it stays away. `node`
        is its name, or as much of its beginning as no other node shares; returns the name. `UnknownNode`.
        """
        names = [found.node for found in await self.list_nodes() if found.lease_seconds > 0]
        meant = [name for name in names if name == node] or [
            name for name in names if node and name.startswith(node)
        ]
        if len(meant) != 1:
            what = f"{len(meant)} nodes are" if meant else "no node is"
            raise UnknownNode(
                f"{what} named {node!r}…: expected a name, or the beginning of only one, of: "
                f"{', '.join(meant or names) or 'none is alive'}"
            )
        if not await self._store.drain(meant[0]):
            raise UnknownNode(f"node {meant[0]!r} has just ended")
        return meant[0]

    async def set_limit(self, name: str, most: int | None) -> None:
        """Set a cap while the fleet runs: ``max_concurrent_workers``, ``max_concurrent_per_key``, or
        ``agent:<name>`` of one that the colony has; None gives it back to the definition. Raises
        `UnknownColony`, `InvalidTask`."""
        cap = CAPS.get(name, name)
        if cap not in CAPS.values() and not cap.startswith("agent:"):
            raise InvalidTask(f"limit {name!r} is unknown: {', '.join(CAPS)} or agent:<name>")
        if most is not None and most < 1:
            raise InvalidTask(
                f"limit {name}: expected at least 1, got {most}; pause_intake stops new work"
            )
        if cap.startswith("agent:"):
            self._check_agent_of(cap, most, await self._face())
        if not await self._store.set_limit(cap, most):
            raise unknown_colony(self.colony_id)

    async def get_limits(self) -> list[Limit]:
        """The caps that `set_limit` can change. Raises `UnknownColony`."""
        face = await self._store.face()
        if "id" not in face:
            raise unknown_colony(self.colony_id)
        return limits_of(face)

    async def pause_intake(self) -> None:
        """Refuse new work (`IntakePaused`) until `resume_intake`; what was accepted runs on."""
        await self._set_intake(paused=True)

    async def resume_intake(self) -> None:
        """Accept new work again."""
        await self._set_intake(paused=False)

    async def list_quarantine(self, limit: int = 100) -> list[WorkerRecord]:
        """The workers that were lost because their nodes died under them more often than
        `max_resurrections`, newest first; retention leaves them alone (up to `quarantine_max`)."""
        return await self._store.quarantined(limit)

    async def drop_quarantined(self, worker_id: str) -> None:
        """Forget a worker from quarantine; its record is then kept as long as any. `NotQuarantined`."""
        await self._must_be_quarantined(worker_id)
        await self._store.drop(worker_id)

    # -- inside -----------------------------------------------------------------------------

    def _check_agent_of(self, cap: str, most: int | None, face: Mapping[str, str]) -> None:
        """Raises `InvalidTask` for a cap of an agent that there is not. What was set for one that is no
        more can be given back."""
        agents = limits_in(face)[0].agents
        if cap.removeprefix("agent:") in agents or (most is None and f"override:{cap}" in face):
            return
        raise InvalidTask(
            f"no agent is named {cap.removeprefix('agent:')!r}: expected agent:<name> of one that this "
            f"colony has: {', '.join(sorted(agents))}"
        )

    async def _limits(self) -> tuple[Limits, ColonyConfig]:
        """What the definition allows. Raises `UnknownColony`."""
        return limits_in(await self._face())

    async def _entrance(self) -> Entrance:
        """What is asked of work that comes in. Raises `UnknownColony`, `PipelineIncomplete`."""
        return await self._intake.entrance(await self._face())

    async def _face(self) -> dict[str, str]:
        face = await self._store.face()
        if "id" not in face:
            raise unknown_colony(self.colony_id)
        return face

    def _spawner(self) -> Spawner:
        return Spawner(self._store, self._bell, self.settings.ring_again_after)

    async def _stop_each(self, ids: Sequence[str], reason: str) -> int:
        check_label("reason", reason, MAX_REASON)
        stopped = 0
        for start in range(0, len(ids), STOP_PAGE):
            page = ids[start : start + STOP_PAGE]
            verdicts = await asyncio.gather(*(self._stop_quietly(w, reason) for w in page))
            hit = [
                w
                for w, verdict in zip(page, verdicts, strict=True)
                if verdict in (Stopped.SETTLED, Stopped.TOLD)
            ]
            await asyncio.gather(*(self._stop_children(worker_id) for worker_id in hit))
            stopped += len(hit)
        return stopped

    async def _stop_children(self, worker_id: str) -> None:
        """Go down the tree now; the janitors would do the same within their sweep."""
        level = [worker_id]
        while level:
            await asyncio.gather(
                *(
                    self._store.expire(f"tree:{w}", grace=self.settings.stop_grace, cap=MAX_WORKERS)
                    for w in level
                )
            )
            children = await asyncio.gather(*(self._store.children(w) for w in level))
            level = [child for each in children for child in each]

    async def _stop_quietly(self, worker_id: str, reason: str) -> Stopped:
        return await self._store.stop(
            worker_id,
            status=ReportStatus.STOPPED,
            reason=reason,
            grace=self.settings.stop_grace,
        )

    async def _must_get(self, worker_id: str) -> WorkerRecord:
        record = await self._store.get(worker_id)
        if record is None:
            raise unknown_worker(worker_id, self.colony_id)
        return record

    async def _must_get_batch(self, batch_id: str) -> BatchRecord:
        record = await self._store.batch(batch_id)
        if record is None:
            raise unknown_batch(batch_id, self.colony_id)
        return record

    async def _must_be_quarantined(self, worker_id: str) -> None:
        if not await self._store.is_quarantined(worker_id):
            raise NotQuarantined(
                f"worker {worker_id!r} is not in quarantine: see who is with list_quarantine or "
                "`colony quarantine list`"
            )

    async def _set_intake(self, *, paused: bool) -> None:
        if not await self._store.set_intake(paused=paused):
            raise unknown_colony(self.colony_id)


async def list_colonies(settings: Settings | None = None) -> list[str]:
    """The ids of all colonies that were ever registered in this Redis."""
    base = settings or Settings()
    link = Link(base.store_url, patience=base.connect_timeout)
    try:
        return sorted(await link.call("SMEMBERS", COLONIES))
    finally:
        await link.close()


def unknown_worker(worker_id: str, colony_id: str) -> UnknownWorker:
    return UnknownWorker(
        f"there is no worker {worker_id!r} in colony {colony_id!r}: check the id; ended workers are "
        "forgotten after result_retention_max and result_retention_ttl"
    )


def unknown_batch(batch_id: str, colony_id: str) -> UnknownBatch:
    return UnknownBatch(
        f"there is no batch {batch_id!r} in colony {colony_id!r}: check the id; a batch is forgotten "
        "with the last of its workers"
    )


def unknown_colony(colony_id: str) -> UnknownColony:
    return UnknownColony(
        f"no node has ever served a colony named {colony_id!r} in this Redis: check the name, "
        "or start a node with: colony worker module:colony"
    )
