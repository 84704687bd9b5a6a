"""What happens to the calls of an answer, whatever their tools do."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from colony.conversation import Step
from colony.errors import StaleToken
from colony.testing_model import Call, report
from colony.tools import Park, ToolContext, make_tool
from tests.unit.agent.harness import Harness, MemoryJournal, calls_answer, countdown
from workers.agent.outcome import Parked, Reported
from workers.agent.threads import ToolThreads


async def result_of(
    agent: Harness, function: Any, args: Any = None, **options: Any
) -> dict[str, Any]:
    """The stored result of one call of one tool."""
    tool = function if not callable(function) else make_tool(function)
    call = calls_answer((tool.name, {} if args is None else args, "c1"))
    await agent.run([call, report("success", "Done.")], tool, **options)
    return agent.journal.results()[0]


class Point(BaseModel):
    x: int
    y: int = 0


def distance(point: Point, factor: float = 1.0) -> float:
    """Distance."""
    return point.x * factor


async def test_arguments_come_as_objects_with_their_defaults(agent: Harness) -> None:
    assert (await result_of(agent, distance, {"point": {"x": 3}}))["content"] == 3.0
    assert (await result_of(agent, distance, '{"point": {"x": 3}, "factor": 2}'))["content"] == 6.0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"point": {"x": "far"}}, "point.x: Input should be a valid integer"),
        ({}, "point: Field required"),
        ({"point": {"x": 1}, "speed": 1}, "speed: Extra inputs are not permitted"),
        ('{"point": ', "Invalid JSON"),
        ("[1]", "arguments: Input should be an object"),
        ("", "point: Field required"),
    ],
)
async def test_arguments_that_do_not_fit_are_named(agent: Harness, args: Any, words: str) -> None:
    result = await result_of(agent, distance, args)
    assert result["outcome"] == "retried"
    assert words in result["content"]


async def test_an_unknown_tool_gets_the_list_of_those_offered(agent: Harness) -> None:
    await agent.run([Call("fly"), "Done."], distance)
    (result,) = agent.journal.results()
    expected = "there is no tool 'fly'. You can call: distance, report_to_parent"
    assert (result["content"], result["outcome"]) == (expected, "retried")


def strange() -> Any:
    return object()


def infinite() -> float:
    return float("inf")


def endless() -> list[Any]:
    endless: list[Any] = []
    endless.append(endless)
    return endless


def lone_surrogate() -> dict[str, str]:
    return {"name": "a\ud800"}


def boom() -> None:
    raise KeyError("food")


def leave() -> None:
    sys.exit(3)


async def leave_async() -> None:
    sys.exit(3)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


def mute() -> None:
    raise Mute


def several() -> None:
    raise BaseExceptionGroup("both", [KeyboardInterrupt(), SystemExit()])


async def cancel_itself() -> None:
    raise asyncio.CancelledError


def stop_iteration() -> None:
    raise StopIteration


async def gives_awaitable_value() -> str:
    return "awaited"


def gives_awaitable() -> Awaitable[str]:
    return gives_awaitable_value()


@pytest.mark.parametrize(
    ("function", "content", "outcome"),
    [
        (strange, "of type object, cannot be shown", "failed"),
        (endless, "of type list, cannot be shown", "failed"),
        (boom, "KeyError: 'food'", "failed"),
        (mute, "Mute", "failed"),
        (several, "BaseExceptionGroup: both", "failed"),
        (leave, "SystemExit: 3", "failed"),
        (leave_async, "SystemExit: 3", "failed"),
        (cancel_itself, "the tool cancelled itself", "failed"),
        (stop_iteration, "StopIteration", "failed"),
        (infinite, "Infinity", "success"),
        (lone_surrogate, {"name": "a?"}, "success"),
        (gives_awaitable, "awaited", "success"),
    ],
)
async def test_whatever_a_tool_does_the_worker_goes_on(
    agent: Harness, function: Callable[[], Any], content: Any, outcome: str
) -> None:
    result = await result_of(agent, function)
    assert result["outcome"] == outcome
    if isinstance(content, str):
        assert content in result["content"]
        assert "Traceback" not in result["content"]
    else:
        assert result["content"] == content
    assert agent.journal.filed, "the worker came to its report"


@pytest.mark.parametrize("value", ["ä" * 5000, ["word"] * 2000])
async def test_a_long_result_is_cut_with_a_note(agent: Harness, value: Any) -> None:
    def long() -> Any:
        return value

    content = (await result_of(agent, long, max_tool_result_bytes=2000))["content"]
    assert "bytes, of which at most 2000 are shown]" in content
    assert len(content.encode()) <= 2000


async def test_read_only_calls_overlap_and_the_others_keep_their_order(agent: Harness) -> None:
    log: list[str] = []
    both = asyncio.Barrier(2)

    async def look(n: int) -> None:
        await asyncio.wait_for(both.wait(), 1)
        log.append("look")

    async def act(n: int) -> None:
        log.append(f"begin {n}")
        await asyncio.sleep(0)
        log.append(f"end {n}")

    calls = [("look", 1), ("look", 2), ("act", 3), ("act", 4)]
    answer = calls_answer(*((name, {"n": n}, str(n)) for name, n in calls))
    await agent.run([answer, "Done."], make_tool(look, read_only=True), act)
    assert log == ["look", "look", "begin 3", "end 3", "begin 4", "end 4"]
    assert all(result["outcome"] == "success" for result in agent.journal.results())


async def test_events_ride_with_the_part_that_opens_and_the_result(agent: Harness) -> None:
    def note(secret: str) -> str:
        return secret

    await agent.run(
        [[Call("note", {"secret": "s3cret"}), Call("note", {"secret": "x"})], "Done."], note
    )
    first, second, third, last = agent.journal.steps
    names = [[name for name, _ in step.events] for step in (first, second, third, last)]
    assert names == [
        ["llm_turn_complete", "tool_call_started"],
        ["tool_call_completed", "tool_call_started"],
        ["tool_call_completed"],
        ["llm_turn_complete"],
    ]
    turn, started = (data for _, data in first.events)
    assert turn == {
        "turn": 1,
        "model": "scripted",
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": None,
        "finish_reason": "tool_call",
        "tool_calls": ["note", "note"],
    }
    assert started == {"tool": "note", "tool_call_id": "call_0_0"}
    (_, completed), _ = second.events
    assert completed.keys() == {"tool", "tool_call_id", "ok", "duration_seconds"}
    assert "s3cret" not in str(agent.journal.events)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_an_async_tool_is_cut_at_its_own_limit(
    agent: Harness, stubborn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.agent.execution.CANCEL_GRACE_SECONDS", 0.05)
    release = asyncio.Event()

    async def hang() -> None:
        while True:
            try:
                await release.wait()
                return
            except asyncio.CancelledError:
                if not stubborn:
                    raise

    began = time.monotonic()
    result = await result_of(agent, make_tool(hang, timeout=timedelta(seconds=0.05)))
    assert time.monotonic() - began < 1
    assert result["outcome"] == "failed"
    assert "timed out after 0.05 s" in result["content"]
    release.set()
    await asyncio.sleep(0)


async def test_a_hung_thread_is_replaced(agent: Harness, threads: ToolThreads) -> None:
    release = threading.Event()

    def hang() -> None:
        release.wait()

    def quick() -> str:
        return "quick"

    hanging = make_tool(hang, timeout=timedelta(seconds=0.02))
    for _ in range(5):  # more often than there are threads
        assert "timed out" in (await result_of(agent, hanging))["content"]
    assert threads.hung == 5
    assert (await result_of(agent, quick))["content"] == "quick"
    release.set()
    while threads.hung:
        await asyncio.sleep(0.001)


async def test_a_call_ends_with_its_worker(agent: Harness) -> None:
    async def hang() -> None:
        await asyncio.Event().wait()

    outcome = await agent.reported(
        [["So far.", Call("hang")], "never"], hang, remaining=countdown(9, 9, 9, 0.03, 0.03, 0)
    )
    assert (outcome.status, outcome.summary) == ("timeout", "So far.")
    assert "cut at the deadline of the worker" in agent.journal.results()[0]["content"]


async def test_a_tool_may_park_the_worker_after_the_last_call_of_its_answer(agent: Harness) -> None:
    done: list[str] = []

    def nap(seconds: int) -> None:
        raise Park(timedelta(seconds=seconds), result="rested")

    def after() -> None:
        done.append("after")

    answer = [Call("nap", {"seconds": 5}), Call("nap", {"seconds": 9}), Call("after")]
    assert await agent.run([answer, "Done."], nap, after) == Parked(timedelta(seconds=9))
    assert done == ["after"]
    assert [r["content"] for r in agent.journal.results()] == ["rested", "rested", None]
    parts = agent.journal.parts
    assert isinstance(await agent.run([answer, "Done."], nap, after, parts=parts), Reported)
    assert done == ["after"]


async def test_a_report_beside_a_park_ends_the_worker(agent: Harness) -> None:
    def nap() -> None:
        raise Park(timedelta(seconds=5))

    outcome = await agent.reported([[Call("nap"), report("success", "Done.")]], nap)
    assert outcome.summary == "Done."


async def test_the_context_knows_its_call(agent: Harness) -> None:
    seen: list[ToolContext] = []

    async def look(context: ToolContext) -> None:
        seen.append(context)
        await context.progress("half", percent=50)

    def listen(context: ToolContext) -> None:
        context.progress_threadsafe("from a thread")

    await agent.run([[Call("look"), Call("listen")], "Done."], look, listen, data={"n": 1})
    (context,) = seen
    assert (context.worker_id, context.colony_id, context.tool_call_id) == (
        "w1",
        "ants",
        "call_0_0",
    )
    assert (context.task, context.data, context.idempotency_key) == (
        "Look north.",
        {"n": 1},
        "w1:call_0_0",
    )
    assert context.remaining is None
    told = {"tool": "look", "tool_call_id": "call_0_0", "message": "half", "data": {"percent": 50}}
    assert agent.journal.told[0] == ("progress", told)
    assert agent.journal.told[1][1]["message"] == "from a thread"


async def test_context_variables_reach_sync_tools(agent: Harness) -> None:
    variable = ContextVar("variable", default="unset")

    def read() -> str:
        return variable.get()

    variable.set("set")
    assert (await result_of(agent, read))["content"] == "set"


async def test_a_stale_token_passes_through_and_leaves_no_call_running(agent: Harness) -> None:
    ended: list[int] = []

    async def look(n: int) -> None:
        try:
            await asyncio.sleep(0 if n == 1 else 60)
        finally:
            ended.append(n)

    class Stale(MemoryJournal):
        async def append(self, step: Step) -> None:
            await super().append(step)
            if len(self.steps) == 2:
                raise StaleToken("taken over")

    answer = calls_answer(("look", {"n": 1}, "a"), ("look", {"n": 2}, "b"))
    with pytest.raises(StaleToken):
        await agent.run([answer], make_tool(look, read_only=True), journal=Stale())
    assert ended == [1, 2]


async def test_cancellation_passes_through_and_ends_the_call(agent: Harness) -> None:
    began, ended = asyncio.Event(), []

    async def hang() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    task = asyncio.create_task(agent.run([Call("hang")], hang))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
