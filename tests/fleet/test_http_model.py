"""A model behind real HTTP, on a server that is not ours: what it says, and how it fails.

Each test has a task of its own; the task chooses what the server answers (see `ANSWERS`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from colony import Event, EventType, Report, ReportStatus
from colony.testing import Fleet, wait_until
from tests.aimock import (
    AiMock,
    Fixture,
    aimock,
    answer,
    call,
    error,
    first,
    report,
    then,
    why_missing,
)
from tests.http_definitions import KEY, WRONG_KEY

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.fleet,
    pytest.mark.aimock,
]

THE_KEY = "key.of.a.house.server.3f9a61c0d7e84b52"
"""Of no shape that a pattern could know: only who holds the key can take it out of a text."""

THE_WRONG_KEY = "sk-test-77c1b2a0d7e84b52"

STORY = "A colony has no king. " * 12


ANSWERS: list[Fixture] = [
    answer("add two", 0, call("add", {"a": 2, "b": 3})),
    {
        "match": {"userMessage": "add two", "turnIndex": 1, "toolResultContains": "5"},
        "response": report("It is 5.", sum=5),
    },
    answer("tell a story", 0, {"content": STORY}, latency=60, chunkSize=12),
    answer("stream a call", 0, call("add", {"a": 20, "b": 30}), latency=5, chunkSize=3),
    answer("stream a call", 1, report("It is 50.", sum=50), latency=5, chunkSize=7),
    first("hang up", {"content": STORY}, latency=5, chunkSize=12, truncateAfterChunks=5),
    then("hang up", {"content": "Whole."}),
    first("be limited", error(429, "slow down, please", retryAfter=2)),
    then("be limited", report("Was let in.")),
    first("break once", error(500, "the server fell over")),
    then("break once", report("Is up again.")),
    answer("leak the key", 0, error(401, f"Incorrect API key provided: {THE_KEY}.")),
    answer("garble a call", 0, call("add", '{"a": 2, "b": ')),
    {
        "match": {"userMessage": "garble a call", "turnIndex": 1, "toolResultContains": "JSON"},
        "response": call("add", {"a": 2, "b": "three"}),
    },
    {
        "match": {"userMessage": "garble a call", "turnIndex": 2, "toolResultContains": "b: "},
        "response": call("add", {"a": 2, "b": 3}),
    },
    {
        "match": {"userMessage": "garble a call", "turnIndex": 3, "toolResultContains": "5"},
        "response": report("Mended.", sum=5),
    },
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AiMock]:
    """aimock, or a skip with the reason; in CI there is no excuse."""
    if reason := why_missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run these tests: {reason}")
        pytest.skip(reason)
    folder: Path = tmp_path_factory.mktemp("aimock")
    with aimock(ANSWERS, folder, key=THE_KEY) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(server: AiMock) -> AsyncIterator[Fleet]:
    """A fleet of one node that asks the server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_MODEL_URL", f"{server.url}/v1")
        patch.setenv(KEY, THE_KEY)
        patch.setenv(WRONG_KEY, THE_WRONG_KEY)
        async with Fleet("tests.http_definitions:http") as running:
            yield running


async def run(fleet: Fleet, task: str, agent: str | None = None) -> Report:
    """Spawn one worker and wait for its report."""
    [worker] = await fleet.runtime.spawn(task, agent=agent)
    ended = await fleet.runtime.wait_for_worker(worker, timeout=30)
    assert ended is not None, f"no report; the node says:\n{fleet.nodes[0].tail()}"
    return ended


async def told(fleet: Fleet, worker: str) -> list[Event]:
    """All kept events of a worker."""
    events = fleet.runtime.events(after="0", worker_id=worker, follow=False)
    return [event async for event in events]


async def retries(fleet: Fleet, worker: str) -> list[dict[str, Any]]:
    """What the `node_retry` events of a worker say."""
    return [e.data for e in await told(fleet, worker) if e.type == EventType.NODE_RETRY]


