"""What a trigger is: when or upon what a worker is spawned, with which task, and how many at once.

A specification is data: it is kept in the store as JSON, declared with the colony (`Colony.triggers`) or put
while the fleet runs. Whatever cannot be meant is refused here, with the field and the remedy.
"""

from __future__ import annotations

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from colony.errors import InvalidTrigger, UnreadableTrigger
from colony.models import Secrets
from colony.settings import Duration
from colony.sizes import MAX_DURATION, MAX_PRIORITY
from colony.triggers.schedule import Schedule
from colony.triggers.template import check_template

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
COLONY = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
PATH = re.compile(r"/[A-Za-z0-9][A-Za-z0-9/_.-]{0,199}")
METHODS = ("POST", "PUT", "PATCH")


class TriggerType(StrEnum):
    """Where the work comes from: a clock, a signed HTTP call, an event of a colony, a service, a person."""

    TIMER = "timer"
    WEBHOOK = "webhook"
    EVENT = "event"
    API = "api"
    MANUAL = "manual"


class _Config(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_timedelta="float", hide_input_in_errors=True
    )


class NoConfig(_Config):
    """Triggers of type ``api`` and ``manual`` are fired by `trigger`; there is nothing to configure."""


class TimerConfig(_Config):
    """When a timer fires: `cron` (five fields, or six with seconds last) in a time zone, or every `interval`.

    `run_immediately`: also at once when it is first put, not when it is changed. `jitter`: each fire, also
    that one, is late by a part of it that follows from the trigger and the time, so many timers of one
    minute are spread; at most the time from one fire to the next.
    `skip_when_active_within`: a fire is passed over while workers wait or run, or did so within this
    time. What was missed, because no node was there or the intake was closed: with `misfire` ``latest``
    the last of it is fired, with ``all`` the last `max_catch_up`, one worker each, with ``skip`` none
    that is older than `misfire_grace`. The number missed is exact and told.
    """

    cron: str | None = Field(None, max_length=1000)
    interval: Duration | None = Field(None, ge=timedelta(seconds=1), le=timedelta(days=366))
    timezone: str = Field("UTC", max_length=100)
    run_immediately: bool = False
    jitter: Duration = Field(timedelta(0), ge=timedelta(0), le=timedelta(days=1))
    skip_when_active_within: Duration | None = Field(None, ge=timedelta(0))
    misfire: Literal["latest", "all", "skip"] = "latest"
    misfire_grace: Duration = Field(timedelta(seconds=30), ge=timedelta(0))
    max_catch_up: int = Field(100, ge=1, le=1000)

    @model_validator(mode="after")
    def _fires(self) -> Self:
        self.schedule()
        return self

    def check(self) -> None:
        """What is asked of a timer where it is put, not of one that is kept. Raises `InvalidTrigger`."""
        schedule = self.schedule()
        for field, check in (("cron", schedule.check_cron), ("jitter", schedule.check_jitter)):
            try:
                check()
            except ValueError as error:
                raise InvalidTrigger(f"trigger_config.{field}: {error}") from error

    def schedule(self) -> Schedule:
        """The times it names. Raises `ValueError` for none, for both, for a zone or times that do not
        exist."""
        return Schedule.of(self.cron, self.interval, self.timezone, self.jitter)


class WebhookConfig(_Config):
    """Which HTTP calls fire it, and how they prove where they come from.

    `path` is the end of the route, ``/v1/colonies/<colony>/hooks<path>``. `scheme`: ``github``
    (``X-Hub-Signature-256``), ``standard`` (https://www.standardwebhooks.com: id, timestamp, signature)
    or ``bearer`` (``Authorization: Bearer …``). `secrets` are references (``env:HOOK_SECRET``,
    ``file:/path``), never a secret itself, resolved by the gateway; any of them may fit, so a secret is
    changed by naming the new beside the old. A delivery is accepted once within `remember`: by its body
    (``github``), its id (``standard``), its ``Idempotency-Key`` (``bearer``, where it has one).
    `max_bytes` bounds the body; more than the gateway takes (COLONY_GATEWAY_MAX_BODY_BYTES, 8 MiB) is of
    no use. What a body becomes must fit the colony's `max_data_bytes` (256 KiB), as compact JSON with what
    else the worker is told of the call: what is larger is refused with 422.
    """

    path: str
    methods: tuple[str, ...] = ("POST",)
    scheme: Literal["github", "standard", "bearer"] = "standard"
    secrets: Secrets = Field(min_length=1, max_length=4)
    remember: Duration = Field(timedelta(days=1), ge=timedelta(minutes=5), le=timedelta(days=30))
    max_bytes: int = Field(262_144, ge=1, le=10_485_760)

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if not PATH.fullmatch(path) or "//" in path or ".." in path:
            raise ValueError(
                f"expected a path such as /github/push (up to 200 of letters, digits, / _ . -), got {path!r}"
            )
        return path

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        named = tuple(method.upper() for method in methods)
        if not named or set(named) - set(METHODS):
            raise ValueError(f"expected some of {', '.join(METHODS)}, got {methods}")
        return named


