"""Background work as the agent sees it: a handle at once, later a message of its own, exactly once."""

from __future__ import annotations

import re
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ToolReturnPart,
    UserPromptPart,
)

from colony.models import ReportStatus
from colony.testing_model import Call, ScriptItem, report
from colony.tools import Park, make_tool
from tests.unit.agent.harness import (
    Crash,
    Harness,
    MemoryJournal,
    countdown,
    text_answer,
    without_times,
)
from tests.unit.agent.nest import FACE, Nest, good
from workers.agent.outcome import Outcome, Parked, Reported, Waiting
from workers.agent.transcript import Transcript

SUCCESS, PARTIAL = ReportStatus.SUCCESS, ReportStatus.PARTIAL
HEAD = "[BACKGROUND WORK ENDED: "
DONE = report("success", "Done.")
GO = Call("delegate_task", {"goal": "Find food"})
FIRST, SECOND = "b-call_0_0", "b-call_1_0"


async def note(text: str) -> str:
    """Take a note."""
    return f"noted {text}"


NOTE = Call("note", {"text": "a"})
TOOLS = (make_tool(note, idempotent=True),)


def blocks(messages: list[ModelMessage]) -> list[str]:
    """What the model was told of background work, in order."""
    return [text for text in prompts(messages) if text.startswith(HEAD)]


def prompts(messages: list[ModelMessage]) -> list[str]:
    """All that was said to the model, without results."""
    return [
        str(part.content)
        for message in messages
        if isinstance(message, ModelRequest)
        for part in message.parts
        if isinstance(part, UserPromptPart)
    ]


def handles(messages: list[ModelMessage]) -> list[str]:
    """The handles of the units that the model was told of."""
    return [block.removeprefix(HEAD).partition("]")[0] for block in blocks(messages)]


def shape(messages: list[ModelMessage]) -> list[str]:
    """Who spoke, message by message."""
    return [_kind(message) for message in messages]


def _kind(message: ModelMessage) -> str:
    if isinstance(message, ModelResponse):
        return "answer"
    kinds = {type(part) for part in message.parts}
    assert len(kinds) == 1, f"spliced: {message}"
    if kinds == {ToolReturnPart}:
        return "results"
    return "told" if handles([message]) else "prompt"


async def told_block(
    agent: Harness, nest: Nest, arguments: dict[str, Any], *reports: Any, **options: Any
) -> str:
    """The block of one unit that was dispatched with these arguments and ended with these reports."""

    def end_it(*_: Any) -> Any:
        nest.end(FIRST, *reports)
        return NOTE

    script: list[ScriptItem] = [Call("delegate_task", arguments), end_it, DONE]
    assert await agent.run(script, *TOOLS, offspring=nest, **options) == Reported(SUCCESS, "Done.")
    [block] = blocks(agent.seen[-1])
    return block


# -- the handle, and the block ------------------------------------------------------------------


async def test_a_dispatch_returns_a_handle_at_once(agent: Harness) -> None:
    """The call's result names the handle, and the agent goes on while the work is out."""
    nest = Nest()
    outcome = await agent.run([GO, NOTE, DONE], *TOOLS, offspring=nest)
    assert agent.journal.results()[0]["content"] == {
        "handle": FIRST,
        "status": "dispatched",
        "worker_count": 1,
    }
    assert agent.journal.results()[1]["content"] == "noted a"
    assert outcome == Waiting((FIRST,))
    assert [task.task for task in nest.units[FIRST]] == ["Find food"]


async def test_a_block_can_be_read_without_the_history(agent: Harness) -> None:
    """Goal, context, data, agent, model, tools, status, duration, task i of N, result: all in it (16)."""
    tasks = [
        {"task": "Look north", "agent": "scout", "data": {"steps": 3}},
        {"task": "Look south", "agent": "scout"},
    ]
    arguments = {"tasks": tasks, "context": "It is winter.", "timeout_seconds": 9.0}
    nest = Nest()
    failed = good("Lost the way.", "failed", "no path")
    block = await told_block(agent, nest, arguments, good("Found honey.", jars=2), failed)
    assert block.startswith(f"{HEAD}{FIRST}]\n")
    assert "Dispatched: 2026-01-01 12:30:00 UTC (" in block
    assert "ended after 3.0 s: 1 success, 1 failed" in block
    first, second = block.split("\n\n--- ")[1:]
    assert first.splitlines() == [
        "TASK 1 of 2 ---",
        "Goal: Look north",
        "",
        "Context:",
        "It is winter.",
        'Data: {"steps": 3}',
        f"Agent: {FACE}",
        "Status: success after 2.5 s, 2 model requests, 30 tokens",
        "Result: Found honey.",
        'Result data: {"jars": 2}',
    ]
    assert second.splitlines()[0] == "TASK 2 of 2 ---"
    assert second.splitlines()[-3:] == [
        "Status: failed after 2.5 s, 2 model requests, 30 tokens",
        "Error: no path",
        "Result: Lost the way.",
    ]
    assert nest.timeouts == {FIRST: timedelta(seconds=9)}


