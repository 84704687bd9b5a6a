"""The tasks that Celery clients in any language send to a colony: spawn, spawn_batch and trigger.

Send them by name to the queue ``colony.<id>.intake`` in the colony's broker: message protocol 2, JSON. A
client library writes this there; a client without one can push it itself, with LPUSH::

    {"headers": {"task": "colony.spawn", "id": "4a0b2c5e-73f1"},
     "properties": {"correlation_id": "4a0b2c5e-73f1"},
     "content-type": "application/json", "content-encoding": "utf-8",
     "body": "[[], {\\"task\\": \\"Survey\\", \\"data\\": {\\"path\\": \\"LICENSE\\"}}, {}]"}

``body`` is text that holds JSON: positional arguments, named ones, and what Celery embeds (callbacks,
errbacks, chain, chord). With ``"body_encoding": "base64"`` in the properties it is that text in base64.

*Arguments*: those of `Spawn`, `SpawnBatch` and `Trigger`, by name; the first may also be positional.
*Result*: ``{"worker_ids": ["w…", …], "batch_id": null | "b…"}``, ids in the order of the tasks, as soon as
the workers are accepted. It goes to the result backend (the broker's Redis, unless the message says
``ignore_result``), and to what is linked. It may get more keys one day; these two stay.

*The same task id is the same spawn*, as long as the workers' records are kept: a message that comes twice is
accepted once, and answered twice. Never use a task id for two tasks. `eta` (countdown) is taken as
`not_before` (deadlines count from the acceptance all the same); past its `expires` a message is revoked.
Retries, time limits and priorities mean nothing here.

*Refused* (`InvalidTask`, …): nothing is accepted, the task FAILS with that error, it counts as
``intake_refused``, and is set aside with its reason (`colony doctor`). *Paused, full, Redis in trouble*: the
message waits in the queue, and is tried again every few seconds; those behind it wait, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from colony.deliveries import why_not_named
from colony.doorbell import SPAWN, SPAWN_BATCH, TRIGGER
from colony.errors import ColonyError, InvalidTask
from colony.models import OnComplete
from colony.runtime import ColonyRuntime
from colony.sizes import MAX_PRIORITY, MAX_SECONDS
from colony.spawning import Moment
from colony.store.records import ids_from, new_batch_id, new_worker_id
from colony.tasks import MAX_WORKERS
from workers.coroutine_task import CoroutineTask
from workers.intake.message import Call

Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=255)]
Result = dict[str, Any]


class Arguments(BaseModel):
    """The arguments of one of these tasks."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    first: ClassVar[str]
    """The argument that may be positional."""

    @classmethod
    def of(cls, call: Call) -> Self:
        """The arguments of a call. Raises `InvalidTask` that names the first that is wrong."""
        if len(call.args) > 1:
            raise InvalidTask(
                f"{call.name} takes one positional argument, {cls.first}: got {len(call.args)}; "
                "name the others"
            )
        given = dict(zip([cls.first], call.args, strict=False))
        if given.keys() & call.kwargs.keys():
            raise InvalidTask(f"{call.name}: {cls.first} is given twice, by position and by name")
        try:
            return cls.model_validate({**given, **call.kwargs})
        except ValidationError as error:
            raise InvalidTask(f"{call.name}: {cls._told(error.errors()[0])}") from error

    @classmethod
    def _told(cls, error: ErrorDetails) -> str:
        field = ".".join(str(part) for part in error["loc"])
        if error["type"] == "missing":
            return f"{field} is missing"
        if error["type"] == "extra_forbidden":
            return f"unknown argument {field!r}; known are {', '.join(cls.model_fields)}"
        return f"{field}: {error['msg'].lower()}, got {error['input']!r:.50}"

    def ids(self) -> Result:
        """What `accept` returns when nothing else has the same idempotency key."""
        raise NotImplementedError

    async def accept(self, runtime: ColonyRuntime, eta: datetime | None) -> Result:
        """Accept what is asked for. Raises a `ColonyError`."""
        raise NotImplementedError


class Options(BaseModel):
    """What applies to all workers of one call, as `ColonyRuntime.spawn` describes it."""

    correlation_id: Text | None = None
    deadline_seconds: Seconds | None = None
    soft_deadline_seconds: Seconds | None = None
    not_before_seconds: Seconds | None = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    idempotency_key: Text | None = None
    stream_id: Text | None = None
    concurrency_key: Text | None = None

    def options(self, eta: datetime | None) -> dict[str, Any]:
        """The same as `ColonyRuntime.spawn` takes them."""
        return {
            "correlation_id": self.correlation_id,
            "deadline": _duration(self.deadline_seconds),
            "soft_deadline": _duration(self.soft_deadline_seconds),
            "not_before": _duration(self.not_before_seconds) or _later(eta),
            "priority": self.priority,
            "idempotency_key": self.idempotency_key,
            "stream_id": self.stream_id,
            "concurrency_key": self.concurrency_key,
        }


