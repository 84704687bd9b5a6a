"""What comes from outside is bounded, and says so; `colony.security` has the table."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic_ai.messages import ModelResponse, TextPart

from colony import ColonyRuntime, Subscription
from colony.errors import InvalidSubscription, InvalidTask, InvalidTrigger
from colony.gateway import models as over_http
from colony.models import TaskSpec, from_ms
from colony.settings import Settings
from colony.sizes import (
    LATEST,
    MAX_DURATION,
    MAX_FILE_BYTES,
    MAX_LABEL,
    MAX_PRIORITY,
    MAX_REASON,
    MAX_SECONDS,
    MAX_SPEC_BYTES,
    read_bounded,
)
from colony.spawning import SpawnOptions, new_batch
from colony.tasks import Limits, check_task, check_tasks
from colony.triggers.spec import TriggerSpec, TriggerType
from workers.agent.spawning import ParallelTask, problem_of
from workers.agent.text import MAX_ANSWER_BYTES
from workers.agent.transcript import Transcript
from workers.intake import tasks as intake

LABELS = ("correlation_id", "idempotency_key", "stream_id", "concurrency_key")


@pytest.mark.parametrize("label", LABELS)
def test_labels_of_a_spawn(label: str) -> None:
    """The longest is taken, one more character is not."""
    SpawnOptions(**{label: "x" * MAX_LABEL})  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match=f"{label}: expected at most {MAX_LABEL} characters"):
        SpawnOptions(**{label: "x" * (MAX_LABEL + 1)})  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match=f"{label}: expected Unicode text"):
        SpawnOptions(**{label: "ab\ud800"})  # type: ignore[arg-type]
    with pytest.raises(InvalidTask, match=f"{label}: expected text, got 7"):
        SpawnOptions(**{label: 7})  # type: ignore[arg-type]


FAR = datetime(9500, 1, 1, tzinfo=UTC)
TOO_FAR = [
    timedelta(days=3_000_000),
    timedelta.max,
    timedelta.min,
    FAR,
    datetime(1969, 1, 1, tzinfo=UTC),
]


@pytest.mark.parametrize("field", ["deadline", "not_before"])
@pytest.mark.parametrize("when", [*TOO_FAR, FAR.replace(year=2030, tzinfo=None), 5, "1h"])
def test_a_time_that_nobody_can_mean(field: str, when: Any) -> None:
    """Too far off, without a zone, no time at all: it is refused, and the field is named."""
    with pytest.raises(InvalidTask, match=f"^{field}: expected"):
        SpawnOptions(**{field: when})


@pytest.mark.parametrize("duration", [timedelta.max, timedelta(days=3651), FAR, 5])
def test_a_soft_deadline_that_nobody_can_mean(duration: Any) -> None:
    """As of a deadline; it is a duration."""
    with pytest.raises(InvalidTask, match=r"^soft_deadline: expected"):
        SpawnOptions(soft_deadline=duration)


def test_the_longest_times_are_taken() -> None:
    """Ten years, and a point in time just before the year 9000."""
    SpawnOptions(deadline=MAX_DURATION, not_before=MAX_DURATION)
    SpawnOptions(deadline=MAX_DURATION, soft_deadline=MAX_DURATION)
    SpawnOptions(deadline=LATEST - timedelta(seconds=1), not_before=-MAX_DURATION)


@pytest.mark.parametrize(
    "priority", [0.5, 1.0, True, None, "high", float("nan"), MAX_PRIORITY + 1, -(10**400)]
)
def test_a_priority_that_is_none(priority: Any) -> None:
    """Not a whole number within the limit: refused before it stands in a record."""
    with pytest.raises(InvalidTask, match=r"^priority: expected a whole number"):
        SpawnOptions(priority=priority)


@pytest.mark.parametrize("first_n", [True, 1.0, "1", 3])
def test_a_first_n_that_is_none(first_n: Any) -> None:
    """Not a whole number from 1 to the size."""
    with pytest.raises(InvalidTask, match=r"^first_n: expected 1 to 2"):
        new_batch("b1", 2, "first_n", first_n, None)


@pytest.mark.parametrize("seconds", [MAX_SECONDS + 1, 3e11, float("inf"), float("nan"), 0, -1])
def test_a_timeout_of_a_model(seconds: float) -> None:
    """The model reads what was expected; the longest is taken."""
    task = [ParallelTask(task="x", data={}, agent=None)]
    assert f"must be positive and at most {MAX_SECONDS}" in (problem_of(task, seconds) or "")
    assert problem_of(task, MAX_SECONDS) is None


HTTP, QUEUE = {"task": "x"}, {"task": "x"}
SPEC = {"id": "t", "trigger_type": "manual", "task": "x"}
DOORS: list[tuple[type[BaseModel], dict[str, Any], str, str]] = [
    (over_http.Spawn, HTTP, "deadline", "soft_deadline"),
    (intake.Spawn, QUEUE, "deadline_seconds", "soft_deadline_seconds"),
    (TriggerSpec, SPEC, "deadline", "soft_deadline"),
]


@pytest.mark.parametrize(("door", "least", "deadline", "soft"), DOORS)
def test_all_doors_have_the_same_limits(
    door: type[BaseModel], least: dict[str, Any], deadline: str, soft: str
) -> None:
    """HTTP, the intake and triggers take what `spawn` takes, and no more."""
    most = {deadline: MAX_SECONDS, soft: MAX_SECONDS, "priority": -MAX_PRIORITY}
    door.model_validate({**least, **most})
    door.model_validate({**least, "priority": MAX_PRIORITY})
    for field, value in most.items():
        over = value + 1 if value > 0 else value - 1
        with pytest.raises(ValidationError, match=field):
            door.model_validate({**least, field: over})


LIMITS = Limits(65_536, 65_536, frozenset())


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("a \ud800", r"tasks\[1\]\.task: expected Unicode text.*'.ud800', at character 2"),
        ({"task": "x", "agent": "\udfff"}, r"tasks\[1\]\.agent: expected Unicode text"),
        (TaskSpec(task="x", agent="\ud800"), r"tasks\[1\]\.agent: expected Unicode text"),
        ({"task": "x", "data": {"\ud800": 1}}, r"tasks\[1\]\.data is not JSON"),
    ],
)
def test_half_a_surrogate_pair(task: Any, named: str) -> None:
    """It is no character: refused where it stands, in words that can be printed."""
    with pytest.raises(InvalidTask, match=named) as refused:
        check_tasks(["x", task], LIMITS)
    str(refused.value).encode()
    with pytest.raises(InvalidTask, match=r"^task: expected Unicode text"):
        check_task("\ud800", None, None, 1, LIMITS)


AFTER = ["1e+17", 10**17, "301800000000000000", 10**400, "9" * 5000, "inf", b"1e300"]
BEFORE = [-(10**17), "-inf", "-9e+99", -(10**400)]


@pytest.mark.parametrize("kept", [*AFTER, *BEFORE])
def test_every_number_is_a_time(kept: Any) -> None:
    """What is beyond the calendar is told as its end, in any zone: one record never hides the others."""
    moment = from_ms(kept)
    assert moment == datetime(2 if kept in BEFORE else 9998, 1, 1, tzinfo=UTC)
    for hours in (-14, 14):
        moment.astimezone(timezone(timedelta(hours=hours)))


def test_what_a_command_reads(tmp_path: Path) -> None:
    """A file and standard input, to the byte; nothing more is read into memory."""
    file = tmp_path / "tasks"
    with file.open("wb") as sparse:
        sparse.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(InvalidTask, match="split it"):
        read_bounded(str(file), io.StringIO())
    file.write_text("é")
    assert read_bounded(str(file), io.StringIO()) == "é"
    assert read_bounded("-", io.StringIO("from stdin")) == "from stdin"


def test_an_answer_of_the_model() -> None:
    """The largest is stored as it is, a larger one is refused before it is written."""
    transcript = Transcript.restore([])
    transcript.read_back(ModelResponse([TextPart("x" * (MAX_ANSWER_BYTES - 2000))]))
    with pytest.raises(ValueError, match=f"at most {MAX_ANSWER_BYTES} are taken"):
        transcript.read_back(ModelResponse([TextPart("x" * MAX_ANSWER_BYTES)]))


async def test_verbs_check_before_they_write() -> None:
    """Stop reasons, triggers and subscriptions: refused without a word to Redis, which is not there."""
    nowhere = Settings(redis_url="redis://127.0.0.1:1/0")
    runtime = ColonyRuntime("any", settings=nowhere)
    with pytest.raises(InvalidTask, match=f"reason: expected at most {MAX_REASON}"):
        await runtime.stop_worker("w1", "x" * (MAX_REASON + 1))
    with pytest.raises(InvalidTask, match="reason"):
        await runtime.stop_all_workers("x" * (MAX_REASON + 1))
    bulk = {"bulk": "x" * MAX_SPEC_BYTES}
    trigger = TriggerSpec(id="t", trigger_type=TriggerType.MANUAL, task="fetch", data=bulk)
    with pytest.raises(InvalidTrigger, match=f"at most {MAX_SPEC_BYTES} are kept"):
        await runtime.put_trigger(trigger)
    subscription = Subscription(
        id="s", url="https://example.org/", secret="env:COLONY_S", where=bulk
    )
    with pytest.raises(InvalidSubscription, match=f"at most {MAX_SPEC_BYTES} are kept"):
        await runtime.put_subscription(subscription)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "5", None])
async def test_a_limit_that_is_none(limit: Any) -> None:
    """To Redis 0 and -1 are everything, and 1.5 an error of its own."""
    runtime = ColonyRuntime("any", settings=Settings(redis_url="redis://127.0.0.1:1/0"))
    for verb in (runtime.list_deliveries, runtime.list_rejected, runtime.list_quarantine):
        with pytest.raises(InvalidTask, match="limit: expected a whole number from 1 on"):
            await verb(limit=limit)
    with pytest.raises(InvalidTask, match="limit: expected a whole number from 1 on"):
        await runtime.get_fires("t", limit)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("\u20ac" * (MAX_SPEC_BYTES // 2), f"at most {MAX_SPEC_BYTES} are kept"),
        ("\ud800", "expected Unicode text"),
        (float("nan"), "expected JSON"),
        ([{"deep": float("inf")}], "expected JSON"),
    ],
    ids=["bytes, not characters", "half a character", "NaN", "Infinity"],
)
async def test_what_is_kept_is_read_as_it_was_given(what: Any, says: str) -> None:
    """A trigger or subscription that JSON would carry as something else, or that is too large, is refused."""
    runtime = ColonyRuntime("any", settings=Settings(redis_url="redis://127.0.0.1:1/0"))
    trigger = TriggerSpec(id="t", trigger_type=TriggerType.MANUAL, task="fetch", data={"a": what})
    with pytest.raises(InvalidTrigger, match=says):
        await runtime.put_trigger(trigger)
    subscription = Subscription(
        id="s", url="https://example.org/", secret="env:COLONY_S", where={"data.a": what}
    )
    with pytest.raises(InvalidSubscription, match=says):
        await runtime.put_subscription(subscription)
