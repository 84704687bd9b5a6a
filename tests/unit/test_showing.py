"""What is sent to Flower of a worker: names, numbers and words of ours, nothing that a model wrote."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from colony.conversation import Step
from colony.models import EventType, ReportStatus, WorkerRecord, WorkerState
from workers.showing import Progress

SECRET = "correct horse battery staple"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


def progress(**more: Any) -> Progress:
    """Of a child whose task and data hold a secret."""
    record = WorkerRecord(
        worker_id="w1",
        colony_id="shop",
        state=WorkerState.RUNNING,
        agent="scout",
        task=SECRET,
        data={"password": SECRET},
        stream_id="s",
        parent_id="w0",
        root_id="w0",
        version="1",
        created_at=NOW,
        since=NOW,
        started_at=NOW,
        **more,
    )
    return Progress.of(record)


def answered(turn: int, *tools: str) -> Step:
    """The checkpoint of an answer that opens calls of these tools."""
    opened = [(EventType.TOOL_CALL_STARTED.value, {"tool": tool}) for tool in tools]
    turn_complete = (EventType.LLM_TURN_COMPLETE.value, {"turn": turn})
    return Step([], requests=1, tokens=1200, events=[turn_complete, *opened])


def test_a_step_says_who_and_how_far() -> None:
    """Agent, turn, tool, what was used, and the links up."""
    shown = progress()
    shown.add(answered(1))
    shown.add(answered(2, "search"))
    kind, fields = shown.step()
    assert kind == "task-step"
    assert fields == {
        "uuid": "w1",
        "name": "agent:scout",
        "result": "turn 2 · calls search · 2 requests · 2,400 tokens",
        "colony": "RUNNING",
        "root_id": "w0",
        "parent_id": "w0",
        "agent_started": NOW.timestamp(),
    }
    shown.waits("children")
    assert shown.step()[1]["colony"] == "PARKED (children)"


def test_a_tool_that_a_model_made_up_is_not_named() -> None:
    """Its name would be the model's own words."""
    shown = progress()
    shown.add(answered(1, SECRET))
    assert shown.step()[1]["result"] == "turn 1 · calls a tool · 1 request · 1,200 tokens"


@pytest.mark.parametrize(
    ("status", "error", "kinds", "result", "colony"),
    [
        ("success", None, ["task-succeeded"], "success", "COMPLETED"),
        ("partial", SECRET, ["task-succeeded"], "partial", "COMPLETED (partial)"),
        ("failed", SECRET, ["task-failed"], "failed", "FAILED"),
        ("failed", "lost", ["task-failed"], "failed (lost)", "FAILED (lost)"),
        ("timeout", "timeout", ["task-failed"], "timeout", "FAILED (timeout)"),
        ("stopped", "stopped", ["task-revoked", "task-stopped"], "stopped", "STOPPED"),
    ],
)
def test_an_end_says_how(
    status: str, error: str | None, kinds: list[str], result: str, colony: str
) -> None:
    """The event that makes Flower's state, with the colony's and the agent's time; never an error's text."""
    ends = progress(epoch=2).ends(ReportStatus(status), error, 61.5)
    assert [kind for kind, _ in ends] == kinds
    for _, fields in ends:
        assert fields["result"] == f"{result} · 0 requests · 0 tokens"
        assert (fields["colony"], fields["runtime"]) == (colony, 61.5)
    assert SECRET not in str(ends)