async def test_a_block_is_bounded_and_keeps_the_result(agent: Harness) -> None:
    """Long goals, data, errors and results of 8 members stay within what a tool result may have, and none
    crowds out the status and the beginning of the result."""
    tasks = [{"task": f"{i} " + "ö" * 5000, "data": {"x": "y" * 5000}} for i in range(8)]
    reports = [good(f"Found {i} " + "z" * 9000, "failed", "e" * 5000) for i in range(8)]
    most = 16_384
    block = await told_block(agent, Nest(), {"tasks": tasks}, *reports, max_tool_result_bytes=most)
    assert len(block.encode()) < most + 500
    for i in range(8):
        assert f"TASK {i + 1} of 8" in block
        assert f"Goal: {i} ö" in block
        assert f"Result: Found {i} zzz" in block
    assert block.count("Status: failed after 2.5 s") == 8


async def test_a_unit_that_was_not_kept_is_told_as_such(agent: Harness) -> None:
    """Its end is told all the same: the agent does not wait for ever."""
    nest = Nest()

    def forget(*_: Any) -> Any:
        nest.end(FIRST)
        nest.over[FIRST] = type(nest.over[FIRST])(FIRST, [], {})
        return NOTE

    outcome = await agent.run([GO, forget, DONE], *TOOLS, offspring=nest)
    assert outcome == Reported(SUCCESS, "Done.")
    assert "not kept so long" in blocks(agent.seen[-1])[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "give either a goal or tasks"),
        ({"goal": "  "}, "give either a goal or tasks"),
        ({"goal": "x", "tasks": [{"task": "y"}]}, "give either a goal or tasks"),
        ({"tasks": []}, "give either a goal or tasks"),
        ({"tasks": [{"task": "y"}, {"task": " "}]}, "tasks[1].task is blank"),
        ({"tasks": [{"task": "y"}] * 65}, "65 tasks in one call, at most 64"),
        ({"goal": "x", "timeout_seconds": 0}, "timeout_seconds must be positive"),
        ({"goal": "x", "timeout_seconds": 3e11}, "at most 315360000 (ten years), got 3e+11"),
    ],
)
async def test_a_bad_dispatch_is_told_and_nothing_is_handed_out(
    agent: Harness, arguments: dict[str, Any], named: str
) -> None:
    """The error names what to mend; there is nothing to wait for."""
    nest = Nest()
    script: list[ScriptItem] = [Call("delegate_task", arguments), DONE]
    outcome = await agent.run(script, offspring=nest)
    assert outcome == Reported(SUCCESS, "Done.")
    assert named in str(agent.journal.results()[0]["content"])
    assert nest.units == {}


async def test_a_refused_capacity_is_told(agent: Harness) -> None:
    """The model reads how many may be out; the unit that was accepted is waited for, no other."""
    nest = Nest(most=1)
    outcome = await agent.run([[GO, GO], DONE], offspring=nest)
    taken, refused, _ = agent.journal.results()
    assert taken["content"]["handle"] == FIRST
    assert refused["outcome"] == "failed"
    assert "1 units are out, at most 1 may be" in refused["content"]
    assert outcome == Waiting((FIRST,))


# -- between two turns ----------------------------------------------------------------------------


async def test_an_end_is_told_between_two_turns(agent: Harness) -> None:
    """A unit that ends while the model answers with calls: they and their results come first, then the
    block as a message of its own, once."""
    nest = Nest()
    script: list[ScriptItem] = [GO, nest.ends([NOTE, NOTE], FIRST), NOTE, DONE]
    outcome = await agent.run(script, *TOOLS, offspring=nest)
    assert outcome == Reported(SUCCESS, "Done.")
    assert shape(agent.seen[2]) == ["prompt", "answer", "results", "answer", "results", "told"]
    assert shape(agent.seen[3]) == [*shape(agent.seen[2]), "answer", "results"]
    assert handles(agent.seen[3]) == [FIRST]


