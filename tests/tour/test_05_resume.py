"""The tour, 5: who works long is left alone, and who is killed goes on where it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from colony import ColonyRuntime, EventType, ReportStatus, WorkerState
from colony.testing import Fleet, Node, wait_until
from tests.tour.helpers import Calls, counts_of, record_of, report_of, the_report_told, until_state

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

TOKENS_OF_AN_ANSWER = 15
"""What `ScriptedModel` says each of its answers has cost."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(calls: Calls) -> AsyncIterator[Fleet]:
    """Two nodes that are quick to believe that the other is dead: a run of 4 s outlives more than two
    leases, and several rounds of doorbells."""
    async with Fleet(
        "tests.tour.definitions:steady",
        nodes=2,
        lease="1.5",
        beat_interval="0.5",
        ring_again_after="0.5",
    ) as running:
        yield running


async def test_a_healthy_long_run_is_not_swept(pair: Fleet, calls: Calls) -> None:
    """Scenario 37: runs much longer than a lease, on the loop, in a thread, and even with the loop
    blocked, end in their first attempt, and no model is asked twice."""
    runtime = pair.runtime
    scripts = ["long-nap", "long-block", "long-freeze"]
    ids = [worker for script in scripts for worker in await runtime.spawn(script)]
    reports = await runtime.wait_for_worker_reports(ids, timeout=30)
    assert [(r.status, r.summary) for r in reports] == [
        (ReportStatus.SUCCESS, "Napped."),
        (ReportStatus.SUCCESS, "Blocked."),
        (ReportStatus.SUCCESS, "Froze."),
    ]
    for worker, script in zip(ids, scripts, strict=True):
        record = await record_of(runtime, worker)
        assert [attempt.outcome for attempt in record.attempts] == ["success"]
        assert record.resurrections == 0
        counts = await counts_of(runtime, worker)
        assert counts[EventType.EXECUTION_STARTED] == counts[EventType.SUBAGENT_REPORT] == 1
        assert counts[EventType.EXECUTION_RESURRECTED] == 0
        assert calls.of(script) == [0, 1]


async def test_a_killed_run_goes_on_elsewhere_and_pays_for_nothing_twice(
    pair: Fleet, calls: Calls
) -> None:
    """Scenario 23: kill -9 of a node in the middle of a run: another node goes on with messages,
    counters and outputs; no checkpointed answer is asked for again, the conversation is the same."""
    runtime = pair.runtime
    [undisturbed] = await runtime.spawn("long undisturbed")
    await report_of(runtime, undisturbed)
    [worker] = await runtime.spawn("long killed")
    victim = await _kill_in_the_middle(pair, worker)
    kept = _answers(await runtime.get_conversation(worker))
    assert 3 <= kept < 9
    report = await report_of(runtime, worker)
    assert (report.status, report.summary, report.data) == ("success", "Long.", {"turns": 9})
    record = await record_of(runtime, worker)
    assert [attempt.node == victim for attempt in record.attempts] == [True, False]
    assert (record.requests, record.resurrections) == (9, 1)
    assert record.tokens_used == report.tokens_used == 9 * TOKENS_OF_AN_ANSWER
    asked = calls.of("long killed")
    assert sorted(set(asked)) == list(range(9))
    assert [turn for turn in set(asked) if asked.count(turn) > 1] in ([], [kept])
    await the_report_told(runtime, worker)
    expected = _without_times(await runtime.get_conversation(undisturbed), "long undisturbed")
    assert _without_times(await runtime.get_conversation(worker), "long killed") == expected


async def _kill_in_the_middle(pair: Fleet, worker: str) -> str:
    """Kill the node that runs a worker once three of its answers are kept; returns its name."""
    runtime = pair.runtime

    async def is_in_the_middle() -> bool:
        return _answers(await runtime.get_conversation(worker)) >= 3

    await wait_until(is_in_the_middle, what="three answers are kept")
    name = (await record_of(runtime, worker)).node
    assert name is not None
    (await _node(pair, name)).kill()
    return name


async def _node(pair: Fleet, name: str) -> Node:
    pid = next(info.pid for info in await pair.runtime.list_nodes() if info.node == name)
    return next(node for node in pair.nodes if node.pid == pid)


def _answers(parts: list[Any]) -> int:
    return sum(part["kind"] == "answer" for part in parts)


def _without_times(value: Any, task: str) -> Any:
    """A conversation without what differs from run to run: when it was, and the task's name."""
    if isinstance(value, dict):
        return {k: _without_times(v, task) for k, v in value.items() if k != "timestamp"}
    if isinstance(value, list):
        return [_without_times(item, task) for item in value]
    return "the task" if value == task else value


async def test_a_parked_worker_is_not_reported_as_success(pair: Fleet) -> None:
    """Scenario 39: while a worker is parked there is no report, wait returns None, and it says what it
    waits for; afterwards it wakes and completes."""
    runtime = pair.runtime
    [worker] = await runtime.spawn("long-park")
    await until_state(runtime, worker, WorkerState.PARKED)
    await _assert_parked(runtime, worker)
    report = await report_of(runtime, worker)
    assert (report.status, report.summary) == (ReportStatus.SUCCESS, "Woke up.")
    outcomes = [attempt.outcome for attempt in (await record_of(runtime, worker)).attempts]
    assert outcomes == ["parked: time", "success"]
    await the_report_told(runtime, worker)


async def test_a_worker_of_later_waits_for_its_time(pair: Fleet, calls: Calls) -> None:
    """Scenario 39: not_before parks a worker that has never run: no report, no model call before."""
    runtime = pair.runtime
    [worker] = await runtime.spawn("fetch later", not_before=timedelta(seconds=1))
    await _assert_parked(runtime, worker)
    assert calls.of("fetch later") == []
    assert (await report_of(runtime, worker)).ok
    record = await record_of(runtime, worker)
    assert record.started_at is not None
    assert record.started_at - record.created_at >= timedelta(seconds=1)
    assert calls.of("fetch later") == [0]


async def _assert_parked(runtime: ColonyRuntime, worker: str) -> None:
    record = await record_of(runtime, worker)
    assert (record.state, record.waits_for) == (WorkerState.PARKED, "time")
    assert await runtime.wait_for_worker(worker, timeout=0.1) is None
    assert await runtime.get_worker_result(worker) is None
    counts = await counts_of(runtime, worker)
    assert counts[EventType.SUBAGENT_REPORT] == counts[EventType.EXECUTION_COMPLETED] == 0
