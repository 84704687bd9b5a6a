"""`Operations`: what an operator asks of a fleet and changes in it, from an event loop.

Reads, stops, nodes, caps, intake and quarantine of one colony. `colony.runtime.ColonyRuntime` adds what
producers do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import compress
from types import TracebackType
from typing import Self, TypeVar

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
from colony.sizes import MAX_REASON, check_label, check_limit
from colony.spawning import Spawner
from colony.store import Link, Stopped, Store
from colony.store.keys import COLONIES
from colony.store.records import CAPS, limits_of
from colony.tasks import MAX_WORKERS, Limits, limits_in

STOP_PAGE = 500
STOPPED_WITH_PARENT = "Worker was stopped with its parent."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoppedTree:
    """Whom a stop of a worker stopped, or told to: it itself, unless it had ended before, and how many
    of its descendants."""

    itself: bool
    descendants: int


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
        check_limit(limit)
        return await self._store.rejected(limit)

    async def queue_depth(self) -> int:
        """How many doorbells wait in the Celery queue."""
        depth, _ = await self._doorbells.in_time(self._doorbells.depth)
        return depth

    async def intake_depth(self) -> int:
        """How many messages of foreign producers wait to be accepted: because the intake is paused, the
        fleet is full, or no node is there."""
        return await self._doorbells.in_time(self._doorbells.intake_depth)

    async def tally(self, what: str) -> None:
        """Count something in the colony's totals (`get_stats`)."""
        await self._store.tally(what)

    # -- stopping ---------------------------------------------------------------------------

    async def stop_worker(self, worker_id: str, reason: str | None = None) -> bool:
        """Stop a worker with its descendants: at once who waits, within `stop_grace` who runs. A report
        that was filed stands. False when it had ended before, and they had, too. Raises `UnknownWorker`."""
        told = await self.stop_tree(worker_id, reason)
        return told.itself or told.descendants > 0

    async def stop_tree(self, worker_id: str, reason: str | None = None) -> StoppedTree:
        """`stop_worker`, and who was stopped by it."""
        check_label("reason", reason, MAX_REASON)
        await self._must_get(worker_id)
        stopped = await self._stop([worker_id], reason or "Worker was stopped before it ended.")
        return StoppedTree(worker_id in stopped, len(stopped - {worker_id}))

    async def stop_batch(self, batch_id: str, reason: str | None = None) -> int:
        """Stop every worker of a batch, and every descendant of one, that has not ended; returns how many
        were stopped or told to."""
        record = await self._must_get_batch(batch_id)
        ids = await self._store.members(batch_id, 0, record.size)
        return len(await self._stop(ids, reason or "The batch was stopped."))

    async def stop_all_workers(self, reason: str | None = None) -> int:
        """Stop every worker that lives when this begins, and its descendants; returns how many were
        stopped or told to. What others spawn meanwhile is not touched: `pause_intake` keeps it out."""
        check_label("reason", reason, MAX_REASON)
        ids = await self._store.living()  # who waits comes first: a stop makes room for nobody
        return len(await self._stop(ids, reason or "All workers were stopped."))

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
        check_limit(limit)
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

    async def _stop(self, ids: Sequence[str], reason: str) -> set[str]:
        """Stop these and go down their trees, also those of who has ended; who was stopped or told to.

        The janitors go down a tree, too, within their sweep: whom one of them was first to stop counts.
        """
        check_label("reason", reason, MAX_REASON)
        began = await self._store.now_ms()
        stopped: set[str] = set()
        seen, level, above = set(ids), list(ids), list[str]()
        while level:
            hit = await _each(partial(self._is_stopped_by, reason=reason, since=began), level)
            stopped.update(compress(level, hit))
            await _each(self._tree_is_stopped, above)
            below = await _each(self._store.children, level)
            above = [w for w, children in zip(level, below, strict=True) if children]
            level = [child for children in below for child in children if child not in seen]
            seen.update(level)
            reason = STOPPED_WITH_PARENT
        await _each(self._tree_is_stopped, above)
        return stopped

    async def _is_stopped_by(self, worker_id: str, *, reason: str, since: int) -> bool:
        """Stop one; whether that, or another stop since then, ends it."""
        verdict = await self._store.stop(
            worker_id,
            status=ReportStatus.STOPPED,
            reason=reason,
            grace=self.settings.stop_grace,
        )
        if verdict is not Stopped.ENDED:
            return verdict is not Stopped.UNKNOWN
        [fact] = await self._store.fields([worker_id], ("ended", "status", "overruled"))
        how = (fact.get("status"), fact.get("overruled"))
        return int(fact.get("ended", 0)) > since and ReportStatus.STOPPED in how

    async def _tree_is_stopped(self, worker_id: str) -> None:
        """The children of a stopped one are stopped: no janitor needs to."""
        grace = self.settings.stop_grace
        await self._store.expire(f"tree:{worker_id}", grace=grace, cap=MAX_WORKERS)

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


async def _each(ask: Callable[[str], Awaitable[T]], ids: Sequence[str]) -> list[T]:
    """Ask for each, so many at a time; the answers in order."""
    answers: list[T] = []
    for start in range(0, len(ids), STOP_PAGE):
        answers += await asyncio.gather(*map(ask, ids[start : start + STOP_PAGE]))
    return answers


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
