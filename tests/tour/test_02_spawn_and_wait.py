"""The tour, 2: several at once, in order; what waiting means; who asks twice gets the same answer."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from colony import ColonyRuntime, EventType, Report, ReportStatus, WorkerState
from colony.errors import IntakePaused, InvalidTask, UnknownColony, UnknownWorker
from colony.testing import Fleet, wait_until
from tests.tour.helpers import Calls, counts_of, record_of, report_of, until_state

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

AT_ONCE_SECONDS = 3.0
"""Nothing waits that long here unless it waits for a worker."""


async def test_a_batch_reports_in_the_order_of_its_tasks(runtime: ColonyRuntime) -> None:
    """Scenario 9: three tasks, the first slow and one failing: 3 ids, 3 reports in input order."""
    ids = await runtime.spawn_batch(
        ["nap", {"task": "fail"}, {"task": "context", "data": {"a": 1}}]
    )
    assert len(set(ids)) == 3
    reports = await runtime.wait_for_worker_reports(ids, timeout=20)
    assert [report.worker_id for report in reports] == ids
    assert [(report.status, report.summary) for report in reports] == [
        (ReportStatus.SUCCESS, "Napped."),
        (ReportStatus.FAILED, "Could not fetch"),
        (ReportStatus.SUCCESS, "Me."),
    ]
    assert reports[1].data == {"tried": 3}
    assert reports[2].data["data"] == {"a": 1}
    assert reports[2].data["worker_id"] == ids[2]


async def test_an_unknown_id_is_reported_in_its_place(runtime: ColonyRuntime) -> None:
    """Scenario 10: an unknown id is reported failed, no_such_worker, where it stands in the order."""
    first, last = await runtime.spawn("fetch", count=2)
    reports = await runtime.wait_for_worker_reports([first, "nobody", last], timeout=20)
    assert [report.worker_id for report in reports] == [first, "nobody", last]
    assert [report.ok for report in reports] == [True, False, True]
    assert (reports[1].status, reports[1].error) == (ReportStatus.FAILED, "no_such_worker")
    with pytest.raises(UnknownWorker, match="nobody"):
        await runtime.wait_for_worker("nobody", timeout=20)


async def test_a_timeout_stops_the_stragglers_and_keeps_the_others(runtime: ColonyRuntime) -> None:
    """Scenario 11: a deadline passes: stragglers are stopped with status timeout, those that have
    finished keep their reports, the order is kept, and the stored result is the timeout report."""
    ids = await runtime.spawn_batch(["sleep", "fetch", "sleep", "fail"])
    slow, done, slow_too, failed = ids
    await asyncio.gather(report_of(runtime, done), report_of(runtime, failed))
    await until_state(runtime, slow, WorkerState.RUNNING)
    began = time.monotonic()
    reports = await runtime.wait_for_worker_reports(ids, timeout=0.5)
    assert 0.45 <= time.monotonic() - began < AT_ONCE_SECONDS
    assert [report.worker_id for report in reports] == ids
    assert [report.status for report in reports] == ["timeout", "success", "timeout", "failed"]
    assert [await runtime.get_worker_result(worker) for worker in ids] == reports
    assert (await record_of(runtime, slow)).state is WorkerState.FAILED
    assert (await counts_of(runtime, slow_too))[EventType.SUBAGENT_REPORT] == 1
    await wait_until(lambda: _idle(runtime), what="the stragglers are not run any more")


async def _idle(runtime: ColonyRuntime) -> bool:
    return all(node.running == 0 for node in await runtime.list_nodes())


async def test_timeout_zero_looks_once(runtime: ColonyRuntime) -> None:
    """Scenario 11: timeout=0 returns at once with what there is; the others are stopped."""
    [done] = await runtime.spawn("fetch")
    expected = await report_of(runtime, done)
    [slow] = await runtime.spawn("sleep")
    began = time.monotonic()
    straggler, finished = await runtime.wait_for_worker_reports([slow, done], timeout=0)
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert finished == expected
    assert straggler.status is ReportStatus.TIMEOUT
    assert await runtime.get_worker_result(slow) == straggler


async def test_stragglers_can_be_left_running(runtime: ColonyRuntime) -> None:
    """Scenario 11: stop_on_timeout=False says timeout, stops nobody, and the worker reports later."""
    [worker] = await runtime.spawn("nap")
    await until_state(runtime, worker, WorkerState.RUNNING)
    [late] = await runtime.wait_for_worker_reports([worker], timeout=0, stop_on_timeout=False)
    assert late.status is ReportStatus.TIMEOUT
    assert await runtime.get_worker_result(worker) is None
    assert (await report_of(runtime, worker)).summary == "Napped."


async def test_waiting_for_one_worker_stops_nobody(runtime: ColonyRuntime) -> None:
    """wait_for_worker returns None when the time is over, and the worker runs on."""
    [worker] = await runtime.spawn("nap")
    assert await runtime.wait_for_worker(worker, timeout=0.1) is None
    assert (await report_of(runtime, worker)).summary == "Napped."


async def test_everybody_who_waits_gets_the_same_report(runtime: ColonyRuntime) -> None:
    """Scenario 15: two waiters of a running worker, and one that comes after its end, get one and
    the same report."""
    [worker] = await runtime.spawn("nap")
    first, second = await asyncio.gather(report_of(runtime, worker), report_of(runtime, worker))
    assert first.summary == "Napped."
    assert first == second == await report_of(runtime, worker, timeout=0)
    assert [first] == await runtime.wait_for_worker_reports([worker], timeout=0)


async def test_a_waiter_that_comes_back_gets_the_report_too(tour: Fleet) -> None:
    """Scenario 15: the producer is gone; a new runtime and a new process get the stored report."""
    async with ColonyRuntime("tour", redis_url=tour.redis_url) as gone:
        [worker] = await gone.spawn("nap")
        assert await gone.wait_for_worker(worker, timeout=0) is None
    async with ColonyRuntime("tour", redis_url=tour.redis_url) as new:
        expected = await report_of(new, worker)
    assert expected.ok
    shown = await asyncio.to_thread(_colony, tour, "wait", worker, "--json")
    assert [Report.model_validate(report) for report in shown["reports"]] == [expected]


def _colony(tour: Fleet, *arguments: str) -> Any:
    """What ``colony …`` prints as JSON, from a process of its own."""
    environment = {**os.environ, "COLONY_REDIS_URL": tour.redis_url}
    command = [sys.executable, "-m", "colony.cli", *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("  \n", r"tasks\[1\].task is blank"),
        ({"task": "", "data": {}}, r"tasks\[1\].task is blank"),
        ({"task": "fetch", "data": [1]}, r"tasks\[1\].data: .*dictionary, got list"),
        ({"task": "fetch", "dta": {}}, r"tasks\[1\]: unknown field 'dta'"),
        ({"task": "fetch", "data": {"x": float("nan")}}, r"tasks\[1\].data is not JSON"),
        ({"task": "fetch", "data": {"x": "y" * 262_144}}, r"tasks\[1\].data .*max_data_bytes"),
        ({"task": "fetch", "agent": "nobody"}, r"tasks\[1\].agent 'nobody' is unknown"),
        (5, r"tasks\[1\]: expected text, an object or a TaskSpec, got int"),
    ],
)
async def test_one_wrong_task_spawns_nothing(
    runtime: ColonyRuntime, wrong: Any, named: str
) -> None:
    """Scenario 12: a wrong task among right ones: the error names its index, and none is accepted."""
    before = await runtime.get_stats()
    with pytest.raises(InvalidTask, match=named):
        await runtime.spawn_batch(["fetch", wrong, "fetch"])
    after = await runtime.get_stats()
    assert after.totals["accepted"] == before.totals["accepted"]
    assert sum(after.states.values()) == sum(before.states.values())


async def test_an_empty_batch_and_an_unknown_colony_are_refused(tour: Fleet) -> None:
    """Scenario 12: an empty list, and a colony that nobody serves, are errors that say what to do."""
    with pytest.raises(InvalidTask, match="tasks is empty"):
        await tour.runtime.spawn_batch([])
    async with ColonyRuntime("atlantis", redis_url=tour.redis_url) as nowhere:
        with pytest.raises(UnknownColony, match="start a node"):
            await nowhere.spawn("fetch")
        assert await nowhere.list_workers() == []


async def test_five_racing_spawns_with_one_key_are_one_worker(tour: Fleet, calls: Calls) -> None:
    """Scenario 33: five producers spawn at the same time with one idempotency key: one worker, five
    times the same id, one run."""
    async with AsyncExitStack() as stack:
        producers = [
            await stack.enter_async_context(ColonyRuntime("tour", redis_url=tour.redis_url))
            for _ in range(5)
        ]
        before = (await tour.runtime.get_stats()).totals.get("accepted", 0)
        answers = await asyncio.gather(
            *(each.spawn("echo for all five", idempotency_key="order-7") for each in producers)
        )
        [worker] = {tuple(ids) for ids in answers}
        assert len(worker) == 1
        reports = await asyncio.gather(*(report_of(each, worker[0]) for each in producers))
    assert {report.summary for report in reports} == {"Echoed."}
    assert (await tour.runtime.get_stats()).totals["accepted"] == before + 1
    assert (await counts_of(tour.runtime, worker[0]))[EventType.EXECUTION_STARTED] == 1
    assert calls.of("echo for all five") == [0, 1, 2]


async def test_a_key_names_its_first_answer_after_the_end_too(runtime: ColonyRuntime) -> None:
    """A repeated spawn, also of a whole batch and after its end, gives the first ids in their order; single
    workers with a batch's key are refused."""
    first = await runtime.spawn_batch(["fetch", "fail", "echo"], idempotency_key="batch-7")
    await runtime.wait_for_worker_reports(first, timeout=15)
    assert await runtime.spawn_batch(["fetch", "fail", "echo"], idempotency_key="batch-7") == first
    assert await runtime.spawn_batch(["something else"], idempotency_key="batch-7") == first
    with pytest.raises(
        InvalidTask, match=f"'batch-7' was used by spawn_batch, for batch {first.id}"
    ):
        await runtime.spawn("something else", idempotency_key="batch-7")


async def test_other_keys_and_none_are_other_workers(runtime: ColonyRuntime) -> None:
    """The same task with another key, or with none, is another worker."""
    ids = [
        *(await runtime.spawn("fetch", idempotency_key="one")),
        *(await runtime.spawn("fetch", idempotency_key="two")),
        *(await runtime.spawn("fetch")),
        *(await runtime.spawn("fetch")),
    ]
    assert len(set(ids)) == 4


async def test_a_refused_spawn_does_not_use_up_its_key(runtime: ColonyRuntime) -> None:
    """A spawn that was refused accepted nothing: the same key works once the reason is gone."""
    await runtime.pause_intake()
    with pytest.raises(IntakePaused):
        await runtime.spawn("fetch", idempotency_key="later")
    await runtime.resume_intake()
    [worker] = await runtime.spawn("fetch", idempotency_key="later")
    assert (await report_of(runtime, worker)).ok
