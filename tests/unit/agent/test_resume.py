"""A run that is cut anywhere is continued from what was written, and nothing is asked again."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolReturnPart, UserPromptPart

from colony.conversation import Part
from colony.testing_model import Call, ScriptItem, report
from colony.tools import ToolContext, make_tool
from tests.unit.agent.harness import Crash, Harness, MemoryJournal, calls_answer, without_times
from workers.agent.outcome import Reported
from workers.agent.transcript import Transcript

LOOK, PAY, SET = "look", "pay", "put"


class World:
    """Tools that remember how often they were called, and with which keys."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.tools = (
            make_tool(self.look, read_only=True),
            make_tool(self.pay),
            make_tool(self.put, idempotent=True),
        )

    def look(self, at: str) -> dict[str, Any]:
        """Look."""
        self.calls.append((LOOK, at))
        return {"at": at, "seen": [1, 2.5, None]}

    async def pay(self, amount: int) -> str:
        """Pay."""
        self.calls.append((PAY, amount))
        return f"paid {amount}"

    async def put(self, value: str, context: ToolContext) -> str:
        """Put."""
        self.calls.append((SET, context.idempotency_key))
        return value


SCRIPT: list[ScriptItem] = [
    [
        "Let me see.",
        Call(LOOK, {"at": "north"}),
        Call(LOOK, {"at": "south"}),
        Call(PAY, {"amount": 1}),
    ],
    [
        Call(PAY, {"amount": 2}),
        Call(LOOK, {"at": "west"}),
        Call("nothing"),
        Call(SET, {"value": "x"}),
    ],
    [Call(LOOK, {"wrong": 1})],
    "",
    [Call(SET, {"value": "y"})],
    report("success", "Done.", {"n": 1}),
]


async def uninterrupted(agent: Harness) -> tuple[list[Any], list[Part]]:
    await agent.run(SCRIPT, *World().tools)
    return agent.seen, agent.journal.parts


CHECKPOINTS = range(1, 16)


async def test_there_are_as_many_checkpoints_as_are_cut_below(agent: Harness) -> None:
    await agent.run(SCRIPT, *World().tools)
    assert len(agent.journal.steps) == len(CHECKPOINTS)


@pytest.mark.parametrize("cut", CHECKPOINTS)
async def test_cut_after_a_checkpoint_the_run_goes_on_as_if_it_had_not_been(
    agent: Harness, cut: int
) -> None:
    full, _ = await uninterrupted(agent)
    world, journal = World(), MemoryJournal(crash_after=cut)
    with pytest.raises(Crash):
        await agent.run(SCRIPT, *world.tools, journal=journal)
    asked_before = agent.seen
    outcome = await agent.run(SCRIPT, *world.tools, parts=journal.parts)
    asked_after = agent.seen

    assert outcome == Reported(outcome.status, "Done.", {"n": 1})  # type: ignore[union-attr]
    assert len(asked_before) + len(asked_after) == len(full), "an answered request was asked again"
    paid = [call for call in world.calls if call[0] == PAY]
    assert len(paid) == len(set(paid)), "a call with an effect was made twice"
    if asked_after:
        again = Transcript.restore([*journal.parts, *agent.journal.parts])
        assert again.messages[: len(asked_after[-1])] == asked_after[-1]
        interrupted = [
            part
            for message in asked_after[-1]
            for part in message.parts
            if isinstance(part, ToolReturnPart) and part.outcome == "interrupted"
        ]
        if not interrupted:
            assert without_times(asked_after[-1]) == without_times(full[-1])


@pytest.mark.parametrize("cut", CHECKPOINTS)
async def test_cut_before_a_checkpoint_no_call_with_an_effect_is_repeated(
    agent: Harness, cut: int
) -> None:
    world, journal = World(), MemoryJournal(crash_before=cut)
    with pytest.raises(Crash):
        await agent.run(SCRIPT, *world.tools, journal=journal)
    answers_before = sum(part["kind"] == "answer" for part in journal.parts)
    outcome = await agent.reported(SCRIPT, *world.tools, parts=journal.parts)
    assert outcome.summary == "Done."
    assert len(agent.seen) == len(SCRIPT) - answers_before
    paid = [call for call in world.calls if call[0] == PAY]
    assert sorted(paid) == [(PAY, 1), (PAY, 2)]


async def test_the_messages_of_each_turn_are_those_that_are_restored_field_by_field(
    agent: Harness,
) -> None:
    full, parts = await uninterrupted(agent)
    restored = Transcript.restore(parts).messages
    for sent in full:
        assert restored[: len(sent)] == sent


async def test_a_crash_before_the_first_checkpoint_asks_anew(agent: Harness) -> None:
    with pytest.raises(Crash):
        await agent.run(["Hi."], journal=MemoryJournal(crash_before=1))
    assert await agent.run(["Hi."]) == await agent.run(["Hi."])


async def test_a_call_that_was_open_and_has_effects_is_not_repeated(agent: Harness) -> None:
    script: list[ScriptItem] = [[Call(PAY, {"amount": 1}), Call(PAY, {"amount": 2})], "Done."]
    world, journal = World(), MemoryJournal(crash_before=2)
    with pytest.raises(Crash):
        await agent.run(script, *world.tools, journal=journal)
    assert world.calls == [(PAY, 1)]
    await agent.run(script, *world.tools, parts=journal.parts)
    assert world.calls == [(PAY, 1), (PAY, 2)], "the call that had not been opened is simply run"
    unknown, paid = agent.journal.results()
    assert unknown["content"].startswith("outcome unknown: the node that ran this call died")
    assert paid["content"] == "paid 2"
    assert [p.get("opened") for p in agent.journal.parts][:2] == [["call_0_1"], []]


