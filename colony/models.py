"""What travels and what is kept: frozen pydantic models that encode and decode themselves as JSON.

A worker's life (DESIGN of the states; every arrow is one script of `colony.store`)::

    PENDING ──claim──▶ RUNNING ──settle──▶ COMPLETED | FAILED | STOPPED
       ▲  ▲               │ │
       │  └──rescue───────┘ └──park──▶ PARKED(reason) ──wake──▶ PENDING
       └── hand-over (node drains)

Times are Redis' clock: aware `datetime`s in UTC here, whole milliseconds in the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
)

from colony.urls import check_url


class WorkerState(StrEnum):
    """Where a worker is in its life. The last three are terminal."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PARKED = "PARKED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"

    @property
    def terminal(self) -> bool:
        """Whether a worker in this state has its report and never changes again."""
        return self in TERMINAL


TERMINAL = frozenset({WorkerState.COMPLETED, WorkerState.FAILED, WorkerState.STOPPED})


class ReportStatus(StrEnum):
    """How a worker ended. COMPLETED carries success or partial, FAILED failed or timeout."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILED = "failed"
    TIMEOUT = "timeout"
    STOPPED = "stopped"

    @property
    def state(self) -> WorkerState:
        """The terminal state that carries this status."""
        return STATE_OF_STATUS[self]


STATE_OF_STATUS: Mapping[ReportStatus, WorkerState] = {
    ReportStatus.SUCCESS: WorkerState.COMPLETED,
    ReportStatus.PARTIAL: WorkerState.COMPLETED,
    ReportStatus.FAILED: WorkerState.FAILED,
    ReportStatus.TIMEOUT: WorkerState.FAILED,
    ReportStatus.STOPPED: WorkerState.STOPPED,
}


class EventType(StrEnum):
    """What the bridge tells. Lifecycle events have an id and are kept; `*_delta` and
    `progress` events are only heard by those who listen at that moment."""

    EXECUTION_ACCEPTED = "execution_accepted"
    EXECUTION_STARTED = "execution_started"
    EXECUTION_RESUMED = "execution_resumed"
    EXECUTION_PAUSED = "execution_paused"
    EXECUTION_RESURRECTED = "execution_resurrected"
    EXECUTION_COMPLETED = "execution_completed"
    EXECUTION_FAILED = "execution_failed"
    EXECUTION_STOPPED = "execution_stopped"
    LLM_TURN_COMPLETE = "llm_turn_complete"
    TOOL_CALL_STARTED = "tool_call_started"
    TOOL_CALL_COMPLETED = "tool_call_completed"
    BATCH_COMPLETED = "batch_completed"
    NODE_RETRY = "node_retry"
    SUBAGENT_REPORT = "subagent_report"
    LATE_RESULT = "late_result"
    NODE_JOINED = "node_joined"
    NODE_LOST = "node_lost"
    NODE_EXONERATED = "node_exonerated"
    INTAKE_PAUSED = "intake_paused"
    INTAKE_RESUMED = "intake_resumed"
    LLM_TEXT_DELTA = "llm_text_delta"
    PROGRESS = "progress"
    GAP = "gap"


class Model(BaseModel):
    """Base of all that is kept or sent: frozen; unknown fields of a newer version are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Report(Model):
    """The one structured result of a worker.

    `data` is always an object, `duration_seconds` counts from the first claim to the end (0 for a
    worker that never ran), `tokens_used` and `cost_usd` count every model answer that was paid for,
    those of crashed attempts too. `cost_usd` is None where the price of the model is not known.
    `left_running` names the batches of background work that were out when the worker ended: they go on.
    """

    worker_id: str
    status: ReportStatus
    summary: str
    data: dict[str, JsonValue] = Field(default_factory=dict)
    error: str | None = None
    duration_seconds: float = 0.0
    tokens_used: int = 0
    cost_usd: float | None = None
    left_running: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True for success and partial."""
        return self.status.state is WorkerState.COMPLETED


def _references(given: object) -> object:
    return (given,) if isinstance(given, str) else given


def _are_references(references: tuple[str, ...]) -> tuple[str, ...]:
    for reference in references:
        scheme, _, name = reference.partition(":")
        if scheme not in ("env", "file") or not name or len(reference) > 500:
            raise ValueError(
                "a secret is named by where the nodes find it: env:NAME or file:/path, never given itself"
            )
    return references


Secrets = Annotated[
    tuple[str, ...],
    BeforeValidator(_references),
    AfterValidator(_are_references),
    Field(max_length=5),
]
"""References to secrets; one may be given as text."""


class TaskSpec(Model):
    """One task to spawn: what `spawn_batch` takes where a plain string is not enough."""

    task: str
    data: dict[str, JsonValue] = Field(default_factory=dict)
    agent: str | None = None


class OnComplete(Model):
    """Whom to tell when a batch is joined, or a worker has ended: at least once, always with the same id.

    `task`: a Celery task of the producer's own, on `queue`. Its one argument is the batch's result or the
    worker's report, its task id ``<id>.complete``.
    `url`: called as Standard Webhooks describe it (`colony.deliveries`), signed with the secret that
    `secret` refers to *on the nodes*: ``env:NAME`` or ``file:/path``, of the form ``whsec_…``. Several
    secrets sign side by side, while receivers change to a new one. The webhook-id is ``<id>_completed``.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # somebody may have put a secret there

    task: str | None = None
    queue: str = "celery"
    url: str | None = None
    secret: Secrets = ()

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.task is None) == (self.url is None):
            raise ValueError("expected either task or url")
        if (self.url is None) != (not self.secret):
            raise ValueError("a url goes with a secret, such as env:HOOK_SECRET")
        return self

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        return None if url is None else check_url(url)


