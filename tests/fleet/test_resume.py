"""A run is dropped after (and before) every checkpoint and goes on in a new process from there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai.messages import ModelMessagesTypeAdapter

from colony import ReportStatus
from colony.conversation import Part
from colony.models import WorkerState
from colony.testing import redis_for_tests
from tests.fleet.slices import Death, SliceProcesses
from workers.agent.transcript import Transcript

pytestmark = pytest.mark.fleet

CHECKPOINTS = {"long": 17, "mixed": 13}
"""How many checkpoints the script of a task has: one for each answer and each tool result."""
ANSWERS = {"long": 9, "mixed": 6}
UNLIKE = frozenset({"timestamp", "run_id", "conversation_id"})


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Redis for this module."""
    with redis_for_tests() as url:
        yield url


@pytest.fixture
def slices(redis_url: str, tmp_path: Path) -> SliceProcesses:
    """Processes that write down what they ask and do."""
    return SliceProcesses(redis_url, tmp_path / "calls", tmp_path / "mails")


def transcript(parts: list[Part]) -> Any:
    """What the model was told and said, without what differs between two runs of one script."""
    messages = Transcript.restore(parts).messages
    return _alike(ModelMessagesTypeAdapter.dump_python(messages, mode="json"))


def _alike(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _alike(inner) for key, inner in value.items() if key not in UNLIKE}
    if isinstance(value, list):
        return [_alike(inner) for inner in value]
    return value


def finish(slices: SliceProcesses, worker_id: str) -> list[Part]:
    """Run it to its end; its transcript."""
    assert slices.run(worker_id)
    record, parts = slices.look(worker_id)
    assert record.state is WorkerState.COMPLETED
    assert record.report is not None
    answers = sum(part["kind"] == "answer" for part in parts)
    assert (record.requests, record.tokens_used) == (answers, 15 * answers)
    assert record.report.tokens_used == 15 * answers
    return parts


@pytest.mark.parametrize("task", CHECKPOINTS)
def test_dropped_after_every_checkpoint_the_run_is_the_same(
    slices: SliceProcesses, task: str
) -> None:
    """One process for each checkpoint: the transcript and the report are those of an uninterrupted
    run, and no answer that was written is asked for again."""
    whole = slices.spawn(task)
    expected = finish(slices, whole)
    assert slices.asked() == ANSWERS[task]

    worker = slices.spawn(task)
    deaths = 0
    while not slices.run(worker, Death(after=1)):
        deaths += 1
        assert deaths <= CHECKPOINTS[task]
    assert deaths == CHECKPOINTS[task]
    record, parts = slices.look(worker)
    assert transcript(parts) == transcript(expected)
    assert len(parts) == len(expected)
    assert slices.asked() == 2 * ANSWERS[task]
    assert (len(record.attempts), record.resurrections) == (deaths + 1, deaths)
    full = slices.look(whole)[0].report
    assert record.report is not None
    assert full is not None
    same = {"worker_id", "duration_seconds"}
    assert record.report.model_dump(exclude=same) == full.model_dump(exclude=same)


@pytest.mark.parametrize("checkpoint", range(1, CHECKPOINTS["mixed"] + 1))
def test_dropped_once_the_next_process_finishes_the_run(
    slices: SliceProcesses, checkpoint: int
) -> None:
    """One death after checkpoint n: the second process ends the run, asking only for what is missing."""
    worker = slices.spawn("mixed")
    assert not slices.run(worker, Death(after=checkpoint))
    _, before = slices.look(worker)
    parts = finish(slices, worker)
    assert parts[: len(before)] == before, "what was written was changed"
    assert slices.asked() == ANSWERS["mixed"]
    assert sum(part["kind"] == "answer" for part in parts) == ANSWERS["mixed"]


@pytest.mark.parametrize("task", CHECKPOINTS)
def test_dropped_before_every_checkpoint_only_what_was_in_flight_is_asked_again(
    slices: SliceProcesses, task: str
) -> None:
    """Each checkpoint is missed once: at most the one answer in flight is asked for again."""
    expected = transcript(finish(slices, slices.spawn(task)))
    asked = slices.asked()
    worker = slices.spawn(task)
    for _ in range(CHECKPOINTS[task]):
        answers = sum(part["kind"] == "answer" for part in slices.look(worker)[1])
        before = slices.asked()
        assert not slices.run(worker, Death(before=1)), "an unwritten step is done anew"
        assert slices.asked() - before <= 1
        assert not slices.run(worker, Death(after=1))
        assert slices.asked() - before <= 2
        written = sum(part["kind"] == "answer" for part in slices.look(worker)[1])
        assert written - answers <= 1
    assert transcript(finish(slices, worker)) == expected
    assert slices.asked() == asked + 2 * ANSWERS[task]


def test_an_open_call_with_an_effect_is_not_made_again(slices: SliceProcesses) -> None:
    """A mail was sent and the process died before its result was written: the model is told that the
    outcome is unknown, and no second mail is sent."""
    worker = slices.spawn("side-effect")
    assert not slices.run(worker, Death(before=2))
    assert slices.effects() == [f"{worker}:call_0_0 a@example.org"]
    parts = finish(slices, worker)
    assert slices.effects() == [f"{worker}:call_0_0 a@example.org"]
    [result] = [part for part in parts if part["kind"] == "result" and "send_mail" in str(part)]
    assert result["part"]["outcome"] == "interrupted"
    assert str(result["part"]["content"]).startswith("outcome unknown")
    assert slices.asked() == 2


def test_a_call_with_an_effect_that_was_not_opened_is_made_once(slices: SliceProcesses) -> None:
    """The process died before the answer that asks for the mail was written: it is sent, once."""
    worker = slices.spawn("side-effect")
    assert not slices.run(worker, Death(before=1))
    assert slices.effects() == []
    finish(slices, worker)
    assert slices.effects() == [f"{worker}:call_0_0 a@example.org"]


def test_an_open_idempotent_call_is_made_again_with_the_same_key(slices: SliceProcesses) -> None:
    """An idempotent call that was open at a death is repeated, and its service can tell by the key."""
    worker = slices.spawn("put")
    assert not slices.run(worker, Death(before=2))
    assert not slices.run(worker, Death(before=1))
    parts = finish(slices, worker)
    first, second = f"{worker}:call_0_0 x", f"{worker}:call_1_0 y"
    assert slices.effects() == [first, first, first, second]
    results = [part["part"] for part in parts if part["kind"] == "result"]
    assert [(r["content"], r["outcome"]) for r in results[:2]] == [
        ("x", "success"),
        ("y", "success"),
    ]
    record, _ = slices.look(worker)
    assert record.report is not None
    assert record.report.status is ReportStatus.SUCCESS
