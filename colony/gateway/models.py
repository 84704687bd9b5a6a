"""What the gateway takes and gives beside the models of `colony.models`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)

from colony.listing import WorkerSummary
from colony.models import BatchRecord, OnComplete, ReportStatus
from colony.sizes import EARLIEST, LATEST, MAX_PRIORITY, MAX_SECONDS
from colony.tasks import MAX_WORKERS
from colony.triggers import TriggerSpec

NAMES = r"^[a-z0-9][a-z0-9_.-]{0,63}$"


def _is_text(value: object) -> object:
    if not isinstance(value, str) or value.strip().lstrip("+-").replace(".", "").isdigit():
        raise ValueError("expected a number of seconds, or a time such as 2030-01-31T12:00:00Z")
    return value


def _is_sane(moment: datetime) -> datetime:
    if not EARLIEST <= moment < LATEST:
        raise ValueError(f"expected a time between the years {EARLIEST.year} and {LATEST.year}")
    return moment


Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, strict=True)]
Time = Annotated[AwareDatetime, BeforeValidator(_is_text), AfterValidator(_is_sane)]
When = Seconds | Time
"""Seconds from now, or a point in time."""
Label = Annotated[str, Field(min_length=1, max_length=256)]
"""An id of the caller's own."""
Whole = Annotated[int, Field(strict=True)]
"""A number: true is none."""
AgentName = Annotated[str, Field(pattern=NAMES)]


class Request(BaseModel):
    """Base of what is asked: a field that is not known is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Task(Request):
    """One task of a batch."""

    task: str = Field(min_length=1, description="What the worker shall do.")
    data: dict[str, JsonValue] = Field(default_factory=dict, description="Its input.")
    agent: AgentName | None = Field(None, description="Which agent; default: the colony's first.")


class Callback(Request):
    """A URL that is called when it has ended, as Standard Webhooks describe, at least once.

    `secret`: the references of the secrets that sign it, which nodes resolve, such as ``env:HOOK_SECRET``;
    of those that COLONY_CALLBACK_SECRETS lists.
    """

    url: str = Field(max_length=2048)
    secret: tuple[Annotated[str, Field(max_length=256)], ...] = Field(min_length=1, max_length=4)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        self.on_complete()
        return self

    def on_complete(self) -> OnComplete:
        """What the runtime takes."""
        return OnComplete(url=self.url, secret=self.secret)


class SpawnOptions(Request):
    """What applies to all workers of one request."""

    correlation_id: Label | None = Field(None, description="An id of yours that all events carry.")
    stream_id: Label | None = Field(None, description="The stream of events; default: its own.")
    deadline: When | None = Field(
        None,
        description="When they must have ended, whatever they wait for; then they end with status timeout.",
    )
    soft_deadline: Seconds | None = Field(
        None,
        description="So many seconds after the acceptance the model is told to come to an end. Later than "
        "not_before.",
    )
    not_before: When | None = Field(None, description="Not to be started before this.")
    priority: Whole = Field(
        0, ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="A point is worth a minute of waiting."
    )
    concurrency_key: Label | None = Field(
        None, description="Of those with one key at most max_concurrent_per_key run at once."
    )
    require_node: bool = Field(False, description="Refuse when no node is alive.")
    on_complete: Callback | None = Field(None, description="Whom to call at the end.")

    def options(self) -> dict[str, Any]:
        """The arguments of the runtime's verbs."""
        return {
            "correlation_id": self.correlation_id,
            "stream_id": self.stream_id,
            "deadline": _moment(self.deadline),
            "soft_deadline": self.soft_deadline and timedelta(seconds=self.soft_deadline),
            "not_before": _moment(self.not_before),
            "priority": self.priority,
            "concurrency_key": self.concurrency_key,
            "require_node": self.require_node,
            "on_complete": self.on_complete and self.on_complete.on_complete(),
        }


def _moment(when: float | datetime | None) -> timedelta | datetime | None:
    return timedelta(seconds=when) if isinstance(when, int | float) else when