class Subscription(Model):
    """Where events of a colony are sent, as Standard Webhooks (see `colony.deliveries`).

    `types`: which events, all where it is empty; gaps always are. `where`: dotted paths into the event
    (``data.status``) and the value, or a list of the values, that is to stand there. `url` and `secret`: see
    `OnComplete`.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    id: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_-]{0,63}$")
    url: str
    secret: Secrets = Field(min_length=1)
    types: tuple[str, ...] = Field((), max_length=50)
    where: dict[str, JsonValue] = Field(default_factory=dict, max_length=20)

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        return check_url(url)


class SubscriptionInfo(Model):
    """A subscription at one moment: how far it is, what is owed to it, and why it is paused, if it is."""

    subscription: Subscription
    enabled: bool
    reason: str | None = None
    cursor: str
    owed: int = 0
    delivered: int = 0
    created_at: datetime


class Delivery(Model):
    """A webhook that is owed, or was given up (`dead`). `data` is what is sent, as JSON text."""

    id: str
    type: str
    url: str
    subscription_id: str | None = None
    dead: bool
    attempts: int
    next_attempt_at: datetime | None = None
    error: str | None = None
    created_at: datetime
    data: str = Field("", repr=False)


NOT_NEEDED = "not_needed"
"""The error in the report of a member without which its batch was joined."""


class BatchMember(Model):
    """One worker of a batch, and how it ended. The join settles that: one that had not ended by then ends
    with the report that it had filed, or as stopped (error ``not_needed``)."""

    worker_id: str
    status: ReportStatus


class BatchResult(Model):
    """The consolidated result of a joined batch: counts by status, and its members in input order.

    The reports themselves are read in pages (`get_batch_reports`).
    """

    batch_id: str
    size: int
    policy: str
    need: int | None = None
    """How many good reports the policy asks for. None: written by an older Colony."""
    counts: dict[ReportStatus, int] = Field(default_factory=dict)
    joined_at: datetime
    correlation_id: str | None = None
    members: tuple[BatchMember, ...] = ()

    @property
    def ok(self) -> bool:
        """True when as many reports are success or partial as the policy asks for: under ``all``, all."""
        good = sum(n for status, n in self.counts.items() if status.state is WorkerState.COMPLETED)
        return good >= (self.need or (1 if self.policy == "any" else self.size))


class BatchRecord(Model):
    """A batch as it is kept; `result` once it is joined."""

    batch_id: str
    state: str
    size: int
    arrived: int
    policy: str
    need: int
    parent_id: str | None = None
    created_at: datetime
    deadline: datetime | None = None
    result: BatchResult | None = None


class Attempt(Model):
    """One claim of a worker: who ran it, since when, and how that attempt ended."""

    epoch: int
    node: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str | None = None


class WorkerRecord(Model):
    """All that is kept of a worker beside its conversation. Read with `runtime.get_worker`."""

    worker_id: str
    colony_id: str
    state: WorkerState
    agent: str
    task: str
    data: dict[str, JsonValue] = Field(default_factory=dict)
    correlation_id: str | None = None
    stream_id: str
    batch_id: str | None = None
    batch_index: int | None = None
    parent_id: str | None = None
    root_id: str
    trigger_id: str | None = None
    cause: tuple[str, ...] = ()
    """The triggers in its lineage, ``colony/trigger``, the latest last."""
    traceparent: str | None = None
    """The span that spawned it (`colony.tracing`), where that was traced."""
    depth: int = 0
    priority: int = 0
    concurrency_key: str | None = None
    version: str
    created_at: datetime
    since: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    not_before: datetime | None = None
    deadline: datetime | None = None
    soft_deadline: datetime | None = None
    waits_for: str | None = None
    stopping: str | None = None
    overruled: str | None = None
    """How it would have ended without the report that it had filed (stopped, timeout, failed), or had its
    batch not been joined without it."""
    node: str | None = None
    epoch: int = 0
    resurrections: int = 0
    max_resurrections: int | None = None
    """How many it may have, where that is not the colony's number."""
    rings: int = 0
    rung_at: datetime | None = None
    requests: int = 0
    tokens_used: int = 0
    cost_usd: float | None = None
    attempts: tuple[Attempt, ...] = ()
    report: Report | None = None


