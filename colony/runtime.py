"""`ColonyRuntime`: what a producer asks of a fleet, from an event loop.

    async with ColonyRuntime("survey") as runtime:
        [worker] = await runtime.spawn("Summarise README.md")
        report = await runtime.wait_for_worker(worker)

It knows the colony's id and where Redis is, never the definition's module. The same verbs without
`await` are in `colony.client.ColonyClient`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from pydantic import JsonValue

from colony.conversation import Part
from colony.definition import ColonyConfig
from colony.doorbell import Doorbells, celery_app
from colony.errors import (
    InvalidTask,
    NotEnded,
    NotQuarantined,
    UnknownBatch,
    UnknownColony,
    UnknownNode,
    UnknownWorker,
)
from colony.events import Filter, Handler, Subscription, read_events
from colony.models import (
    BatchRecord,
    BatchResult,
    Event,
    FleetStats,
    Limit,
    NodeInfo,
    OnComplete,
    Rejected,
    Report,
    ReportStatus,
    TaskSpec,
    WorkerRecord,
    WorkerState,
)
from colony.settings import Settings
from colony.spawning import Batch, Moment, Spawner, SpawnOptions, new_batch
from colony.store import Link, Stopped, Store
from colony.store.keys import COLONIES
from colony.store.records import CAPS, limits_of, new_batch_id, new_worker_id
from colony.tasks import MAX_WORKERS, Limits, check_task, check_tasks
from colony.waiting import Waiting

log = logging.getLogger("colony.runtime")

STOP_PAGE = 500


class ColonyRuntime:
    """The verbs of one colony. Use it as ``async with``; one per event loop serves any number of tasks.

    Every verb raises `StoreUnavailable` within 2 s when Redis is away; one that already waits for
    a report goes on waiting.
    """

    def __init__(
        self,
        colony_id: str,
        *,
        redis_url: str | None = None,
        broker_url: str | None = None,
        settings: Settings | None = None,
    ) -> None:
        given = {"redis_url": redis_url, "broker_url": broker_url}
        base = settings or Settings()
        self.settings = base.model_copy(update={k: v for k, v in given.items() if v is not None})
        self.colony_id = colony_id
        self._link = Link(self.settings.redis_url, patience=self.settings.connect_timeout)
        self._store = Store(self._link, colony_id)
        self._doorbells = Doorbells(celery_app(colony_id, self.settings), colony_id, self.settings)
        self._waiting: Waiting | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._store.check_schema()
        except BaseException:
            await self._link.close()
            raise
        self._waiting = Waiting(self._store)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._waiting is not None:
            await self._waiting.close()
        await self._link.close()
        await asyncio.to_thread(self._doorbells.close)

    # -- spawning ---------------------------------------------------------------------------

    async def spawn(
        self,
        task: str,
        *,
        count: int = 1,
        data: Mapping[str, JsonValue] | None = None,
        agent: str | None = None,
        correlation_id: str | None = None,
        deadline: Moment = None,
        not_before: Moment = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        stream_id: str | None = None,
        require_node: bool = False,
        soft_deadline: timedelta | None = None,
        concurrency_key: str | None = None,
    ) -> list[str]:
        """Accept `count` workers for a task and return their ids; they run when a node has a slot.

        When this returns, the workers are kept: a node that dies, or a lost message, delays them.
        The same `idempotency_key` within `idempotency_ttl` returns the first answer and accepts
        nothing. `deadline` ends a worker that has not ended by then with status timeout; after
        `soft_deadline` the model is told, in its next turn, to come to an end;
        `not_before` lets it wait without a slot. Where caps
        apply (`max_concurrent_workers`, an agent's `max_concurrent`, `max_concurrent_per_key` of one
        `concurrency_key`), those over them line up first-in first-out; a point of `priority` is worth
        a minute of waiting. `require_node` refuses with `NoNodes` when nobody is alive. Raises
        `InvalidTask` or a `SpawnRefused`.
        """
        limits, config = await self._limits()
        specs = check_task(task, data, agent, count, limits)
        options = SpawnOptions(
            correlation_id,
            deadline,
            not_before,
            priority,
            idempotency_key,
            stream_id,
            require_node,
            soft_deadline,
            concurrency_key,
        )
        return await self._spawner().spawn([new_worker_id() for _ in specs], specs, config, options)

    async def spawn_batch(
        self,
        tasks: Sequence[str | Mapping[str, Any] | TaskSpec],
        *,
        policy: str = "all",
        first_n: int | None = None,
        on_complete: OnComplete | str | None = None,
        correlation_id: str | None = None,
        deadline: Moment = None,
        not_before: Moment = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        stream_id: str | None = None,
        require_node: bool = False,
        soft_deadline: timedelta | None = None,
        concurrency_key: str | None = None,
    ) -> Batch:
        """Accept one worker per task, all of them or none; ids in the order of the tasks.

        A task is text, ``{"task": …, "data": …, "agent": …}`` or a `TaskSpec`; at most 10,000. The
        batch is joined once: with all its members (policy ``all``), or with the first good report
        (``any``), or `first_n` of them (``first_n``); those not needed are stopped. At the `deadline`
        stragglers end with status timeout, and the batch is joined. `on_complete` names a Celery task
        of your own that is then sent. Raises `InvalidTask` that names the index, or a `SpawnRefused`.
        """
        limits, config = await self._limits()
        specs = check_tasks(tasks, limits)
        batch = new_batch(new_batch_id(), len(specs), policy, first_n, on_complete)
        options = SpawnOptions(
            correlation_id,
            deadline,
            not_before,
            priority,
            idempotency_key,
            stream_id,
            require_node,
            soft_deadline,
            concurrency_key,
        )
        ids = [new_worker_id() for _ in specs]
        accepted = await self._spawner().spawn(ids, specs, config, options, batch=batch)
        if accepted != ids:  # the first answer to the same idempotency key
            first = await self._must_get(accepted[0])
            return Batch(first.batch_id or "", accepted)
        return Batch(batch.batch_id, ids)

    async def retry_batch(self, batch_id: str) -> Batch:
        """Spawn what did not succeed in a batch again, as a new batch; `InvalidTask` if all did."""
        record = await self._must_get_batch(batch_id)
        if record.result is None:
            raise NotEnded(
                f"batch {batch_id} is not joined yet: wait for it, or stop its workers first"
            )
        bad = [
            m.worker_id
            for m in record.result.members
            if m.status.state is not WorkerState.COMPLETED
        ]
        if not bad:
            raise InvalidTask(
                f"batch {batch_id}: every member succeeded, there is nothing to retry"
            )
        old = [await self._must_get(worker_id) for worker_id in bad]
        specs = [TaskSpec(task=o.task, data=o.data, agent=o.agent) for o in old]
        return await self.spawn_batch(specs, correlation_id=record.result.correlation_id)

    async def retry_worker(self, worker_id: str) -> str:
        """Spawn a new worker from the task of one that has ended; returns the new id.

        Raises `UnknownWorker`, or `NotEnded` while the old one may still report.
        """
        old = await self._must_get(worker_id)
        if not old.state.terminal:
            raise NotEnded(
                f"worker {worker_id} is {old.state}: only an ended worker can be retried; stop it first"
            )
        [new] = await self.spawn(
            old.task,
            data=old.data,
            agent=old.agent,
            correlation_id=old.correlation_id,
            priority=old.priority,
            stream_id=None if old.stream_id == f"worker:{worker_id}" else old.stream_id,
        )
        return new

    # -- quarantine -------------------------------------------------------------------------

    async def list_quarantine(self, limit: int = 100) -> list[WorkerRecord]:
        """The workers that were lost because their nodes died under them more often than
        `max_resurrections`, newest first; retention leaves them alone (up to `quarantine_max`)."""
        return await self._store.quarantined(limit)

    async def retry_quarantined(self, worker_id: str) -> str:
        """`retry_worker`, and drop the old one from quarantine. Raises `NotQuarantined`."""
        await self._must_be_quarantined(worker_id)
        new = await self.retry_worker(worker_id)
        await self._store.drop(worker_id)
        return new

    async def drop_quarantined(self, worker_id: str) -> None:
        """Forget a worker from quarantine; its record is then kept as long as any. `NotQuarantined`."""
        await self._must_be_quarantined(worker_id)
        await self._store.drop(worker_id)

    # -- waiting ----------------------------------------------------------------------------

    async def wait_for_worker(self, worker_id: str, timeout: float | None = None) -> Report | None:
        """The worker's report, now or when it ends. None after `timeout` seconds: still running,
        and left running. Raises `UnknownWorker`."""
        found = await self._wait().ended(worker_id, timeout)
        if found is False:
            raise _unknown(worker_id, self.colony_id)
        return found if isinstance(found, Report) else None

    async def wait_for_batch(
        self, batch_id: str, timeout: float | None = None
    ) -> BatchResult | None:
        """The batch's consolidated result, now or when it is joined. None after `timeout` seconds:
        still open, and left so. Raises `UnknownBatch`."""
        found = await self._wait().ended(batch_id, timeout)
        if found is False:
            raise _unknown_batch(batch_id, self.colony_id)
        if isinstance(found, bool):
            return None
        return (await self._must_get_batch(batch_id)).result

    async def wait_for_worker_reports(
        self, ids: Sequence[str], timeout: float = 600.0, *, stop_on_timeout: bool = True
    ) -> list[Report]:
        """The reports of all these workers, in the order of `ids`.

        **After `timeout` seconds the stragglers are STOPPED** and reported with status timeout
        (`stop_on_timeout=False` leaves them running and only says timeout here). 0 looks once and
        does not wait. An unknown id is reported failed, ``no_such_worker``, in its place.
        """
        waiting = self._wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        if isinstance(ids, Batch) and timeout > 0:
            await waiting.ended(ids.id, timeout)  # then each report is there, or about to come
        found = await asyncio.gather(*(waiting.ended(w, until - loop.time()) for w in ids))
        late = [w for w, report in zip(ids, found, strict=True) if report is True]
        if late and stop_on_timeout:
            await self._time_out(late, timeout)
        if late:
            settled = dict(
                zip(late, await self._store.wait_for(late, ttl=timedelta(seconds=60)), strict=True)
            )
            found = [settled.get(w, r) for w, r in zip(ids, found, strict=True)]
        return [_report_or_excuse(w, r, timeout) for w, r in zip(ids, found, strict=True)]

    # -- stopping ---------------------------------------------------------------------------

    async def stop_worker(self, worker_id: str, reason: str | None = None) -> bool:
        """Stop a worker: at once when it waits, within `stop_grace` when it runs. A report it has
        filed stands. False when it had ended before. Raises `UnknownWorker`."""
        verdict = await self._store.stop(
            worker_id,
            status=ReportStatus.STOPPED,
            reason=reason or "Worker was stopped before it ended.",
            grace=self.settings.stop_grace,
        )
        if verdict is Stopped.UNKNOWN:
            raise _unknown(worker_id, self.colony_id)
        await self._stop_children(worker_id)
        return verdict is not Stopped.ENDED

    async def stop_batch(self, batch_id: str, reason: str | None = None) -> int:
        """Stop every worker of a batch that has not ended, with its children; returns how many."""
        record = await self._must_get_batch(batch_id)
        ids = await self._store.members(batch_id, 0, record.size)
        return await self._stop_each(ids, reason or "The batch was stopped.")

    async def stop_all_workers(self, reason: str | None = None) -> int:
        """Stop every worker that has not ended; returns how many were stopped or told to."""
        stopped = 0
        for state in (WorkerState.PENDING, WorkerState.PARKED, WorkerState.RUNNING):
            ids = await self._store.ids_in(state)
            stopped += await self._stop_each(ids, reason or "All workers were stopped.")
        return stopped

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
            raise _unknown_batch(batch_id, self.colony_id)
        found = await self._store.wait_for(ids, ttl=timedelta(seconds=60))
        return [report if isinstance(report, Report) else None for report in found]

    async def get_children(self, worker_id: str) -> list[str]:
        """The ids of the workers that a worker has spawned."""
        return await self._store.children(worker_id)

    async def get_conversation(self, worker_id: str) -> list[Part]:
        """The worker's conversation so far, as `colony.conversation` describes it."""
        return await self._store.conversation(worker_id)

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
            raise _unknown_colony(self.colony_id)
        return stats

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

    async def list_rejected(self, limit: int = 100) -> list[Rejected]:
        """Messages on the queue that were set aside, newest first."""
        return await self._store.rejected(limit)

    async def queue_depth(self) -> int:
        """How many doorbells wait in the Celery queue."""
        depth, _ = await asyncio.to_thread(self._doorbells.depth)
        return depth

    # -- events and intake ------------------------------------------------------------------

    def events(
        self,
        *,
        types: Iterable[str] | None = None,
        stream_id: str | None = None,
        worker_id: str | None = None,
        after: str | None = None,
        follow: bool = True,
    ) -> AsyncGenerator[Event, None]:
        """What happens: after event `after` (``"0"``: all that is kept; None: from now on), then live.

        `follow=False` ends with what is kept. Each kept event comes once and in order; what can no
        longer be told is announced by an event of type ``gap`` (see `colony.events`).
        """
        return read_events(
            self._store, Filter.of(types, stream_id, worker_id), after=after, follow=follow
        )

    async def subscribe(
        self,
        handler: Handler,
        *,
        types: Iterable[str] | None = None,
        stream_id: str | None = None,
        worker_id: str | None = None,
    ) -> Subscription:
        """Call `handler` (sync or async) for every event from now on, until ``close()``."""
        face = await self._store.face()
        now = f"{face.get('generation', 1)}-{face.get('events', 0)}"
        events = self.events(types=types, stream_id=stream_id, worker_id=worker_id, after=now)
        return Subscription(events, handler)

    async def set_limit(self, name: str, most: int | None) -> None:
        """Set a cap while the fleet runs: ``max_concurrent_workers``, ``max_concurrent_per_key``, or
        ``agent:<name>``; None gives it back to the definition. Raises `UnknownColony`, `InvalidTask`."""
        cap = CAPS.get(name, name)
        if cap not in CAPS.values() and not cap.startswith("agent:"):
            raise InvalidTask(f"limit {name!r} is unknown: {', '.join(CAPS)} or agent:<name>")
        if most is not None and most < 1:
            raise InvalidTask(
                f"limit {name}: expected at least 1, got {most}; pause_intake stops new work"
            )
        if not await self._store.set_limit(cap, most):
            raise _unknown_colony(self.colony_id)

    async def get_limits(self) -> list[Limit]:
        """The caps that `set_limit` can change. Raises `UnknownColony`."""
        face = await self._store.face()
        if "id" not in face:
            raise _unknown_colony(self.colony_id)
        return limits_of(face)

    async def pause_intake(self) -> None:
        """Refuse new work (`IntakePaused`) until `resume_intake`; what was accepted runs on."""
        await self._set_intake(paused=True)

    async def resume_intake(self) -> None:
        """Accept new work again."""
        await self._set_intake(paused=False)

    # -- inside -----------------------------------------------------------------------------

    def _wait(self) -> Waiting:
        if self._waiting is None:
            raise RuntimeError(
                "ColonyRuntime is not open: use it as 'async with ColonyRuntime(…) as runtime'"
            )
        return self._waiting

    async def _limits(self) -> tuple[Limits, ColonyConfig]:
        self._wait()
        face = await self._store.face()
        if "id" not in face:
            raise _unknown_colony(self.colony_id)
        config = ColonyConfig.model_validate_json(face["config"])
        agents = frozenset(agent["name"] for agent in json.loads(face["agents"]))
        return Limits(config.max_task_bytes, config.max_data_bytes, agents), config

    def _spawner(self) -> Spawner:
        return Spawner(self._store, self._doorbells, self.settings.ring_again_after)

    async def _time_out(self, ids: Sequence[str], timeout: float) -> None:
        await asyncio.gather(
            *(
                self._store.stop(
                    worker_id,
                    status=ReportStatus.TIMEOUT,
                    reason=f"Worker did not report within {timeout:g}s.",
                    grace=timedelta(0),
                )
                for worker_id in ids
            )
        )

    async def _stop_each(self, ids: Sequence[str], reason: str) -> int:
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
            raise _unknown(worker_id, self.colony_id)
        return record

    async def _must_be_quarantined(self, worker_id: str) -> None:
        if not await self._store.is_quarantined(worker_id):
            raise NotQuarantined(
                f"worker {worker_id!r} is not in quarantine: see who is with list_quarantine or "
                "`colony quarantine list`"
            )

    async def _must_get_batch(self, batch_id: str) -> BatchRecord:
        record = await self._store.batch(batch_id)
        if record is None:
            raise _unknown_batch(batch_id, self.colony_id)
        return record

    async def _set_intake(self, *, paused: bool) -> None:
        if not await self._store.set_intake(paused=paused):
            raise _unknown_colony(self.colony_id)