class Spawn(Arguments, Options):
    """``colony.spawn``: `count` workers for one task."""

    first = "task"

    task: str
    data: dict[str, JsonValue] | None = None
    agent: str | None = None
    count: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = 1

    def ids(self) -> Result:
        """Theirs."""
        return _result(new_worker_id() for _ in range(self.count))

    async def accept(self, runtime: ColonyRuntime, eta: datetime | None) -> Result:
        """As `ColonyRuntime.spawn`."""
        return _result(
            await runtime.spawn(
                self.task,
                data=self.data,
                agent=self.agent,
                count=self.count,
                **self.options(eta),
            )
        )


class SpawnBatch(Arguments, Options):
    """``colony.spawn_batch``: a worker for each task, and one consolidated result. A task is text, or
    ``{"task": …, "data": …, "agent": …}``; `on_complete` is the name of a task of yours, or
    ``{"task": …, "queue": …}``, or ``{"url": …, "secret": …}`` with secrets that COLONY_CALLBACK_SECRETS
    lists."""

    first = "tasks"

    tasks: Annotated[list[Any], Field(min_length=1, max_length=MAX_WORKERS)]
    policy: str = "all"
    first_n: int | None = None
    on_complete: str | OnComplete | None = None

    def ids(self) -> Result:
        """The batch's first, then those of its workers."""
        batch_id = new_batch_id()
        return _result((new_worker_id() for _ in self.tasks), batch_id)

    async def accept(self, runtime: ColonyRuntime, eta: datetime | None) -> Result:
        """As `ColonyRuntime.spawn_batch`."""
        told = None if isinstance(self.on_complete, str) else self.on_complete
        if wrong := why_not_named(told, runtime.settings.callback_secrets):
            raise InvalidTask(f"{SPAWN_BATCH}: on_complete.secret: {wrong}")
        batch = await runtime.spawn_batch(
            self.tasks,
            policy=self.policy,
            first_n=self.first_n,
            on_complete=self.on_complete,
            **self.options(eta),
        )
        return _result(batch, batch.id)


class Trigger(Arguments):
    """``colony.trigger``: fire a trigger. `input` is what its task may name."""

    first = "trigger_id"

    trigger_id: Text
    input: dict[str, JsonValue] | None = None
    idempotency_key: Text | None = None

    def ids(self) -> Result:
        """That of its one worker."""
        return _result([new_worker_id()])

    async def accept(self, runtime: ColonyRuntime, eta: datetime | None) -> Result:
        """As `ColonyRuntime.trigger`, now: an eta means nothing."""
        key = self.idempotency_key
        return _result([await runtime.trigger(self.trigger_id, self.input, idempotency_key=key)])


class IntakeTask(CoroutineTask):
    """Celery's face of such a task. The taker runs `accept`, then Celery's tracer with what came of it."""

    acks_late = True
    reject_on_worker_lost = True
    ignore_result = False
    typing = False
    throws = (ColonyError,)

    def __init__(self, name: str, arguments: type[Arguments], max_pending: int) -> None:
        self.name = name
        self._arguments = arguments
        self._max_pending = max_pending

    async def accept(self, runtime: ColonyRuntime, call: Call) -> Result:
        """Accept what is asked for, once per task id. Raises a `ColonyError`."""
        asked = self._arguments.of(call)
        with ids_from(call.task_id):
            own = asked.ids()
        if await runtime.get_worker(own["worker_ids"][0]) is not None:
            return own
        if (size := len(own["worker_ids"])) > self._max_pending:
            raise InvalidTask(
                f"{call.name}: {size} workers, but at most {self._max_pending} may wait (max_pending)"
            )
        try:
            with ids_from(call.task_id):
                return await asked.accept(runtime, call.eta)
        except UnicodeEncodeError as error:  # JSON can say half of a character
            raise InvalidTask(f"{call.name}: a text is not Unicode: {error}") from error


def intake_tasks(max_pending: int) -> list[IntakeTask]:
    """One of each, for a colony's app."""
    kinds: dict[str, type[Arguments]] = {SPAWN: Spawn, SPAWN_BATCH: SpawnBatch, TRIGGER: Trigger}
    return [IntakeTask(name, arguments, max_pending) for name, arguments in kinds.items()]


def _result(worker_ids: Iterable[str], batch_id: str | None = None) -> Result:
    return {"worker_ids": list(worker_ids), "batch_id": batch_id}


def _duration(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


def _later(eta: datetime | None) -> Moment:
    """Celery's eta; one that is over by now means nothing."""
    return eta if eta is not None and eta > datetime.now(UTC) else None
