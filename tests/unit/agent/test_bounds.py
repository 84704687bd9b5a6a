"""How much of what a model or a tool says is taken."""

from __future__ import annotations

import pytest

from colony.models import ReportStatus
from colony.testing_model import Call
from colony.tools import ToolContext
from tests.unit.agent.harness import Harness
from workers.agent.text import MAX_ANSWER_BYTES


@pytest.mark.parametrize("stream", [False, True])
async def test_an_endless_answer_ends_the_worker(agent: Harness, stream: bool) -> None:
    """It is not written, also where it streams, and what was asked before stays readable."""
    outcome = await agent.reported(["x" * (MAX_ANSWER_BYTES + 1)], stream=stream)
    assert outcome.status is ReportStatus.FAILED
    assert f"{MAX_ANSWER_BYTES}" in str(outcome.error)
    assert all(len(str(part)) < 10_000 for part in agent.journal.parts)


async def test_endless_arguments_end_the_worker(agent: Harness) -> None:
    """A call is part of the answer: the tool is not called."""
    called: list[str] = []

    def take(text: str) -> None:
        called.append(text)

    outcome = await agent.reported([Call("take", {"text": "x" * MAX_ANSWER_BYTES})], take)
    assert outcome.status is ReportStatus.FAILED
    assert called == []


async def test_progress_is_cut(agent: Harness) -> None:
    """Its message is kept in part; whoever listens is told that there was more."""

    async def chatter(context: ToolContext) -> None:
        await context.progress("step 1 " + "x" * 1_000_000, rows=["y" * 1_000_000])

    await agent.run([[Call("chatter")], "Done."], chatter)
    [told] = [told for name, told in agent.journal.told if name == "progress"]
    assert told["message"].startswith("step 1 ")
    assert told["message"].endswith("[cut]")
    assert told["cut"] is True
    assert len(str(told)) < 100_000
