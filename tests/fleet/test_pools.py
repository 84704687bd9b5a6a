"""The core journey under each pool: correctness does not depend on what runs the slices.

asyncio is the node's own pool; under threads, prefork and solo, which are Celery's, a slice runs on
the agent loop of its process while a thread or process of the pool waits for it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from celery.app.control import Control

from colony import ColonyRuntime, Report, ReportStatus, WorkerState
from colony.doorbell import celery_app
from colony.settings import Settings
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_at_rest, assert_told_once, records, statuses, wait_for_state

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

CONCURRENCY = {"asyncio": 20, "threads": 4, "prefork": 2, "solo": 1}
IMPLEMENTATIONS = {
    "asyncio": "workers.pool:AsyncioPool",
    "threads": "celery.concurrency.thread:TaskPool",
    "prefork": "celery.concurrency.prefork:TaskPool",
    "solo": "celery.concurrency.solo:TaskPool",
}
COLONY = "basic"


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=CONCURRENCY)
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    """One node with the pool under test."""
    pool: str = request.param
    async with Fleet(
        f"tests.definitions:{COLONY}",
        pool=pool,
        concurrency=CONCURRENCY[pool],
        beat_interval="0.5",
    ) as fleet:
        yield fleet


@pytest.fixture
def pool(request: pytest.FixtureRequest, running: Fleet) -> str:
    """The pool under test, as the node itself says."""
    return str(request.node.callspec.params["running"])


@contextmanager
def remote_control(fleet: Fleet) -> Iterator[Control]:
    """Celery's own remote control, as `celery control` and Flower use it."""
    with celery_app(COLONY, Settings(redis_url=fleet.redis_url)) as app:
        yield app.control


async def report_of(runtime: ColonyRuntime, worker: str) -> Report:
    """The worker's report; the test fails when there is none."""
    report = await runtime.wait_for_worker(worker, timeout=20)
    assert report is not None
    return report


async def is_run(runtime: ColonyRuntime, *ids: str) -> None:
    """Wait until all these workers are run at the same time."""

    async def all_run() -> bool:
        return {r.state for r in await records(runtime, ids)} <= {WorkerState.RUNNING}

    await wait_until(all_run, 15, what=f"{ids} are run")


async def test_the_node_runs_that_pool(running: Fleet, pool: str) -> None:
    """The node under test says that it runs the pool under test (so the others test what they say)."""
    [node] = await running.runtime.list_nodes()
    assert node.pool == IMPLEMENTATIONS[pool]


async def test_many_workers_report_once_each(running: Fleet) -> None:
    """More workers than the pool has places: each reports once, in input order, nothing is left over."""
    runtime = running.runtime
    ids = await runtime.spawn_batch(["echo", "fail", "raise", "text"] * 5)
    reports = await runtime.wait_for_worker_reports(ids, timeout=30)
    assert [report.worker_id for report in reports] == ids
    assert [report.status for report in reports] == ["success", "failed", "failed", "success"] * 5
    assert [report.data for report in reports[:2]] == [{"last": 2}, {"tried": 3}]
    assert "the model fell over" in str(reports[2].error)
    assert reports[3].summary == "Here is what I found."
    await assert_told_once(runtime, ids)
    assert {len(record.attempts) for record in await records(runtime, ids)} == {1}
    await assert_at_rest(running.redis_url, COLONY)


async def test_a_running_worker_is_stopped_and_frees_its_place(running: Fleet, pool: str) -> None:
    """Every place of the pool holds a sleeper; one is stopped and a waiting worker takes its place."""
    runtime = running.runtime
    sleepers = await runtime.spawn("sleep", count=CONCURRENCY[pool])
    await is_run(runtime, *sleepers)
    [waiting] = await runtime.spawn("fetch")
    assert await runtime.wait_for_worker(waiting, timeout=0.3) is None
    assert await runtime.stop_worker(sleepers[0], "Enough slept.")
    stopped = await report_of(runtime, sleepers[0])
    assert (stopped.status, stopped.summary) == (ReportStatus.STOPPED, "Enough slept.")
    assert (await report_of(runtime, waiting)).ok
    await is_run(runtime, *sleepers[1:])
    await _end(running, sleepers[1:])


async def _end(running: Fleet, ids: list[str]) -> None:
    """Stop what a test has left, and wait until the node is free."""
    for worker in ids:
        await running.runtime.stop_worker(worker)
    await assert_at_rest(running.redis_url, COLONY)


async def test_a_tool_that_blocks_a_thread_can_be_stopped(running: Fleet) -> None:
    """A worker whose synchronous tool blocks for a minute is stopped at once, whatever the pool."""
    runtime = running.runtime
    [worker] = await runtime.spawn("block")
    await is_run(runtime, worker)
    assert await runtime.stop_worker(worker)
    assert (await report_of(runtime, worker)).status is ReportStatus.STOPPED
    [after] = await runtime.spawn("fetch")
    assert (await report_of(runtime, after)).ok


