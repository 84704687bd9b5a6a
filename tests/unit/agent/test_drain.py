"""A run that is handed over anywhere goes on elsewhere as if nothing had been: no call is made twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from colony import Park
from colony.conversation import Part
from colony.testing_model import Call, ScriptItem, report
from tests.unit.agent.harness import Crash, Harness, MemoryJournal, without_times
from tests.unit.agent.test_resume import PAY, SCRIPT, World
from workers.agent.outcome import HandedOver, Outcome, Parked, Reported

MOMENTS = range(16)


async def finish(
    agent: Harness, world: World, parts: Sequence[Part], script: Sequence[ScriptItem] = SCRIPT
) -> Outcome:
    """Go on where a run was handed over, to its end."""
    return await agent.run(script, *world.tools, parts=parts)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("what", ["checkpoint", "answer", "call"])
async def test_handed_over_at_any_moment_nothing_is_made_twice(
    agent: Harness, what: str, moment: int
) -> None:
    """The drain begins with the nth checkpoint, in the nth question, or in the nth call of a tool: the rest
    is done by another, each question and each call once, and the model sees the same conversation."""
    await agent.run(SCRIPT, *World().tools)
    full = agent.seen
    world, journal = World(), MemoryJournal()
    begins: dict[str, Callable[[], bool]] = {
        "checkpoint": lambda: len(journal.steps) >= moment,
        "answer": lambda: len(agent.seen) > moment,
        "call": lambda: len(world.calls) > moment,
    }
    outcome = await agent.run(SCRIPT, *world.tools, journal=journal, draining=begins[what])
    asked = agent.seen
    if isinstance(outcome, HandedOver):
        outcome = await finish(agent, world, journal.parts)
        asked = asked + agent.seen
    assert outcome == Reported(outcome.status, "Done.", {"n": 1})  # type: ignore[union-attr]
    assert [without_times(each) for each in asked] == [without_times(each) for each in full]
    puts = [call for call in world.calls if call[0] == "put"]
    assert len(puts) == len(set(puts)) == 2
    looks = [("look", "north"), ("look", "south"), ("look", "west")]
    assert sorted(world.calls) == sorted([(PAY, 1), (PAY, 2), *looks, *puts], key=str)


async def test_a_drain_begins_nothing_new(agent: Harness) -> None:
    """Begun before the run: nothing is asked, nothing written. In a question: its answer is the last."""
    assert await agent.run(SCRIPT, *World().tools, draining=lambda: True) == HandedOver()
    assert (agent.seen, agent.journal.steps) == ([], [])
    world = World()
    done = await agent.run(SCRIPT, *world.tools, draining=lambda: len(agent.seen) == 1)
    assert done == HandedOver()
    assert (len(agent.seen), len(agent.journal.steps), world.calls) == (1, 1, [])
    assert agent.journal.parts[-1]["opened"] == []


async def test_calls_of_one_answer_are_left_to_another_too(agent: Harness) -> None:
    """A drain that begins in the first of two calls with effects: the second is not begun, nor opened."""
    script: list[ScriptItem] = [[Call(PAY, {"amount": 1}), Call(PAY, {"amount": 2})], "Done."]
    world = World()
    done = await agent.run(script, *world.tools, draining=lambda: bool(world.calls))
    assert (done, world.calls) == (HandedOver(), [(PAY, 1)])
    assert agent.journal.parts[-1]["opened"] == []
    await finish(agent, world, agent.journal.parts, script)
    assert world.calls == [(PAY, 1), (PAY, 2)]


async def test_a_call_made_after_a_hand_over_was_opened_first(agent: Harness) -> None:
    """A crash in a call that was handed over is still a call that may have happened: not repeated."""
    script: list[ScriptItem] = [Call(PAY, {"amount": 1}), "Done."]
    world, first = World(), MemoryJournal()
    await agent.run(script, *world.tools, journal=first, draining=lambda: bool(agent.seen))
    second = MemoryJournal(crash_before=2)
    with pytest.raises(Crash):
        await agent.run(script, *world.tools, parts=first.parts, journal=second)
    assert [part["kind"] for part in second.parts] == ["opened"]
    assert world.calls == [(PAY, 1)]
    outcome = await finish(agent, world, [*first.parts, *second.parts], script)
    assert isinstance(outcome, Reported)
    assert world.calls == [(PAY, 1)]
    [unknown] = agent.journal.results()
    assert unknown["content"].startswith("outcome unknown")


async def test_a_retry_is_left_to_another_and_counted(agent: Harness) -> None:
    """A drain that begins in the pause before another try: no try, but the one that failed counts."""
    script: list[ScriptItem] = [ConnectionError("503"), report("success", "Done.")]
    outcome = await agent.run(script, draining=lambda: bool(agent.slept))
    assert outcome == HandedOver()
    assert len(agent.seen) == 1
    [step] = agent.journal.steps
    assert (step.requests, list(step.parts), len(step.events)) == (1, [], 1)


async def test_an_answer_that_ends_the_worker_ends_it_also_in_a_drain(agent: Harness) -> None:
    """Nothing is left to be begun: it is reported here."""
    for last in (report("success", "Done."), "Done."):
        outcome = await agent.run([last], draining=lambda: bool(agent.seen))
        assert isinstance(outcome, Reported)


async def test_a_pause_that_was_asked_for_is_not_lost(agent: Harness) -> None:
    """The calls after one that parks are made, so that the worker sleeps as long as it was to."""

    def rest() -> None:
        """Rest."""
        raise Park(timedelta(hours=1))

    world = World()
    outcome = await agent.run(
        [[Call("rest"), Call(PAY, {"amount": 1})], "Done."],
        rest,
        *world.tools,
        draining=lambda: len(agent.journal.steps) >= 1,
    )
    assert outcome == Parked(timedelta(hours=1))
    assert world.calls == [(PAY, 1)]