async def test_several_that_ended_at_once_are_told_in_the_order_of_dispatch(
    agent: Harness,
) -> None:
    """A message each, whichever ended first."""
    nest = Nest()
    script: list[ScriptItem] = [GO, GO, nest.ends(NOTE, SECOND, FIRST), DONE]
    outcome = await agent.run(script, *TOOLS, offspring=nest)
    assert outcome == Reported(SUCCESS, "Done.")
    assert shape(agent.seen[-1])[-2:] == ["told", "told"]
    assert handles(agent.seen[-1]) == [FIRST, SECOND]


async def test_what_the_model_was_told_is_in_the_conversation(agent: Harness) -> None:
    """Written with the answer to it: one restored from the parts has the same messages."""
    nest = Nest()
    await agent.run([GO, nest.ends(NOTE, FIRST), DONE], *TOOLS, offspring=nest)
    restored = Transcript.restore(agent.journal.parts).messages
    assert restored[: len(agent.seen[-1])] == agent.seen[-1]
    assert handles(restored) == [FIRST]


# -- the end of the parent ----------------------------------------------------------------------------


async def life(
    agent: Harness,
    nest: Nest,
    script: list[ScriptItem],
    journal: MemoryJournal | None = None,
    *,
    all_end_with_the_node: bool = False,
) -> Outcome:
    """Run it to its report: whenever it waits one unit ends, and when its node dies it goes on."""
    journal = journal or MemoryJournal()
    for _ in range(20):
        try:
            outcome = await agent.run(
                script, *TOOLS, offspring=nest, journal=journal, parts=journal.parts
            )
        except Crash:
            for handle in nest.out if all_end_with_the_node else ():
                nest.end(handle)
            journal.crash_after = journal.crash_before = None
            continue
        if not isinstance(outcome, Waiting):
            return outcome
        assert set(outcome.batch_ids) <= set(nest.out), "it waits for what has ended"
        nest.end(outcome.batch_ids[0])
    raise AssertionError("it never reported")


async def test_a_report_is_held_back_while_work_is_out_and_filed_after(agent: Harness) -> None:
    """The early report is filed provisionally, and answered so; the worker sleeps, is told, and asked
    again."""
    nest, journal = Nest(), MemoryJournal()
    script = [GO, report("success", "Too early."), DONE]
    outcome = await life(agent, nest, [*script], journal)
    assert outcome == Reported(SUCCESS, "Done.")
    early, last = journal.filed
    assert (early.summary, early.provisional) == ("Too early.", True)
    assert (last.summary, last.provisional) == ("Done.", False)
    answer = journal.results()[1]
    assert answer["outcome"] == "success"
    assert "Report again then" in answer["content"]
    assert shape(agent.seen[-1]) == ["prompt", *["answer", "results"] * 2, "told"]


async def test_a_text_is_held_back_too(agent: Harness) -> None:
    """An answer of text alone does not end it: once the work has ended it is told, and asked again."""
    nest = Nest()
    outcome = await life(agent, nest, [GO, "I think that is all.", "All told."])
    assert outcome == Reported(SUCCESS, "All told.")
    assert shape(agent.seen[-1]) == ["prompt", "answer", "results", "answer", "told"]


async def test_it_is_asked_again_after_each_end(agent: Harness) -> None:
    """Two units, ended one after the other: two sleeps, each block once, then the report."""
    nest = Nest()
    outcome = await life(agent, nest, [[GO, GO], DONE, "Almost.", DONE])
    assert outcome == Reported(SUCCESS, "Done.")
    assert handles(agent.seen[-1]) == [FIRST, "b-call_0_1"]


async def test_one_that_ended_meanwhile_is_told_without_sleep(agent: Harness) -> None:
    """The unit ends while the model writes its report: held back, told, asked again, in one run."""
    nest = Nest()
    outcome = await agent.run([GO, nest.ends(DONE, FIRST), DONE], offspring=nest)
    assert outcome == Reported(SUCCESS, "Done.")
    assert handles(agent.seen[-1]) == [FIRST]
    assert [filed.provisional for filed in agent.journal.filed] == [True, False]


@pytest.mark.parametrize("order", ["delegate first", "report first"])
async def test_a_report_beside_a_dispatch_waits_for_it(agent: Harness, order: str) -> None:
    """[delegate_task, report] in one answer, either way round: the work is handed out, the report
    provisional, and asked for again at the end."""
    nest, journal = Nest(), MemoryJournal()
    both = [GO, DONE] if order == "delegate first" else [DONE, GO]
    outcome = await life(agent, nest, [both, report("partial", "After.")], journal)
    assert outcome == Reported(PARTIAL, "After.")
    assert [filed.provisional for filed in journal.filed] == [True, False]
    assert len(nest.units) == 1
    assert handles(agent.seen[-1]) == list(nest.units)


