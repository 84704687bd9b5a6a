"""What ends a worker before it is done."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony.models import ReportStatus
from colony.testing_model import Call, HttpError, Item, report
from tests.unit.agent.harness import Harness, MemoryJournal, countdown
from workers.agent.outcome import Reported

PARTIAL, TIMEOUT = ReportStatus.PARTIAL, ReportStatus.TIMEOUT


def look() -> str:
    """Look."""
    return "seen"


def looking(messages: list[ModelMessage], parameters: ModelRequestParameters) -> Item:
    return [f"Look {len(messages)}.", Call("look")]


async def test_the_turn_limit_gives_what_there_is(agent: Harness) -> None:
    outcome = await agent.run([looking] * 9, look, max_turns=3)
    assert outcome == Reported(PARTIAL, "Look 5.", {}, "turn limit (3) reached")
    assert len(agent.seen) == 3
    assert len(agent.journal.results()) == 3, "calls of the last answer were still run"


async def test_the_turn_limit_without_a_text(agent: Harness) -> None:
    outcome = await agent.run([Call("look")] * 9, look, max_turns=2)
    assert outcome == Reported(PARTIAL, "turn limit (2) reached", {}, "turn limit (2) reached")


async def test_the_turn_limit_counts_answers_of_earlier_slices(agent: Harness) -> None:
    await agent.run([Call("look")] * 9, look, max_turns=2)
    await agent.run([Call("look")] * 9, look, max_turns=3, parts=agent.journal.parts)
    assert len(agent.seen) == 1


async def test_the_token_limit(agent: Harness) -> None:
    outcome = await agent.reported([looking] * 9, look, max_tokens=30)
    assert outcome.status is PARTIAL
    assert outcome.error == "token limit (30) reached: 30 used"
    assert len(agent.seen) == 2


async def test_a_report_within_the_limits_is_taken_as_it_is(agent: Harness) -> None:
    assert (await agent.reported(["Done."], max_turns=1, max_tokens=1)).error is None


@pytest.mark.parametrize("seconds", [0.001, 0, -1])
async def test_past_its_deadline_a_worker_asks_nothing(agent: Harness, seconds: float) -> None:
    outcome = await agent.reported(["never"], remaining=countdown(seconds))
    assert (outcome.status, outcome.error) == (TIMEOUT, "deadline reached after 0 model answers")
    assert agent.seen == []


async def test_a_question_is_cut_at_the_deadline(agent: Harness) -> None:
    model = agent.scripted(["never"], latency=60)
    loop = asyncio.get_running_loop()
    began = loop.time()
    outcome = await agent.reported(model, remaining=countdown(9, 9, 0.02, 0))
    assert loop.time() - began < 1
    assert outcome.status is TIMEOUT
    assert [part["kind"] for part in agent.journal.parts] == ["request"], "what was asked is kept"


async def test_calls_that_have_not_begun_at_the_deadline_never_do(agent: Harness) -> None:
    ran: list[int] = []

    def act(n: int) -> None:
        ran.append(n)

    journal = MemoryJournal()

    def remaining() -> timedelta:
        return timedelta(seconds=0 if ran else 9)

    answer = [Call("act", {"n": 1}), Call("act", {"n": 2})]
    outcome = await agent.reported([answer], act, remaining=remaining, journal=journal)
    assert outcome.status is TIMEOUT
    assert ran == [1]


async def test_a_filed_report_wins_over_the_deadline(agent: Harness) -> None:
    ran: list[int] = []

    def act() -> None:
        ran.append(1)

    def remaining() -> timedelta:
        return timedelta(seconds=0 if ran else 9)

    answer = [Call("act"), report("success", "Done.")]
    outcome = await agent.reported([answer], act, remaining=remaining)
    assert outcome.summary == "Done."


async def test_questions_are_counted_and_limited(agent: Harness) -> None:
    """max_requests ends a worker with partial; questions that failed count too."""
    outcome = await agent.reported([looking] * 9, look, max_requests=3)
    assert outcome.status is ReportStatus.PARTIAL
    assert outcome.error == "request limit (3) reached"
    failing = await agent.reported([HttpError(503)] * 9, max_requests=2)
    assert failing.status is ReportStatus.FAILED
    assert "request limit (2) reached" in str(failing.error)


async def test_a_soft_deadline_is_told_once_in_the_next_turn(agent: Harness) -> None:
    """Scenario 22: past its soft deadline the model is told to come to an end, once."""
    script = [Call("look"), Call("look"), report("partial", "Enough.")]
    outcome = await agent.reported(script, look, soft_remaining=countdown(0))
    assert outcome.status is PARTIAL
    warnings = [str(messages).count("[SOFT DEADLINE]") for messages in agent.seen]
    assert warnings == [1, 1, 1]


async def test_before_its_soft_deadline_nothing_is_said(agent: Harness) -> None:
    await agent.reported([report("success", "Done.")], soft_remaining=countdown(60))
    assert "[SOFT DEADLINE]" not in str(agent.seen)
