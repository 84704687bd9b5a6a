"""How a worker ends: its own report, or one made for it."""

from __future__ import annotations

import pytest

from colony.models import ReportStatus
from colony.testing_model import Call, ScriptItem, report
from tests.unit.agent.harness import Crash, Harness, MemoryJournal, text_answer
from workers.agent.outcome import Reported

SUCCESS, PARTIAL, FAILED = ReportStatus.SUCCESS, ReportStatus.PARTIAL, ReportStatus.FAILED


def note(text: str) -> str:
    """Take a note."""
    return f"noted {text}"


async def test_a_report_is_filed_with_the_answer_that_carries_it(agent: Harness) -> None:
    outcome = await agent.run([report("success", "Fetched 5 rows", {"rows": 5})])
    assert outcome == Reported(SUCCESS, "Fetched 5 rows", {"rows": 5})
    (step,) = agent.journal.steps
    assert step.filed is not None
    assert (step.filed.status, step.filed.data) == (SUCCESS, {"rows": 5})
    assert [part["kind"] for part in step.parts] == ["request", "answer", "result"]
    assert (step.requests, step.tokens) == (1, 15)


async def test_text_alone_is_reported_at_once(agent: Harness) -> None:
    assert await agent.run(["The food is north."]) == Reported(SUCCESS, "The food is north.")
    assert len(agent.seen) == 1


async def test_text_beside_calls_goes_on_to_the_report_of_a_later_turn(agent: Harness) -> None:
    outcome = await agent.run(
        [["I look.", Call("note", {"text": "a"})], report("partial", "Half.")], note
    )
    assert outcome == Reported(PARTIAL, "Half.")


async def test_text_that_was_cut_goes_on_and_is_joined(agent: Harness) -> None:
    outcome = await agent.run([text_answer("The food ", "length"), text_answer("is north.")])
    assert outcome == Reported(SUCCESS, "The food is north.")
    outcome = await agent.run([text_answer("Long", "length"), report("success", "Short.")])
    assert outcome == Reported(SUCCESS, "Short.")


async def test_a_report_beside_other_calls_is_filed_first_and_the_calls_are_run(
    agent: Harness,
) -> None:
    outcome = await agent.run([[Call("note", {"text": "a"}), report("success", "Done.")]], note)
    assert outcome == Reported(SUCCESS, "Done.")
    first, second = agent.journal.steps
    assert first.filed is not None
    assert [part["kind"] for part in first.parts] == ["request", "answer", "result"]
    assert [part["part"]["content"] for part in second.parts] == ["noted a"]
    assert len(agent.seen) == 1


async def test_a_filed_report_stands_when_its_other_calls_are_cut_by_a_crash(
    agent: Harness,
) -> None:
    script: list[ScriptItem] = [[Call("note", {"text": "a"}), report("success", "Done.")]]
    journal = MemoryJournal(crash_after=1)
    with pytest.raises(Crash):
        await agent.run(script, note, journal=journal)
    outcome = await agent.run(script, note, parts=journal.parts)
    assert outcome == Reported(SUCCESS, "Done.")
    assert agent.seen == []


async def test_the_first_valid_report_of_an_answer_counts(agent: Harness) -> None:
    outcome = await agent.run(
        [[report("great", "?"), report("failed", "No food."), report("success", "Food.")]]
    )
    assert outcome == Reported(FAILED, "No food.")
    assert [r["outcome"] for r in agent.journal.results()] == ["retried", "success", "failed"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (report("great", "x"), "status must be one of success, partial, failed; got 'great'"),
        (report("timeout", "x"), "status must be one of"),
        (Call("report_to_parent", {"summary": "x"}), "got None"),
        (Call("report_to_parent", '{"status": "succ'), "not valid JSON"),
        (Call("report_to_parent", "[1]"), "expected an object"),
        (Call("report_to_parent", '{"status": "success", "data": {"a": NaN}}'), "not valid JSON"),
        (report("success", "x" * 3000), "3027 bytes as JSON, and at most 2048"),
    ],
)
async def test_what_is_no_report_is_an_error_the_model_can_mend(
    agent: Harness, call: Call, words: str
) -> None:
    outcome = await agent.run([call, report("success", "Mended.")], max_report_bytes=2048)
    assert outcome == Reported(SUCCESS, "Mended.")
    assert words in agent.journal.results()[0]["content"]
    assert agent.journal.steps[0].filed is None


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (report("success", "  "), Reported(SUCCESS, "(no summary given)")),
        (Call("report_to_parent", {"status": "success"}), Reported(SUCCESS, "(no summary given)")),
        (report(" Success ", "x", [1, 2]), Reported(SUCCESS, "x", {"value": [1, 2]})),
        (report("success", "x", 5), Reported(SUCCESS, "x", {"value": 5})),
        (report("success", "x", "text"), Reported(SUCCESS, "x", {"value": "text"})),
        (Call("report_to_parent", '{"status":"failed","summary":7}'), Reported(FAILED, "7")),
    ],
)
async def test_reports_are_normalised(agent: Harness, call: Call, expected: Reported) -> None:
    assert await agent.run([call]) == expected


async def test_a_long_text_is_cut_for_the_summary(agent: Harness) -> None:
    outcome = await agent.reported(["ä" * 10_000], max_report_bytes=2048)
    assert outcome.summary.endswith("[cut]")
    assert len(outcome.summary.encode()) <= 1024


async def test_an_empty_answer_is_asked_for_once_more(agent: Harness) -> None:
    assert await agent.run(["", "Now."]) == Reported(SUCCESS, "Now.")
    outcome = await agent.reported(["", "", "never asked"])
    assert outcome.status is FAILED
    assert "empty answer" in (outcome.error or "")
    assert len(agent.seen) == 2


@pytest.mark.parametrize("reason", ["content_filter", "length", "error"])
async def test_a_withheld_answer_fails_with_the_reason(agent: Harness, reason: str) -> None:
    outcome = await agent.reported([text_answer("", reason)])
    assert outcome.status is FAILED
    assert reason in (outcome.error or "")


async def test_filtered_text_is_partial(agent: Harness) -> None:
    outcome = await agent.reported([text_answer("It is", "content_filter")])
    assert (outcome.status, outcome.summary) == (PARTIAL, "It is")
    assert "content_filter" in (outcome.error or "")