class EventConfig(_Config):
    """Which events fire it: their type, and what stands in them.

    `colony`: whose events, None for its own; another's only in a definition or by who has its Redis, not
    over HTTP, where a token is good for one colony. `where`: dotted paths into the event
    (``data.status``) and the value, or a list of the values, that is to stand there. Neither a worker
    spawned so, nor a batch of its descendants, fires a trigger that stands in its own lineage
    (`Event.cause`): loops are refused. What the capped log (`max_history`) had no more is told in the
    trigger's history; how much of it would have fired nobody can say.
    """

    types: tuple[str, ...] = Field(min_length=1, max_length=50)
    where: dict[str, JsonValue] = Field(default_factory=dict, max_length=20)
    colony: str | None = Field(None, pattern=COLONY)


TriggerConfig = TimerConfig | WebhookConfig | EventConfig | NoConfig

CONFIGS: dict[TriggerType, type[TriggerConfig]] = {
    TriggerType.TIMER: TimerConfig,
    TriggerType.WEBHOOK: WebhookConfig,
    TriggerType.EVENT: EventConfig,
    TriggerType.API: NoConfig,
    TriggerType.MANUAL: NoConfig,
}


class TriggerSpec(BaseModel):
    """One trigger of a colony.

    `task` may name what came in: ``${webhook.payload.title}``, ``${event.data.error}``, ``${input.city}``,
    ``${trigger.due}``; ``$$`` is a dollar sign. What came in is in the worker's data, too, under the
    same first word; `data` is given to each worker beside it. At most `max_concurrent` of its workers
    live at once; one more is passed over (`concurrency_policy` ``skip``), lines up (``queue``), or
    stops those that live (``replace``). `max_resurrections`, `priority`, `deadline`, `soft_deadline`:
    of each worker, the deadlines from when it was fired, also for one that lines up; None: the colony's.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_timedelta="float", hide_input_in_errors=True
    )

    id: str
    name: str = Field("", max_length=200)
    trigger_type: TriggerType
    trigger_config: TriggerConfig = Field(
        default_factory=NoConfig, union_mode="left_to_right", validate_default=True
    )
    task: str = Field(min_length=1, max_length=65_536)
    agent: str | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    max_concurrent: int | None = Field(None, ge=1)
    concurrency_policy: Literal["skip", "queue", "replace"] = "skip"
    max_resurrections: int | None = Field(None, ge=0, le=100)
    deadline: Duration | None = Field(None, gt=timedelta(0), le=MAX_DURATION)
    soft_deadline: Duration | None = Field(None, gt=timedelta(0), le=MAX_DURATION)

    @field_validator("trigger_config", mode="before")
    @classmethod
    def _config_of_type(cls, given: Any, known: ValidationInfo) -> Any:
        """The configuration is read as that of the trigger's type, so that an error names its fields."""
        if "trigger_type" not in known.data:
            return NoConfig()  # what is wrong is the type
        config = given.model_dump(exclude_unset=True) if isinstance(given, BaseModel) else given
        return CONFIGS[known.data["trigger_type"]].model_validate(config or {})

    @field_validator("id")
    @classmethod
    def _is_id(cls, value: str) -> str:
        if not ID.fullmatch(value):
            raise ValueError(f"expected 1 to 64 letters, digits, '.', '_' or '-', got {value!r}")
        return value

    @field_validator("task")
    @classmethod
    def _is_template(cls, task: str) -> str:
        if not task.strip():
            raise ValueError("it is blank: say what the worker shall do")
        check_template(task)
        return task

    @classmethod
    def of(cls, given: TriggerSpec | dict[str, Any]) -> TriggerSpec:
        """The specification, checked. Raises `InvalidTrigger` that names the first wrong field."""
        if isinstance(given, TriggerSpec):
            return given
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise InvalidTrigger(_first_wrong(error)) from error

    @classmethod
    def kept(cls, trigger_id: str, text: str) -> TriggerSpec:
        """The specification that the store keeps (JSON). Raises `UnreadableTrigger`: an earlier Colony took
        what is refused now, or a newer one knows more."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UnreadableTrigger(
                f"trigger {trigger_id!r} as it is kept cannot be read by this version of Colony, "
                f"put it anew: {_first_wrong(error)}"
            ) from error

    @property
    def timer(self) -> TimerConfig | None:
        """Its configuration where it is a timer."""
        return self.trigger_config if isinstance(self.trigger_config, TimerConfig) else None

    @property
    def webhook(self) -> WebhookConfig | None:
        """Its configuration where it is a webhook."""
        return self.trigger_config if isinstance(self.trigger_config, WebhookConfig) else None

    @property
    def event(self) -> EventConfig | None:
        """Its configuration where events fire it."""
        return self.trigger_config if isinstance(self.trigger_config, EventConfig) else None


def _first_wrong(error: ValidationError) -> str:
    """The first wrong field and why, without what was given."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'trigger'}: {first['msg']}"