async def list_colonies(settings: Settings | None = None) -> list[str]:
    """The ids of all colonies that were ever registered in this Redis."""
    base = settings or Settings()
    link = Link(base.redis_url, patience=base.connect_timeout)
    try:
        return sorted(await link.call("SMEMBERS", COLONIES))
    finally:
        await link.close()


def _unknown(worker_id: str, colony_id: str) -> UnknownWorker:
    return UnknownWorker(
        f"there is no worker {worker_id!r} in colony {colony_id!r}: check the id; ended workers are "
        "forgotten after result_retention_max and result_retention_ttl"
    )


def _unknown_batch(batch_id: str, colony_id: str) -> UnknownBatch:
    return UnknownBatch(
        f"there is no batch {batch_id!r} in colony {colony_id!r}: check the id; a batch is forgotten "
        "with the last of its workers"
    )


def _unknown_colony(colony_id: str) -> UnknownColony:
    return UnknownColony(
        f"no node has ever served a colony named {colony_id!r} in this Redis: check the name, "
        "or start a node with: colony worker module:colony"
    )


def _report_or_excuse(worker_id: str, found: Report | BatchResult | bool, timeout: float) -> Report:
    if isinstance(found, Report):
        return found
    if found:
        return Report(
            worker_id=worker_id,
            status=ReportStatus.TIMEOUT,
            summary=f"Worker did not report within {timeout:g}s.",
            error="timeout",
        )
    return Report(
        worker_id=worker_id,
        status=ReportStatus.FAILED,
        summary="There is no such worker.",
        error="no_such_worker",
    )