@pytest.mark.parametrize("order", ["delegate first", "report first"])
async def test_a_report_beside_a_dispatch_that_was_refused_stands(
    agent: Harness, order: str
) -> None:
    """Nothing is out: no sleep, nothing is said of work, and it is not asked again."""
    both = [GO, DONE] if order == "delegate first" else [DONE, GO]
    outcome = await agent.run([both, report("partial", "Asked again.")], offspring=Nest(most=0))
    assert outcome == Reported(SUCCESS, "Done.")
    assert len(agent.seen) == 1
    refused = next(r for r in agent.journal.results() if r["tool_name"] == "delegate_task")
    assert refused["outcome"] == "failed"


async def test_a_report_beside_one_refused_dispatch_of_two_waits_for_the_other(
    agent: Harness,
) -> None:
    """What was accepted is out, and awaited."""
    nest = Nest(most=1)
    outcome = await life(agent, nest, [[GO, GO, DONE], report("partial", "After.")])
    assert outcome == Reported(PARTIAL, "After.")
    assert len(nest.units) == 1


async def test_a_report_beside_a_refused_dispatch_waits_for_what_was_out_before(
    agent: Harness,
) -> None:
    """An earlier unit is out: the refusal of another changes nothing for it."""
    outcome = await life(agent, Nest(most=1), [GO, [GO, DONE], report("partial", "After.")])
    assert outcome == Reported(PARTIAL, "After.")


async def test_a_report_that_has_to_be_mended_is_not_held_back(agent: Harness) -> None:
    """Unknown status while work is out: the model is told to mend it at once, and does not sleep."""
    nest = Nest()
    outcome = await agent.run([GO, report("great", "x"), NOTE, DONE], *TOOLS, offspring=nest)
    assert agent.journal.results()[1]["outcome"] == "retried"
    assert outcome == Waiting((FIRST,))
    assert len(agent.seen) == 4


@pytest.mark.parametrize("last", [DONE, "Done.", [GO, DONE]])
async def test_one_that_leaves_does_not_wait(agent: Harness, last: Any) -> None:
    """at_end="leave": report or text, it ends at once, and its work goes on without it."""
    nest = Nest()
    outcome = await agent.run([GO, last], offspring=nest, at_end="leave")
    assert outcome == Reported(SUCCESS, "Done.")
    assert FIRST in nest.out


async def test_one_that_leaves_is_still_told_what_ends_before(agent: Harness) -> None:
    """While it works, an end is told as always."""
    nest = Nest()
    script: list[ScriptItem] = [GO, nest.ends(NOTE, FIRST), DONE]
    await agent.run(script, *TOOLS, offspring=nest, at_end="leave")
    assert handles(agent.seen[-1]) == [FIRST]


@pytest.mark.parametrize("last", [DONE, "Done."])
async def test_past_its_soft_deadline_it_does_not_wait(agent: Harness, last: Any) -> None:
    """Report or text, it ends with it."""
    nest = Nest()
    outcome = await agent.run([GO, last], offspring=nest, soft_remaining=countdown(-1))
    assert outcome == Reported(SUCCESS, "Done.")
    assert nest.out == [FIRST]


@pytest.mark.parametrize("last", [DONE, "Done."])
async def test_woken_at_its_soft_deadline_it_ends(agent: Harness, last: Any) -> None:
    """It had begun to wait before: a text counts then, a report is asked for again, with the warning."""
    nest, journal = Nest(), MemoryJournal()
    script: list[ScriptItem] = [GO, last, report("partial", "In time.")]
    options: dict[str, Any] = {"offspring": nest, "journal": journal}
    outcome = await agent.run(script, soft_remaining=countdown(5), **options)
    assert outcome == Waiting((FIRST,))
    late = await agent.run(script, soft_remaining=countdown(-1), parts=journal.parts, **options)
    if last == "Done.":
        assert late == Reported(SUCCESS, "Done.")
        return
    assert late == Reported(PARTIAL, "In time.")
    assert prompts(agent.seen[-1])[-1].startswith("[SOFT DEADLINE]")


async def test_a_worker_that_fails_or_reaches_a_limit_does_not_wait(agent: Harness) -> None:
    """Waiting could not mend it: turn limit, and a withheld answer."""
    nest = Nest()
    outcome = await agent.run([GO, NOTE, DONE], *TOOLS, offspring=nest, max_turns=2)
    assert isinstance(outcome, Reported)
    assert "turn limit" in (outcome.error or "")
    outcome = await agent.run([GO, text_answer("It is", "content_filter")], offspring=Nest())
    assert isinstance(outcome, Reported)
    assert outcome.status is PARTIAL