async def test_an_idempotent_call_that_was_open_is_repeated_with_the_same_key(
    agent: Harness,
) -> None:
    script: list[ScriptItem] = [Call(SET, {"value": "x"}), "Done."]
    world, journal = World(), MemoryJournal(crash_before=2)
    with pytest.raises(Crash):
        await agent.run(script, *world.tools, journal=journal)
    await agent.run(script, *world.tools, parts=journal.parts)
    assert world.calls == [(SET, "w1:call_0_0")] * 2


async def test_opened_names_the_group_that_begins(agent: Harness) -> None:
    await agent.run([SCRIPT[0], "Done."], *World().tools)
    _, answer, first, second, third, _ = agent.journal.parts
    assert answer["opened"] == ["call_0_1", "call_0_2"]
    assert first["opened"] == []
    assert second["opened"] == ["call_0_3"]
    assert third["opened"] == []


async def test_results_are_sent_in_the_order_of_their_calls(agent: Harness) -> None:
    parts: list[Part] = await written(agent, [Call(LOOK, {"at": "a"}), Call(LOOK, {"at": "b"})])
    request, answer, first, second = parts[:4]
    for order in itertools.permutations([first, second]):
        messages = Transcript.restore([request, answer, *order]).messages
        assert [part.tool_call_id for part in messages[-1].parts] == ["call_0_0", "call_0_1"]  # type: ignore[union-attr]


async def written(agent: Harness, first_answer: Any) -> list[Part]:
    await agent.run([first_answer, "Done."], *World().tools)
    return agent.journal.parts


async def test_a_word_that_came_between_results_is_said_after_them(agent: Harness) -> None:
    request, answer, first, second, _ = await written(
        agent, [Call(LOOK, {"at": "a"}), Call(LOOK, {"at": "b"})]
    )
    word: Part = {
        "kind": "request",
        "message": {
            "parts": [{"part_kind": "user-prompt", "content": "Hurry."}],
            "kind": "request",
        },
    }
    messages = Transcript.restore([request, answer, first, word, second]).messages
    assert isinstance(messages[2].parts[0], ToolReturnPart)
    assert isinstance(messages[3].parts[0], UserPromptPart)
    outcome = await agent.run(["", "Hurried."], parts=[request, answer, first, word, second])
    assert outcome == Reported(outcome.status, "Hurried.")  # type: ignore[union-attr]


async def test_a_word_after_a_final_text_is_answered(agent: Harness) -> None:
    await agent.run(["First."])
    word: Part = {
        "kind": "request",
        "message": {"parts": [{"part_kind": "user-prompt", "content": "And?"}], "kind": "request"},
    }
    outcome = await agent.reported(["First.", "Second."], parts=[*agent.journal.parts, word])
    assert outcome.summary == "Second."


async def test_a_stored_end_is_reported_without_asking(agent: Harness) -> None:
    await agent.run(["First."])
    outcome = await agent.reported(["First.", "never"], parts=agent.journal.parts)
    assert outcome.summary == "First."
    assert agent.seen == []


async def test_ids_that_models_repeat_or_leave_out_are_made_unique(agent: Harness) -> None:
    look = {"at": "a"}
    script: list[ScriptItem] = [
        calls_answer((LOOK, look, "1"), (LOOK, look, "1"), (LOOK, look, "")),
        calls_answer((LOOK, look, "1")),
        "Done.",
    ]
    await agent.run(script, *World().tools)
    ids = [part["tool_call_id"] for part in agent.journal.results()]
    assert len(ids) == 4 == len(set(ids))
    assert "1" in ids
    for message in agent.seen[-1]:
        if isinstance(message, ModelResponse):
            assert all(call.tool_call_id in ids for call in message.tool_calls)


async def test_results_belong_to_the_latest_answer_before_them(agent: Harness) -> None:
    """As in conversations that were written with repeated ids."""
    answer = calls_answer((LOOK, {"at": "a"}, "1"))
    transcript = Transcript()
    transcript.add_request(ModelRequest.user_text_prompt("Go."))
    first = transcript.add_answer(*transcript.read_back(answer), ["1"])
    result = transcript.add_result(ToolReturnPart(LOOK, "seen", "1"))
    restored = Transcript.restore([*first, result, first[1]])
    assert [call.tool_call_id for call in restored.unresolved] == ["1"]


async def test_what_cannot_be_read_fails_the_worker_and_names_the_part(agent: Harness) -> None:
    strange: Any = {"kind": "hologram"}
    outcome = await agent.reported(["x"], parts=[strange])
    assert outcome.error is not None
    assert "part 0 of the conversation cannot be read: unknown kind 'hologram'" in outcome.error


async def test_text_that_is_no_unicode_is_stored(agent: Harness) -> None:
    outcome = await agent.reported(["a\ud800b"])
    assert outcome.summary == "a?b"
    agent.journal.parts[1]["message"]["parts"][0]["content"].encode()


async def test_prompt_is_rendered_once_and_then_read_back(agent: Harness) -> None:
    await agent.run(["", "x"], journal=(journal := MemoryJournal()))
    await agent.run(["", "x"], parts=journal.parts[:2], instructions="Changed since.")
    (first, *_), *_ = agent.seen
    assert isinstance(first, ModelRequest)
    assert "Changed since." not in (first.instructions or "")