async def test_a_parked_worker_holds_no_place(running: Fleet, pool: str) -> None:
    """As many workers as the pool has places are parked: others run meanwhile, then those wake."""
    runtime = running.runtime
    parked = await runtime.spawn("park", count=CONCURRENCY[pool])
    await wait_for_state(runtime, WorkerState.PARKED, 1)
    reports = await runtime.wait_for_worker_reports(
        [*parked, *await runtime.spawn("fetch", count=5)], timeout=30
    )
    assert statuses(reports) == {ReportStatus.SUCCESS: len(parked) + 5}
    assert {record.epoch for record in await records(runtime, parked)} == {2}


async def test_revoke_with_terminate_ends_one_worker_and_no_other(
    running: Fleet, pool: str
) -> None:
    """`revoke(terminate=True)` through Celery's control ends that worker with a report stopped; the
    others run on, and the node serves the same as before.

    The solo pool hears no control command while it runs a task: there the word comes after the end,
    and changes nothing.
    """
    runtime = running.runtime
    with remote_control(running) as control:
        if pool == "solo":
            await _revoke_too_late(runtime, control)
            return
        victim, other = await runtime.spawn("sleep", count=2)
        await is_run(runtime, victim, other)
        await asyncio.to_thread(control.revoke, victim, terminate=True)
        report = await report_of(runtime, victim)
    assert (report.status, report.summary) == (ReportStatus.STOPPED, "Worker was revoked.")
    [record] = await records(runtime, [other])
    assert (record.state, record.epoch) == (WorkerState.RUNNING, 1)
    await assert_told_once(runtime, [victim])
    [after] = await runtime.spawn("fetch")
    assert (await report_of(runtime, after)).ok
    await _end(running, [other])


async def _revoke_too_late(runtime: ColonyRuntime, control: Control) -> None:
    [worker] = await runtime.spawn("nap")
    await is_run(runtime, worker)
    await asyncio.to_thread(control.revoke, worker, terminate=True)
    report = await report_of(runtime, worker)
    assert report.status is ReportStatus.SUCCESS
    [after] = await runtime.spawn("fetch")
    assert (await report_of(runtime, after)).ok
    assert await report_of(runtime, worker) == report
    await assert_told_once(runtime, [worker])


async def test_a_revoked_id_is_not_remembered(running: Fleet, pool: str) -> None:
    """A parked and a queued worker that are revoked report stopped at once, and the node keeps no
    memory of the revoke that would eat later doorbells of those ids."""
    runtime = running.runtime
    [parked] = await runtime.spawn("park")
    await wait_for_state(runtime, WorkerState.PARKED, 1)
    sleepers = [] if pool == "solo" else await runtime.spawn("sleep", count=CONCURRENCY[pool])
    await is_run(runtime, *sleepers)
    queued = [] if pool == "solo" else await runtime.spawn("fetch")
    with remote_control(running) as control:
        await asyncio.to_thread(control.revoke, [parked, *queued])
        reports = [await report_of(runtime, worker) for worker in (parked, *queued)]
        assert {(r.status, r.summary) for r in reports} == {("stopped", "Worker was revoked.")}
        await _end(running, sleepers)
        [remembered] = (await asyncio.to_thread(_ask, control, "revoked")).values()
    assert remembered == []
    assert {record.epoch for record in await records(runtime, queued)} <= {0}
    await assert_told_once(runtime, [parked, *queued])


@pytest.mark.parametrize("running", ["prefork"], indirect=True)
async def test_a_killed_child_costs_its_worker_nothing(running: Fleet) -> None:
    """SIGKILL of one of two prefork children: its worker is given back by the living node, runs again
    and reports success; the worker of the other child does not notice."""
    runtime = running.runtime
    victim, other = await runtime.spawn("doze", count=2)
    await is_run(runtime, victim, other)
    os.kill(await asyncio.to_thread(_child_of, running, victim), signal.SIGKILL)
    reports = await runtime.wait_for_worker_reports([victim, other], timeout=30)
    assert statuses(reports) == {ReportStatus.SUCCESS: 2}
    hit, missed = await records(runtime, [victim, other])
    assert [a.outcome for a in missed.attempts] == ["success"]
    lost, again = hit.attempts
    assert "was lost" in str(lost.outcome)
    assert (again.outcome, again.node, hit.resurrections) == ("success", lost.node, 1)
    await assert_told_once(runtime, [victim, other])
    [after] = await runtime.spawn("fetch")
    assert (await report_of(runtime, after)).ok
    assert running.nodes[0].process.poll() is None


def _child_of(running: Fleet, worker: str) -> int:
    """The process id of the pool child that runs a worker, as Celery itself says."""
    with remote_control(running) as control:
        [tasks] = _ask(control, "active").values()
    [pid] = [int(task["worker_pid"]) for task in tasks if task["id"] == worker]
    assert pid != running.nodes[0].pid
    return pid


def _ask(control: Control, question: str) -> dict[str, list[Any]]:
    """What the one node answers to `celery inspect …`."""
    found: dict[str, list[Any]] = getattr(control.inspect(limit=1, timeout=5), question)()
    return found