class Spawn(SpawnOptions, Task):
    """Workers for one task."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "task": "Summarise the report",
                    "data": {"url": "https://example.com/report"},
                    "deadline": 600,
                }
            ]
        }
    )

    count: Whole = Field(1, ge=1, le=MAX_WORKERS, description="How many workers get this task.")


class SpawnBatch(SpawnOptions):
    """One worker per task, all of them or none, with one consolidated result."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "tasks": [
                        {"task": "Check page 1", "data": {"page": 1}},
                        {"task": "Check page 2"},
                    ],
                    "policy": "all",
                    "deadline": 3600,
                }
            ]
        }
    )

    tasks: list[Task] = Field(min_length=1, max_length=MAX_WORKERS)
    policy: Literal["all", "any", "first_n"] = Field(
        "all",
        description="Joined with all reports, with the first good one, or with `first_n` of them.",
    )
    first_n: Whole | None = Field(None, ge=1, le=MAX_WORKERS, description="With policy first_n.")


class Stop(Request):
    """Why something is stopped."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "no longer needed"}]})

    reason: str | None = Field(None, max_length=1000, description="Kept in the report.")


class PutTrigger(TriggerSpec):
    """A trigger, without its id or with the one in the URL."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "trigger_type": "timer",
                    "trigger_config": {"cron": "0 8 * * 1-5", "timezone": "Europe/Paris"},
                    "task": "Summarise what happened since ${trigger.due}",
                }
            ]
        }
    )

    id: str = ""


class Fire(Request):
    """What a trigger is fired with."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": {"city": "Paris"}}]})

    input: dict[str, JsonValue] = Field(default_factory=dict)


class Fired(BaseModel):
    """The worker that a trigger has spawned."""

    trigger_id: str
    worker_id: str


class SetLimit(Request):
    """A cap of admission; null gives it back to the definition."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"most": 50}]})

    most: Whole | None = Field(ge=1, le=1_000_000)


class Spawned(BaseModel):
    """The ids of accepted workers. They are kept, whatever happens next."""

    worker_ids: list[str]


class BatchSpawned(BaseModel):
    """The ids of an accepted batch, and of its workers in the order of the tasks."""

    batch_id: str
    worker_ids: list[str]


class Running(BaseModel):
    """There is no report, or no result, yet."""

    id: str
    state: str


class Stopped(BaseModel):
    """How many a stop has stopped, descendants counted. 0: all had ended before."""

    stopped: int


class StoppedWorker(BaseModel):
    """What a stop of one worker did: whether it itself was stopped (false: it had ended before), and how many
    of its descendants."""

    stopped: bool
    descendants: int


class Retried(BaseModel):
    """The new worker that has the task of an old one."""

    retried: str
    worker_id: str


class BatchView(BaseModel):
    """A batch without its members, which come in pages. `counts` by status, once it is joined."""

    batch_id: str
    state: str
    size: int
    arrived: int
    policy: str
    need: int
    parent_id: str | None = None
    created_at: datetime
    deadline: datetime | None = None
    joined_at: datetime | None = None
    counts: dict[ReportStatus, int] | None = None

    @classmethod
    def of(cls, batch: BatchRecord) -> BatchView:
        """The view of a record."""
        result = batch.result
        return cls(
            **batch.model_dump(exclude={"result"}),
            joined_at=result and result.joined_at,
            counts=None if result is None else dict(result.counts),
        )


class Member(BaseModel):
    """A worker of a batch, and its place in it."""

    index: int
    worker_id: str


class Branch(BaseModel):
    """A worker and those it has spawned. Without `worker` its record was retired."""

    worker_id: str
    worker: WorkerSummary | None = None
    children: list[Branch] = Field(default_factory=list)


class Tree(BaseModel):
    """A worker, or the members of a batch, with all below. `truncated`: there are more than are shown."""

    tops: list[Branch]
    workers: int
    truncated: bool


class Drained(BaseModel):
    """The whole name of the node that ends."""

    node: str


class Paused(BaseModel):
    """Whether it (the intake, a trigger, all timers) is paused."""

    paused: bool
