"""Spawning: from tasks to accepted workers and rung doorbells, for producers and for agents alike.

Record first, doorbell second: when `Spawner.spawn` returns, the workers are kept, whatever becomes
of the broker; a janitor rings for those whose doorbell was not sent.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from colony import tracing
from colony.bell import Bell
from colony.definition import ColonyConfig
from colony.errors import InvalidTask
from colony.models import OnComplete, TaskSpec, from_ms
from colony.sizes import check_duration, check_label, check_moment, check_priority, is_whole
from colony.store import Accepted, Ring, Store
from colony.store.records import new_record
from colony.store.triggers import Fire
from colony.store.workers import Batch as Batch
from colony.store.workers import NewBatch, NewWorker, Parent, Policy

log = logging.getLogger("colony.spawning")

Moment = timedelta | datetime | None
"""A duration from now, which is the acceptance by Redis' clock, or a time with a zone."""


@dataclass(frozen=True, slots=True)
class SpawnOptions:
    """What applies to all workers of one call; see `ColonyRuntime.spawn`."""

    correlation_id: str | None = None
    deadline: Moment = None
    not_before: Moment = None
    priority: int = 0
    idempotency_key: str | None = None
    stream_id: str | None = None
    require_node: bool = False
    soft_deadline: timedelta | None = None
    concurrency_key: str | None = None
    on_complete: str = field(default="", kw_only=True)
    """What `on_complete_json` made."""
    trigger_id: str | None = None
    max_resurrections: int | None = None
    cause: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises `InvalidTask` for the first that nobody can mean, or that could not be read again."""
        check_moment("deadline", self.deadline)
        check_moment("not_before", self.not_before)
        check_duration("soft_deadline", self.soft_deadline)
        if isinstance(self.not_before, timedelta):
            self.check_soft_deadline(self.not_before)
        check_priority(self.priority)
        check_label("correlation_id", self.correlation_id)
        check_label("idempotency_key", self.idempotency_key)
        check_label("stream_id", self.stream_id)
        check_label("concurrency_key", self.concurrency_key)

    def check_soft_deadline(self, wait: timedelta) -> None:
        """Raises `InvalidTask` for one that has passed when, after a wait, the worker may begin."""
        is_past = self.soft_deadline is not None and self.soft_deadline <= wait
        if is_past and wait > timedelta(0):
            raise InvalidTask(
                f"soft_deadline: expected more than not_before, which is {wait} from now, got "
                f"{self.soft_deadline}: both count from the acceptance, so the worker would be told to come "
                "to an end before it begins; add the time that it may take to not_before"
            )


@dataclass(frozen=True, slots=True)
class Spawner:
    """Accepts workers and rings for them."""

    store: Store
    bell: Bell
    ring_again_after: timedelta
    default_agent: str = field(default="agent")

    async def spawn(
        self,
        ids: Sequence[str],
        specs: Sequence[TaskSpec],
        config: ColonyConfig,
        options: SpawnOptions,
        *,
        batch: NewBatch | None = None,
        parent: Parent | None = None,
    ) -> list[str]:
        """Accept one worker per spec, all or none, and ring. Returns the ids that count: those of the
        first answer to the same idempotency key. Raises `InvalidTask` where that is of another kind."""
        accepted, rings = await self.accept(ids, specs, config, options, batch=batch, parent=parent)
        if rings:
            await self.bell.ring(rings, chord_of=batch.batch_id if batch else "")
        return accepted

    async def accept(
        self,
        ids: Sequence[str],
        specs: Sequence[TaskSpec],
        config: ColonyConfig,
        options: SpawnOptions,
        *,
        batch: NewBatch | None = None,
        parent: Parent | None = None,
        fire: Fire | None = None,
    ) -> tuple[list[str], list[Ring]]:
        """`spawn` without the doorbells: whom to ring for is returned, too."""
        if options.soft_deadline is not None and isinstance(options.not_before, datetime):
            options.check_soft_deadline(options.not_before - from_ms(await self.store.now_ms()))
        with tracing.span(f"create_agent {self.store.colony_id}", {}, kind="PRODUCER") as span:
            workers = [self._new(w, spec, options) for w, spec in zip(ids, specs, strict=True)]
            verdict, accepted = await self.store.accept(
                workers,
                ring_again_after=self.ring_again_after,
                idempotency_key=options.idempotency_key,
                idempotency_ttl=config.idempotency_ttl,
                deadline=options.deadline,
                not_before=options.not_before,
                require_node=options.require_node,
                batch=batch,
                parent=parent,
                fire=fire,
            )
            if tracing.is_on():
                span.set(self._about(accepted, specs, batch, fire))
        if verdict is Accepted.KNOWN:
            check_answer(options.idempotency_key, accepted, batch=batch is not None)
        if verdict is not Accepted.NOW:
            return accepted, []
        where = batch.batch_id if batch else ""
        return accepted, [
            Ring(worker_id, spec.agent or self.default_agent, where, index)
            for index, (worker_id, spec) in enumerate(zip(accepted, specs, strict=True))
        ]

    def _about(
        self,
        ids: Sequence[str],
        specs: Sequence[TaskSpec],
        batch: NewBatch | None,
        fire: Fire | None,
    ) -> tracing.Attributes:
        """What a trace tells of a spawn."""
        return {
            "gen_ai.operation.name": "create_agent",
            "gen_ai.agent.name": specs[0].agent or self.default_agent,
            "gen_ai.agent.id": ids[0],
            "colony.id": self.store.colony_id,
            "colony.workers": len(ids),
            **({"colony.batch": batch.batch_id} if batch else {}),
            **({"colony.trigger": fire.trigger} if fire else {}),
        }

    def _new(self, worker_id: str, spec: TaskSpec, options: SpawnOptions) -> NewWorker:
        fields = new_record(
            worker_id,
            spec.task,
            data=spec.data,
            agent=spec.agent,
            correlation_id=options.correlation_id,
            stream_id=options.stream_id,
            priority=options.priority,
            soft_deadline=options.soft_deadline,
            concurrency_key=options.concurrency_key,
            trigger_id=options.trigger_id,
            max_resurrections=options.max_resurrections,
            cause=options.cause,
            traceparent=tracing.current(),
        )
        if options.on_complete:
            fields["on_complete"] = options.on_complete
        return worker_id, fields


def new_batch(
    batch_id: str, size: int, policy: str, first_n: int | None, on_complete: OnComplete | str | None
) -> NewBatch:
    """A batch's policy, checked. Raises `InvalidTask`."""
    try:
        kind = Policy(policy)
    except ValueError as error:
        known = ", ".join(Policy)
        raise InvalidTask(f"policy: expected one of {known}, got {policy!r}") from error
    if (kind is Policy.FIRST_N) != (first_n is not None):
        raise InvalidTask("first_n goes with policy='first_n', and that policy needs it")
    if first_n is not None and (not is_whole(first_n) or not 1 <= first_n <= size):
        raise InvalidTask(f"first_n: expected 1 to {size} (the size of the batch), got {first_n!r}")
    need = {Policy.ALL: size + 1, Policy.ANY: 1}.get(kind, first_n or 0)
    return NewBatch(batch_id, kind, need, on_complete_json(on_complete))


def check_answer(key: str | None, first: Sequence[str], *, batch: bool) -> None:
    """Raises `InvalidTask` where the first answer to a key is a batch and none was asked for, or the
    other way round: it would be taken for what it is not."""
    if isinstance(first, Batch) and not batch:
        raise InvalidTask(
            f"idempotency_key {key!r} was used by spawn_batch, for batch {first.id}: expected a key of "
            "its own for workers that are no batch; use another"
        )
    if batch and not isinstance(first, Batch):
        raise InvalidTask(
            f"idempotency_key {key!r} was used by spawn, for worker {first[0]}: expected a key of its "
            "own for a batch; use another"
        )


def on_complete_json(on_complete: OnComplete | str | None) -> str:
    """Whom to tell, as the store keeps it; a text is a task's name. "" for nobody."""
    if isinstance(on_complete, str):
        on_complete = OnComplete(task=on_complete)
    return on_complete.model_dump_json(exclude_none=True) if on_complete else ""
