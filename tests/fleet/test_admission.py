"""Admission: caps of the colony, of an agent and of a key; scenario 13."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from colony import ColonyRuntime
from colony.errors import InvalidTask
from colony.models import WorkerState
from colony.testing import Fleet, wait_until

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    async with Fleet("tests.definitions:basic") as fleet:
        yield fleet


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    return running.runtime


async def _states(runtime: ColonyRuntime, ids: list[str]) -> list[WorkerState]:
    records = [await runtime.get_worker(worker_id) for worker_id in ids]
    return [record.state for record in records if record is not None]


async def _waits_for(runtime: ColonyRuntime, worker_id: str) -> str | None:
    record = await runtime.get_worker(worker_id)
    return None if record is None else record.waits_for


async def _started(runtime: ColonyRuntime, ids: list[str]) -> list[str]:
    """The ids in the order in which they were first claimed."""
    records = [await runtime.get_worker(worker_id) for worker_id in ids]
    began = [
        (r.started_at, r.worker_id) for r in records if r is not None and r.started_at is not None
    ]
    return [worker_id for _, worker_id in sorted(began)]


async def test_a_cap_of_two_and_a_batch_of_five(runtime: ColonyRuntime) -> None:
    """Scenario 13: 2 run, 3 wait (parked, capacity), promoted first-in first-out, across two batches."""
    await runtime.set_limit("max_concurrent_workers", 2)
    first = await runtime.spawn_batch(["nap"] * 5)
    second = await runtime.spawn_batch(["nap"] * 2)
    both = [*first, *second]
    two = [WorkerState.RUNNING] * 2 + [WorkerState.PARKED] * 5
    await wait_until(lambda: _is(runtime, both, two), what="2 run and 5 wait")
    assert await _waits_for(runtime, first[2]) == "capacity"
    reports = await runtime.wait_for_worker_reports(both, timeout=30)
    assert all(report.ok for report in reports)
    order = await _started(runtime, both)
    assert {*order[:2]} == {*both[:2]}
    assert {*order[-2:]} == {*second}
    await runtime.set_limit("max_concurrent_workers", None)


async def _is(runtime: ColonyRuntime, ids: list[str], states: list[WorkerState]) -> bool:
    return await _states(runtime, ids) == states


async def test_a_cap_can_be_raised_while_the_fleet_runs(runtime: ColonyRuntime) -> None:
    """Who lines up is admitted when the cap goes up."""
    await runtime.set_limit("max_concurrent_workers", 1)
    ids = await runtime.spawn("sleep", count=4)
    one = [WorkerState.RUNNING] + [WorkerState.PARKED] * 3
    await wait_until(lambda: _is(runtime, ids, one), what="one runs")
    await runtime.set_limit("max_concurrent_workers", None)
    await wait_until(lambda: _is(runtime, ids, [WorkerState.RUNNING] * 4), what="all run")
    assert await runtime.stop_all_workers() == 4
    await runtime.wait_for_worker_reports(ids, timeout=10)


async def test_a_stopped_one_in_line_reports_and_leaves_the_line(runtime: ColonyRuntime) -> None:
    """A stop of one who lines up settles it at once; the others move up."""
    await runtime.set_limit("max_concurrent_workers", 1)
    ids = await runtime.spawn("sleep", count=3)
    await wait_until(lambda: _is(runtime, ids[:1], [WorkerState.RUNNING]), what="one runs")
    assert await runtime.stop_worker(ids[1])
    report = await runtime.wait_for_worker(ids[1], timeout=5)
    assert report is not None
    assert report.status == "stopped"
    assert await runtime.stop_worker(ids[0])
    await wait_until(lambda: _is(runtime, ids[2:], [WorkerState.RUNNING]), what="the third runs")
    await runtime.set_limit("max_concurrent_workers", None)
    await runtime.stop_all_workers()
    await runtime.wait_for_worker_reports(ids, timeout=10)


async def test_one_key_at_a_time(runtime: ColonyRuntime) -> None:
    """Workers of one concurrency key take turns; others pass them in the line."""
    await runtime.set_limit("max_concurrent_per_key", 1)
    same = await runtime.spawn("sleep", count=2, concurrency_key="customer-7")
    [other] = await runtime.spawn("sleep", concurrency_key="customer-8")
    expected = [WorkerState.RUNNING, WorkerState.PARKED, WorkerState.RUNNING]
    await wait_until(lambda: _is(runtime, [*same, other], expected), what="one of each key runs")
    await runtime.stop_worker(same[0])
    await wait_until(
        lambda: _is(runtime, same[1:], [WorkerState.RUNNING]), what="the next of the key runs"
    )
    await runtime.set_limit("max_concurrent_per_key", None)
    await runtime.stop_all_workers()
    await runtime.wait_for_worker_reports([*same, other], timeout=10)


async def test_an_agent_has_a_cap_of_its_own(runtime: ColonyRuntime) -> None:
    """agent:<name> bounds that agent and no other."""
    await runtime.set_limit("agent:bare", 1)
    bare = await runtime.spawn("fetch", count=3, agent="bare")
    others = await runtime.spawn("fetch", count=3)
    reports = await runtime.wait_for_worker_reports([*bare, *others], timeout=20)
    assert all(report.ok for report in reports)
    await runtime.set_limit("agent:bare", None)


async def test_a_cap_of_nobody_is_refused(runtime: ColonyRuntime) -> None:
    """An agent that the colony does not have: the error lists those it has. What was set for one that is
    no more is given back."""
    before = await runtime.get_limits()
    for name in ("agent:nosuch", "agent:"):
        for most in (1, None):
            with pytest.raises(
                InvalidTask, match=r"no agent is named .*this colony has: .*\bbare\b"
            ):
                await runtime.set_limit(name, most)
    assert await runtime.get_limits() == before
    await runtime._store.set_limit("agent:gone", 1)
    await runtime.set_limit("agent:gone", None)
    with pytest.raises(InvalidTask):
        await runtime.set_limit("agent:gone", None)


async def test_priority_comes_first_in_the_line(runtime: ColonyRuntime) -> None:
    """Of those who line up, the one with the higher priority is admitted first."""
    await runtime.set_limit("max_concurrent_workers", 1)
    [running] = await runtime.spawn("sleep")
    await wait_until(lambda: _is(runtime, [running], [WorkerState.RUNNING]), what="it runs")
    [low] = await runtime.spawn("fetch")
    [high] = await runtime.spawn("fetch", priority=5)
    await runtime.stop_worker(running)
    await runtime.wait_for_worker_reports([low, high], timeout=20)
    assert await _started(runtime, [low, high]) == [high, low]
    await runtime.set_limit("max_concurrent_workers", None)