async def test_background_work_does_not_mix_with_children_that_are_waited_for(
    agent: Harness,
) -> None:
    """A parallel call sleeps for its own batch while a unit is out, and only the unit has a block."""
    nest, journal = Nest(), MemoryJournal()
    parallel = Call("run_parallel_workers", {"tasks": [{"task": "x"}]})
    script: list[ScriptItem] = [GO, parallel, DONE, DONE]
    outcome = await agent.run(script, offspring=nest, journal=journal)
    assert outcome == Waiting((SECOND,))
    nest.end(SECOND)
    outcome = await agent.run(script, offspring=nest, journal=journal, parts=journal.parts)
    assert outcome == Waiting((FIRST,))
    nest.end(FIRST)
    outcome = await agent.run(script, offspring=nest, journal=journal, parts=journal.parts)
    assert outcome == Reported(SUCCESS, "Done.")
    assert handles(agent.seen[-1]) == [FIRST]


async def test_a_timed_pause_and_a_held_back_report(agent: Harness) -> None:
    """[a tool that sleeps, report] with work out: first the pause, then the wait for the work."""

    async def doze() -> str:
        """Sleep."""
        raise Park(timedelta(seconds=5), "slept")

    nest, journal = Nest(), MemoryJournal()
    script: list[ScriptItem] = [GO, [Call("doze"), DONE], DONE]
    options: dict[str, Any] = {"offspring": nest, "journal": journal}
    assert isinstance(await agent.run(script, doze, **options), Parked)
    assert await agent.run(script, doze, parts=journal.parts, **options) == Waiting((FIRST,))


# -- cut anywhere -----------------------------------------------------------------------------------

MANY = Call("delegate_task", {"tasks": [{"task": "a"}, {"task": "b"}]})


LONG: list[ScriptItem] = [
    [NOTE, GO, NOTE],
    [MANY, DONE],
    [GO, NOTE],
    "Nearly.",
    report("success", "Not yet."),
    DONE,
]
"""Three dispatches beside other calls; reports and a text that are held back."""


async def whole_life(
    agent: Harness, journal: MemoryJournal
) -> tuple[Nest, list[ModelMessage], Outcome]:
    nest = Nest()
    outcome = await life(agent, nest, LONG, journal)
    return nest, Transcript.restore(journal.parts).messages, outcome


def steady(messages: list[ModelMessage]) -> list[Any]:
    """Messages without what tells the time."""
    return [re.sub(r"\(\d+ s ago\)", "", str(part)) for part in without_times(messages)]


STEPS = range(1, 13)


async def test_there_are_as_many_steps_as_are_cut_below(agent: Harness) -> None:
    """The whole life, uncut."""
    journal = MemoryJournal()
    nest, messages, outcome = await whole_life(agent, journal)
    assert outcome == Reported(SUCCESS, "Done.")
    assert len(journal.steps) == len(STEPS)
    assert sorted(handles(messages)) == sorted(nest.units)
    assert len(nest.units) == 3


@pytest.mark.parametrize("where", ["crash_after", "crash_before"])
@pytest.mark.parametrize("step", STEPS)
async def test_cut_anywhere_the_conversation_is_the_same(
    agent: Harness, where: str, step: int
) -> None:
    """A node that dies before or after any step: the same units, each told once at the same place, the
    same reports, each filed once."""
    _, uncut, _ = await whole_life(agent, MemoryJournal())
    journal = MemoryJournal()
    setattr(journal, where, step)
    nest, messages, outcome = await whole_life(agent, journal)
    assert outcome == Reported(SUCCESS, "Done.")
    assert steady(messages) == steady(uncut)
    assert len(nest.units) == 3
    assert [filed.summary for filed in journal.filed] == ["Done.", "Not yet.", "Done."]


@pytest.mark.parametrize("where", ["crash_after", "crash_before"])
@pytest.mark.parametrize("step", STEPS)
async def test_cut_anywhere_while_units_end_each_is_told_once(
    agent: Harness, where: str, step: int
) -> None:
    """The node dies, and all that is out ends before the next one goes on: told once each, never
    between calls and their results."""
    nest, journal = Nest(), MemoryJournal()
    setattr(journal, where, step)
    outcome = await life(agent, nest, LONG, journal, all_end_with_the_node=True)
    assert isinstance(outcome, Reported)
    assert outcome.status is SUCCESS
    messages = Transcript.restore(journal.parts).messages
    assert sorted(handles(messages)) == sorted(nest.units)
    assert [filed.provisional for filed in journal.filed][-1] is (outcome.summary == "Nearly.")
    for message, following in pairwise(messages):
        if isinstance(message, ModelResponse) and message.tool_calls:
            assert _kind(following) == "results"