@asynccontextmanager
async def listening(fleet: Fleet) -> AsyncIterator[list[Event]]:
    """Everything that is told from now on, in the order in which it is heard."""
    heard: list[Event] = []

    async def listen() -> None:
        async for event in fleet.runtime.events(after="0"):
            heard.append(event)

    listener = asyncio.create_task(listen())
    try:
        # What is kept comes only after the subscription is confirmed; the node has joined by now.
        await wait_until(lambda: heard, what="the listener is subscribed")
        yield heard
    finally:
        listener.cancel()
        await asyncio.wait([listener])


async def test_a_tool_call_and_a_report(http: Fleet, server: AiMock) -> None:
    """A model behind HTTP is offered the tools, gets the result of its call, and reports."""
    ended = await run(http, "add two numbers")
    assert (ended.status, ended.summary, ended.data) == (
        ReportStatus.SUCCESS,
        "It is 5.",
        {"sum": 5},
    )
    assert ended.tokens_used > 0
    question, answered = server.asked("add two numbers")
    assert question["body"]["model"] == "gpt-5-mini"
    assert not question["body"].get("stream")
    offered = {tool["function"]["name"] for tool in question["body"]["tools"]}
    assert offered == {"add", "report_to_parent"}
    assert "Be tested over HTTP." in str(question["body"]["messages"][0])
    assert answered["body"]["messages"][-1]["role"] == "tool"


async def test_text_is_heard_while_the_model_writes_it(http: Fleet, server: AiMock) -> None:
    """With stream=True the text comes in pieces, live, before the answer is complete."""
    async with listening(http) as heard:
        ended = await run(http, "tell a story", "streaming")

        def of_worker() -> list[Event]:
            return [e for e in heard if e.worker_id == ended.worker_id]

        await wait_until(
            lambda: any(e.type == EventType.EXECUTION_COMPLETED for e in of_worker()),
            what="the listener heard the end",
        )
    assert (ended.status, ended.summary) == (ReportStatus.SUCCESS, STORY.strip())
    assert ended.tokens_used > 0
    types = [event.type for event in of_worker()]
    deltas = [event for event in of_worker() if event.type == EventType.LLM_TEXT_DELTA]
    assert len(deltas) >= 3
    last_delta = max(i for i, kind in enumerate(types) if kind == EventType.LLM_TEXT_DELTA)
    assert last_delta < types.index(EventType.LLM_TURN_COMPLETE)
    assert "".join(str(delta.data["text"]) for delta in deltas) == STORY
    assert all(delta.id is None for delta in deltas)
    [turn] = [event for event in of_worker() if event.type == EventType.LLM_TURN_COMPLETE]
    assert (turn.at - deltas[0].at).total_seconds() > 0.5, "the first piece came with the last"
    [question] = server.asked("tell a story")
    assert question["body"]["stream"] is True


async def test_a_tool_call_may_stream_too(http: Fleet, server: AiMock) -> None:
    """A call whose arguments come in pieces is put together and made."""
    ended = await run(http, "stream a call", "streaming")
    assert (ended.status, ended.data) == (ReportStatus.SUCCESS, {"sum": 50})
    last = server.asked("stream a call")[-1]["body"]["messages"][-1]
    assert (last["role"], last["content"]) == ("tool", "50")


async def test_a_stream_that_breaks_off_is_asked_for_again(http: Fleet, server: AiMock) -> None:
    """A connection that is lost in the middle of an answer costs a retry, not the worker."""
    ended = await run(http, "hang up", "streaming")
    assert (ended.status, ended.summary) == (ReportStatus.SUCCESS, "Whole.")
    assert len(await retries(http, ended.worker_id)) == 1
    assert len(server.asked("hang up")) == 2


