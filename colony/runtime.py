"""`ColonyRuntime`: what a producer asks of a fleet, from an event loop.

    async with ColonyRuntime("survey") as runtime:
        [worker] = await runtime.spawn("Summarise README.md")
        report = await runtime.wait_for_worker(worker)

It knows the colony's id and where Redis is, never the definition's module. The same verbs without
`await` are in `colony.client.ColonyClient`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from pydantic import JsonValue

from colony import tracing
from colony.definition import ColonyConfig
from colony.deliveries import DeliveryVerbs
from colony.errors import (
    InvalidTask,
    NotEnded,
    UnknownWorker,
)
from colony.events import Filter, Handler, Subscription, read_events
from colony.intake import Entrance
from colony.listing import ListVerbs
from colony.models import (
    NOT_NEEDED,
    BatchResult,
    Event,
    OnComplete,
    Report,
    ReportStatus,
    TaskSpec,
    WorkerRecord,
    WorkerState,
)
from colony.operations import unknown_batch, unknown_worker
from colony.sizes import MAX_DURATION
from colony.spawning import (
    Batch,
    Moment,
    SpawnOptions,
    check_answer,
    new_batch,
    on_complete_json,
)
from colony.store.records import is_batch_id, new_batch_id, new_worker_id
from colony.store.workers import NewBatch
from colony.tasks import Limits, check_task, check_tasks
from colony.tokens import TokenVerbs
from colony.triggers.verbs import TriggerVerbs
from colony.waiting import Ended, Waiting


class ColonyRuntime(TriggerVerbs, ListVerbs, DeliveryVerbs, TokenVerbs):
    """The verbs of one colony. Use it as ``async with``; one per event loop serves any number of tasks.

    Every verb raises `StoreUnavailable` within 2 s when Redis is away; one that already waits for
    a report goes on waiting.
    """

    _waiting: Waiting | None = None

    async def __aenter__(self) -> Self:
        tracing.enable(self.settings, "producer")
        await super().__aenter__()
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
        await super().__aexit__(kind, error, trace)

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
        on_complete: OnComplete | str | None = None,
        caller: str | None = None,
    ) -> list[str]:
        """Accept `count` workers for a task and return their ids; they run when a node has a slot.

        When this returns, the workers are kept: a node that dies, or a lost message, delays them.
        The same `idempotency_key` within `idempotency_ttl` returns the first answer and accepts
        nothing; one of `spawn_batch` is refused. `deadline` ends a worker that has not ended by then with
        status timeout; after `soft_deadline` the model is told, in its next turn, to come to an end;
        `not_before` lets it wait without a slot. All three count from the acceptance, and what a worker
        waits for counts, too: a deadline ends one that has not begun, and a soft deadline that passes before
        `not_before` is refused. None is more than ten years off. Where caps
        apply (`max_concurrent_workers`, an agent's `max_concurrent`, `max_concurrent_per_key` of one
        `concurrency_key`), those over them line up first-in first-out; a point of `priority` (-10,000 to
        10,000) is worth a minute of waiting. `require_node` refuses with `NoNodes` when nobody is alive.
        `on_complete`: whom to tell when each of them has ended (a task of your own, or a URL). Raises
        `InvalidTask`, `PipelineRejected` or a `SpawnRefused`. `caller` is whom the pipeline is told of.
        """
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
            on_complete=on_complete_json(on_complete),
        )
        entrance = await self._entrance()
        specs = check_task(task, data, agent, count, entrance.limits)
        if first := await entrance.first_answer(idempotency_key):
            check_answer(idempotency_key, first, batch=False)
            return first
        admitted = await entrance.admit(
            specs[0], count, caller=caller, idempotency_key=idempotency_key
        )
        ids = [new_worker_id() for _ in specs]
        return await self._spawner().spawn(ids, [admitted] * count, entrance.config, options)

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
        caller: str | None = None,
    ) -> Batch:
        """Accept one worker per task, all of them or none; ids in the order of the tasks.

        A task is text, ``{"task": …, "data": …, "agent": …}`` or a `TaskSpec`; at most 10,000. The
        batch is joined once: with all its members (policy ``all``), or with the first good report
        (``any``), or `first_n` of them (``first_n``); those not needed are stopped. At the `deadline`
        stragglers end with status timeout, and the batch is joined. `on_complete` names a Celery task
        of your own that is then sent, or a URL that is called. Raises `InvalidTask` that
        names the index, also for an `idempotency_key` of `spawn`, or a `SpawnRefused`.
        """
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
        entrance = await self._entrance()
        specs = check_tasks(tasks, entrance.limits)
        batch = new_batch(new_batch_id(), len(specs), policy, first_n, on_complete)
        if first := await entrance.first_answer(idempotency_key):
            check_answer(idempotency_key, first, batch=True)
            return _as_batch(first)
        specs = await entrance.admit_batch(specs, caller=caller, idempotency_key=idempotency_key)
        return await self._spawn_batch(specs, batch, entrance.config, options)

    async def retry_batch(self, batch_id: str, *, idempotency_key: str | None = None) -> Batch:
        """Spawn what did not succeed in a batch again, as a new batch with the options of the old one (see
        `retry_worker`) and policy all. Who was only not needed is left out. `InvalidTask` if nobody is left.
        """
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
        old = [r for r in [await self._must_get(w) for w in bad] if not _was_unneeded(r)]
        if not old:
            raise InvalidTask(
                f"batch {batch_id}: every member succeeded or was not needed, there is nothing to retry"
            )
        limits, config = await self._limits()
        specs = check_tasks(
            [TaskSpec(task=o.task, data=o.data, agent=o.agent) for o in old], limits
        )
        batch = new_batch(new_batch_id(), len(specs), "all", None, None)
        return await self._spawn_batch(specs, batch, config, _again(old[0], idempotency_key))

    async def retry_worker(self, worker_id: str, *, idempotency_key: str | None = None) -> str:
        """Spawn a new worker from the task of one that has ended, with its priority, concurrency key, stream,
        correlation and allowed deaths; its deadlines begin anew, unless a parent gave them. Who was to be
        told of the old one (`on_complete`) is not told of the new one. Returns the new id.

        Raises `UnknownWorker`, or `NotEnded` while the old one may still report.
        """
        old = await self._must_get(worker_id)
        if not old.state.terminal:
            raise NotEnded(
                f"worker {worker_id} is {old.state}: only an ended worker can be retried; stop it first"
            )
        limits, config = await self._limits()
        specs = check_task(old.task, old.data, old.agent, 1, limits)
        options = _again(old, idempotency_key)
        new, *others = await self._spawner().spawn([new_worker_id()], specs, config, options)
        if others:
            raise InvalidTask(
                f"idempotency_key {idempotency_key!r} was used by spawn, for {1 + len(others)} workers: "
                "expected a key of its own for the one that is retried; use another"
            )
        return new

    async def retry_quarantined(self, worker_id: str) -> str:
        """`retry_worker`, and drop the old one from quarantine: once, however many ask at the same time.

        Raises `NotQuarantined`.
        """
        await self._must_be_quarantined(worker_id)
        new = await self.retry_worker(worker_id, idempotency_key=f"quarantine/{worker_id}")
        await self._store.drop(worker_id)
        return new

    # -- waiting ----------------------------------------------------------------------------

    async def wait_for_worker(self, worker_id: str, timeout: float | None = None) -> Report | None:
        """The worker's report, now or when it ends. None after `timeout` seconds: still running,
        and left running. Raises `UnknownWorker`, also for the id of a batch."""
        if is_batch_id(worker_id):
            raise UnknownWorker(
                f"{worker_id!r} is the id of a batch: expected one of a worker; wait_for_batch waits for "
                "a batch, and get_batch_members names its workers"
            )
        found = await self._wait().ended(worker_id, timeout)
        if found is False:
            raise unknown_worker(worker_id, self.colony_id)
        return found if isinstance(found, Report) else None

    async def trigger_and_wait(
        self,
        trigger_id: str,
        input: Mapping[str, JsonValue] | None = None,
        *,
        timeout: float | None = None,
        idempotency_key: str | None = None,
    ) -> Report | None:
        """`trigger`, then `wait_for_worker`."""
        worker_id = await self.trigger(trigger_id, input, idempotency_key=idempotency_key)
        return await self.wait_for_worker(worker_id, timeout)

    async def wait_for_batch(
        self, batch_id: str, timeout: float | None = None
    ) -> BatchResult | None:
        """The batch's consolidated result, now or when it is joined. None after `timeout` seconds:
        still open, and left so. Raises `UnknownBatch`, also for the id of a worker."""
        if not is_batch_id(batch_id):
            raise unknown_batch(batch_id, self.colony_id)
        found = await self._wait().ended(batch_id, timeout)
        if found is False:
            raise unknown_batch(batch_id, self.colony_id)
        if isinstance(found, bool):
            return None
        return (await self._must_get_batch(batch_id)).result

    async def wait_for_worker_reports(
        self, ids: Sequence[str], timeout: float = 600.0, *, stop_on_timeout: bool = True
    ) -> list[Report]:
        """The reports of all these workers, in the order of `ids`.

        **After `timeout` seconds the stragglers are STOPPED** and reported with status timeout
        (`stop_on_timeout=False` leaves them running and only says timeout here). 0 looks once, does
        not wait, and **stops whoever has not ended yet**: to look only, say `stop_on_timeout=False`, or
        ask `get_worker_result`. An unknown id, or one of a batch, is reported failed,
        ``no_such_worker``, in its place.
        """
        waiting = self._wait()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        if timeout > 0 and (batch_id := await self._batch_of(ids)) is not None:
            await waiting.ended(batch_id, timeout)  # then each report is there, or about to come
        found = await asyncio.gather(*(_ended(waiting, w, until - loop.time()) for w in ids))
        late = [w for w, report in zip(ids, found, strict=True) if report is True]
        if late and stop_on_timeout:
            await self._time_out(late, timeout)
        if late:
            settled = dict(
                zip(late, await self._store.wait_for(late, ttl=timedelta(seconds=60)), strict=True)
            )
            found = [settled.get(w, r) for w, r in zip(ids, found, strict=True)]
        return [_report_or_excuse(w, r, timeout) for w, r in zip(ids, found, strict=True)]

    # -- events -----------------------------------------------------------------------------

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
        now = await self._store.latest_event()
        events = self.events(types=types, stream_id=stream_id, worker_id=worker_id, after=now)
        return Subscription(events, handler)

    # -- inside -----------------------------------------------------------------------------

    def _wait(self) -> Waiting:
        if self._waiting is None:
            raise RuntimeError(
                "ColonyRuntime is not open: use it as 'async with ColonyRuntime(…) as runtime'"
            )
        return self._waiting

    async def _batch_of(self, ids: Sequence[str]) -> str | None:
        """The batch whose members these are, all of them and nobody else."""
        if isinstance(ids, Batch):
            return ids.id
        first = await self.get_worker(ids[0]) if len(ids) > 1 else None
        if first is None or first.batch_id is None:
            return None
        members = await self._store.members(first.batch_id, 0, len(ids) + 1)
        return first.batch_id if sorted(members) == sorted(ids) else None

    async def _limits(self) -> tuple[Limits, ColonyConfig]:
        self._wait()
        return await super()._limits()

    async def _entrance(self) -> Entrance:
        self._wait()
        return await super()._entrance()

    async def _spawn_batch(
        self,
        specs: Sequence[TaskSpec],
        batch: NewBatch,
        config: ColonyConfig,
        options: SpawnOptions,
    ) -> Batch:
        ids = [new_worker_id() for _ in specs]
        accepted = await self._spawner().spawn(ids, specs, config, options, batch=batch)
        return Batch(batch.batch_id, ids) if accepted == ids else _as_batch(accepted)

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


def _again(old: WorkerRecord, idempotency_key: str | None) -> SpawnOptions:
    """The options with which a worker was spawned, for a new one. A child's deadline may be its parent's."""

    def as_long(until: datetime | None) -> timedelta | None:
        return None if until is None else min(until - old.created_at, MAX_DURATION)

    return SpawnOptions(
        correlation_id=old.correlation_id,
        deadline=None if old.parent_id else as_long(old.deadline),
        priority=old.priority,
        idempotency_key=idempotency_key,
        stream_id=None if old.stream_id == f"worker:{old.worker_id}" else old.stream_id,
        soft_deadline=as_long(old.soft_deadline),
        concurrency_key=old.concurrency_key,
        max_resurrections=old.max_resurrections,
    )


def _was_unneeded(member: WorkerRecord) -> bool:
    """Whether its batch was joined without it; it may not have ended yet."""
    return member.report is None or member.report.error == NOT_NEEDED


def _as_batch(first: Sequence[str]) -> Batch:
    """The first answer to the idempotency key of a batch."""
    assert isinstance(first, Batch)  # `check_answer` has refused every other
    return first


async def _ended(waiting: Waiting, worker_id: str, timeout: float) -> Ended | bool:
    """As `Waiting.ended`, of workers only."""
    return False if is_batch_id(worker_id) else await waiting.ended(worker_id, timeout)


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