class NodeInfo(Model):
    """One node as it described itself on its last beat. `lease_seconds` < 0: it is presumed dead.

    `draining`: it takes nothing new and is about to end.
    """

    node: str
    host: str
    pid: int
    pool: str
    concurrency: int
    processes: int = 1
    version: str
    started_at: datetime
    lease_seconds: float
    running: int = 0
    lag_ms: int = 0
    """How long its agent loop took, or has taken so far, to answer its heart."""
    silent_ms: int = 0
    """How long the broker has not answered its consumer, while an answer was due (every second)."""
    draining: bool = False


class FleetStats(Model):
    """A colony at one moment: workers by state, live nodes, totals since the colony was registered."""

    colony_id: str
    states: dict[WorkerState, int]
    nodes: int
    slots: int
    intake_paused: bool
    oldest_pending_seconds: float | None = None
    totals: dict[str, int] = Field(default_factory=dict)
    events: int = 0
    quarantined: int = 0


class Limit(Model):
    """A cap of admission: what the definition says, and what holds now. None: no cap."""

    name: str
    defined: int | None
    most: int | None


class Event(Model):
    """One thing that happened. `id` is None for events that are not kept (deltas, progress, gaps).

    Ids are ``generation-sequence``: sequence numbers are consecutive, the generation goes up when
    Redis was restarted. `execution_id` is the worker's id, as in the systems Colony grew from.
    `cause`: the triggers that led to it, ``colony/trigger``, the latest last.
    """

    id: str | None = None
    type: EventType | str
    colony_id: str
    stream_id: str | None = None
    execution_id: str | None = None
    worker_id: str | None = None
    correlation_id: str | None = None
    cause: tuple[str, ...] = ()
    at: datetime
    data: dict[str, Any] = Field(default_factory=dict)


class TriggerInfo(Model):
    """A trigger at one moment: its specification (`colony.triggers.TriggerSpec` as JSON), and what
    became of it.

    `live`: how many of its workers have a place and have not ended; `next_due`: of a timer that is not
    paused.
    """

    trigger_id: str
    spec: dict[str, Any]
    paused: bool = False
    next_due: datetime | None = None
    last_fired: datetime | None = None
    fired: int = 0
    missed: int = 0
    live: int = 0
    created_at: datetime


class FireRecord(Model):
    """One time that a trigger fired, or was to and did not: `outcome` is ``accepted`` or says why not.

    `source`: timer, webhook, event, api or manual. `due`: the time of a timer. `missed`: how many times
    before it were not made good.
    """

    at: datetime
    source: str
    due: datetime | None = None
    missed: int = 0
    outcome: str
    worker_id: str | None = None


class Rejected(Model):
    """A message that was set aside because it was not ours or malformed."""

    at: datetime
    reason: str
    message: str


_FIRST_MS = int(datetime(2, 1, 1, tzinfo=UTC).timestamp() * 1000)
_LAST_MS = int(datetime(9998, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""What a `datetime` can be in any zone, as from_ms tells it."""


def from_ms(milliseconds: float | str | bytes) -> datetime:
    """The UTC time of a number of milliseconds since the epoch, as the store keeps it.

    Whatever the number: one from before the year 2, or after 9997, is told as the nearest of these.
    So a record that somebody gave such a time can be read all the same.
    """
    try:
        number: float = int(milliseconds)
    except (ValueError, OverflowError):  # as Lua and scores write what is large, or a part
        number = float(milliseconds)
    return datetime.fromtimestamp(min(max(_FIRST_MS, number), _LAST_MS) / 1000, UTC)


def to_ms(moment: datetime) -> int:
    """Whole milliseconds since the epoch. A naive `datetime` is refused: its zone is a guess."""
    if moment.tzinfo is None:
        raise ValueError(f"expected a datetime with a time zone, got the naive {moment!r}")
    return int(moment.timestamp() * 1000)