async def test_a_rate_limit_waits_as_long_as_it_is_told(http: Fleet, server: AiMock) -> None:
    """429 with Retry-After is asked again after exactly that time, by Colony and nobody below it."""
    ended = await run(http, "be limited")
    assert (ended.status, ended.summary) == (ReportStatus.SUCCESS, "Was let in.")
    [retry] = await retries(http, ended.worker_id)
    assert (retry["attempt"], retry["delay_seconds"]) == (1, 2.0)
    assert "429" in retry["error"]
    assert "slow down, please" in retry["error"]
    refused, let_in = server.asked("be limited")
    assert [refused["response"]["status"], let_in["response"]["status"]] == [429, 200]
    assert let_in["timestamp"] - refused["timestamp"] >= 1_950


async def test_a_server_error_is_asked_again(http: Fleet, server: AiMock) -> None:
    """500 is retried after a short back-off, and leaves no trace in the report."""
    ended = await run(http, "break once")
    assert (ended.status, ended.summary, ended.error) == (
        ReportStatus.SUCCESS,
        "Is up again.",
        None,
    )
    [retry] = await retries(http, ended.worker_id)
    assert 0 < retry["delay_seconds"] <= 0.5
    assert "the server fell over" in retry["error"]
    assert [r["response"]["status"] for r in server.asked("break once")] == [500, 200]


async def test_a_wrong_key_fails_at_once_and_names_its_setting(http: Fleet) -> None:
    """A key that the server refuses: failed, no retry, the error names provider and setting."""
    ended = await run(http, "try the wrong key", "wrong-key")
    assert ended.status is ReportStatus.FAILED
    assert ended.error is not None
    assert all(word in ended.error for word in ("openai", "401", "Invalid API key", WRONG_KEY))
    assert await retries(http, ended.worker_id) == []
    await _holds_no_secret(http, ended, THE_WRONG_KEY)


async def test_a_provider_that_repeats_the_key_does_not_leak_it(
    http: Fleet, server: AiMock
) -> None:
    """401 whose message holds the key: asked once, and the key is written nowhere."""
    ended = await run(http, "leak the key")
    assert ended.status is ReportStatus.FAILED
    assert ended.error is not None
    assert "Incorrect API key provided" in ended.error
    assert KEY in ended.error
    assert len(server.asked("leak the key")) == 1
    await _holds_no_secret(http, ended, THE_KEY)


async def _holds_no_secret(fleet: Fleet, ended: Report, secret: str) -> None:
    runtime, worker = fleet.runtime, ended.worker_id
    record = await runtime.get_worker(worker)
    assert record is not None
    kept = [
        ended.model_dump_json(),
        record.model_dump_json(),
        *(event.model_dump_json() for event in await told(fleet, worker)),
        str(await runtime.get_conversation(worker)),
        fleet.nodes[0].log.read_text(errors="replace"),
    ]
    assert not [text for text in kept if secret in text]


async def test_malformed_arguments_are_mended_by_the_model(http: Fleet, server: AiMock) -> None:
    """Arguments that are no JSON, then of the wrong type, are explained to the model; it goes on."""
    ended = await run(http, "garble a call")
    assert (ended.status, ended.summary, ended.data) == (
        ReportStatus.SUCCESS,
        "Mended.",
        {"sum": 5},
    )
    conversation = await http.runtime.get_conversation(ended.worker_id)
    outcomes = [part["part"]["outcome"] for part in conversation if part["kind"] == "result"]
    assert outcomes[:3] == ["retried", "retried", "success"]
    assert len(server.asked("garble a call")) == 4


async def test_a_server_that_is_not_there_fails_in_bounded_time(http: Fleet) -> None:
    """Connection refused: tried as often as the agent allows, then failed with the reason."""
    began = time.monotonic()
    ended = await run(http, "ask nobody", "nobody-there")
    assert time.monotonic() - began < 15
    assert ended.status is ReportStatus.FAILED
    assert ended.error is not None
    assert "openai" in ended.error
    assert "onnect" in ended.error
    assert "given up after 3 tries" in ended.error
    assert [retry["attempt"] for retry in await retries(http, ended.worker_id)] == [1, 2]
