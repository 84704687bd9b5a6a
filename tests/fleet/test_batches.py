"""A batch is one unit: all of it or none is accepted, and it ends with one result in input order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.errors import InvalidTask, UnknownBatch, UnknownWorker
from colony.models import Report, WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_at_rest, records
from tests.fleet.tree_helpers import gates, joined, joins_told, statuses_of, total, until_states

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS, FAILED = ReportStatus.SUCCESS, ReportStatus.FAILED
STOPPED, TIMEOUT = ReportStatus.STOPPED, ReportStatus.TIMEOUT
SLOTS = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """One node with few slots, whose gates are files; at the end nothing is left of all these batches."""
    with gates(tmp_path_factory.mktemp("gates")):
        async with Fleet(
            "tests.fleet.tree_definitions:trees", concurrency=SLOTS, sweep_interval="0.1"
        ) as fleet:
            yield fleet
            await assert_at_rest(fleet.redis_url, "trees")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


@pytest.fixture
def folder(running: Fleet) -> Path:
    """Where a test opens gates."""
    return Path(running._env()["TEST_GATES"])


async def test_three_tasks_three_ids_three_reports_in_input_order(runtime: ColonyRuntime) -> None:
    """One of three fails: distinct ids, reports in input order, data intact (scenario 9)."""
    batch = await runtime.spawn_batch(["far", "fail", {"task": "fetch", "data": {"k": [1]}}])
    result = await joined(runtime, batch.id)
    assert len(set(batch)) == 3
    assert [member.worker_id for member in result.members] == batch
    assert statuses_of(result) == [SUCCESS, FAILED, SUCCESS]
    assert (result.counts, result.ok) == ({SUCCESS: 2, FAILED: 1}, False)
    reports = await runtime.wait_for_worker_reports(batch)
    assert [report.data for report in reports] == [
        {"n": 2**53 + 1, "empty": [], "text": "ü\u0000 {}"},
        {"tried": 3},
        {"rows": 5},
    ]
    assert await runtime.get_batch_reports(batch.id) == reports


async def test_the_ids_of_a_batch_wait_for_its_join(runtime: ColonyRuntime, folder: Path) -> None:
    """As a plain list too, in whatever order; with one missing, or one more, each worker is waited for."""
    batch = await runtime.spawn_batch(["hold join", "fetch", "fetch"])
    first, *others = batch

    async def waiting_for(what: str, ids: list[str]) -> asyncio.Task[list[Report]]:
        task = asyncio.create_task(runtime.wait_for_worker_reports(ids, 20))
        waiters = runtime._wait()._waiters
        await wait_until(lambda: set(waiters) == {what}, what=f"only {what} is waited for")
        return task

    for ids in ([first, others[0]], [*batch, "nobody"]):
        task = await waiting_for(first, ids)
        task.cancel()
        await asyncio.wait([task])
    task = await waiting_for(batch.id, [*others, first])
    (folder / "join").touch()
    assert [report.worker_id for report in await task] == [*others, first]


async def test_an_unknown_id_is_reported_in_its_place(runtime: ColonyRuntime) -> None:
    """Among a batch's ids an unknown one is failed, no_such_worker, where it stands (scenario 10)."""
    batch = await runtime.spawn_batch(["fetch", "fail"])
    reports = await runtime.wait_for_worker_reports([batch[0], "w-nobody", batch[1]], timeout=15)
    assert [(r.worker_id, r.status) for r in reports] == [
        (batch[0], SUCCESS),
        ("w-nobody", FAILED),
        (batch[1], FAILED),
    ]
    assert reports[1].error == "no_such_worker"


async def test_an_id_of_the_other_kind_is_told(runtime: ColonyRuntime, folder: Path) -> None:
    """Who waits for a batch as for a worker, or the other way round, hears it at once: open or joined."""
    batch = await runtime.spawn_batch(["hold kind", "fetch"])
    for is_open in (True, False):
        with pytest.raises(UnknownWorker, match=f"'{batch.id}' is the id of a batch"):
            await asyncio.wait_for(runtime.wait_for_worker(batch.id), 5)
        with pytest.raises(UnknownBatch, match=batch[0]):
            await asyncio.wait_for(runtime.wait_for_batch(batch[0]), 5)
        waiting = runtime.wait_for_worker_reports([batch[1], batch.id, batch[1]], 60)
        reports = await asyncio.wait_for(waiting, 20)
        assert [report.error for report in reports] == [None, "no_such_worker", None]
        if is_open:
            (folder / "kind").touch()
            await joined(runtime, batch.id)


async def test_a_look_stops_who_has_not_ended(runtime: ColonyRuntime) -> None:
    """`wait_for_worker_reports` with a time-out of 0: whoever has not ended is stopped at once."""
    batch = await runtime.spawn_batch(["rest", "fetch"])
    await runtime.wait_for_worker(batch[1], timeout=10)
    reports = await runtime.wait_for_worker_reports(batch, timeout=0)
    assert [report.status for report in reports] == [TIMEOUT, SUCCESS]
    assert statuses_of(await joined(runtime, batch.id)) == [TIMEOUT, SUCCESS]


async def test_a_deadline_stops_stragglers_and_joins(runtime: ColonyRuntime) -> None:
    """At a batch's deadline those not ended, running or parked, are timeout; the others keep their
    reports, the order is kept, and the batch is joined (scenario 11)."""
    began = time.monotonic()
    batch = await runtime.spawn_batch(
        ["rest", "fetch", "fan 1 rest", "fail"], deadline=timedelta(seconds=1)
    )
    result = await joined(runtime, batch.id)
    assert time.monotonic() - began >= 0.9
    assert statuses_of(result) == [TIMEOUT, SUCCESS, TIMEOUT, FAILED]
    [child] = await runtime.get_children(batch[2])
    report = await runtime.wait_for_worker(child, timeout=10)
    assert report is not None
    assert report.status in (TIMEOUT, STOPPED)


async def test_who_waits_with_a_timeout_ends_stragglers_and_the_batch(
    runtime: ColonyRuntime,
) -> None:
    """timeout=0 looks and returns at once; a timeout that passes stops stragglers, and the batch joins."""
    batch = await runtime.spawn_batch(["rest", "fetch"])
    began = time.monotonic()
    await runtime.wait_for_worker_reports(batch, timeout=0, stop_on_timeout=False)
    assert await runtime.wait_for_batch(batch.id, timeout=0) is None
    assert time.monotonic() - began < 1
    await runtime.wait_for_worker(batch[1], timeout=10)
    reports = await runtime.wait_for_worker_reports(batch, timeout=0.2)
    assert [report.status for report in reports] == [TIMEOUT, SUCCESS]
    assert statuses_of(await joined(runtime, batch.id)) == [TIMEOUT, SUCCESS]


@pytest.mark.parametrize(
    ("tasks", "named"),
    [
        ([], "tasks is empty"),
        (["fetch", "fetch", "  "], r"tasks\[2\].task is blank"),
        (["fetch", {"task": "fetch", "data": "text"}], r"tasks\[1\].data"),
        (["fetch", {"task": "fetch", "data": [1]}], r"tasks\[1\].data"),
        (["fetch"] * 10_001, "at most 10000"),
        ([*["fetch"] * 999, ""], r"tasks\[999\].task is blank"),
    ],
)
async def test_a_bad_batch_is_refused_whole(
    runtime: ColonyRuntime, tasks: list[object], named: str
) -> None:
    """One bad task, or too many: an error that names index or limit, and nothing spawned (scenario 12)."""
    before = await total(runtime, "accepted")
    with pytest.raises(InvalidTask, match=named):
        await runtime.spawn_batch(tasks)  # type: ignore[arg-type]
    assert await total(runtime, "accepted") == before


async def test_a_queued_member_that_is_stopped_reports_and_its_batch_joins(
    runtime: ColonyRuntime, folder: Path
) -> None:
    """A member that waits for a slot is stopped: it reports stopped, the batch completes (scenario 14)."""
    blockers = await runtime.spawn_batch(["hold queued"] * SLOTS)
    await until_states(runtime, blockers, WorkerState.RUNNING)
    batch = await runtime.spawn_batch(["fetch", "fetch"])
    assert await runtime.stop_worker(batch[1])
    report = await runtime.wait_for_worker(batch[1], timeout=5)
    assert report is not None
    assert report.status is STOPPED
    assert (await records(runtime, [batch[1]]))[0].attempts == ()
    assert await runtime.wait_for_batch(batch.id, timeout=0) is None
    (folder / "queued").touch()
    assert statuses_of(await joined(runtime, batch.id)) == [SUCCESS, STOPPED]
    assert statuses_of(await joined(runtime, blockers.id)) == [SUCCESS] * SLOTS


async def test_a_batch_is_one_unit(running: Fleet, runtime: ColonyRuntime, folder: Path) -> None:
    """Nothing is announced while 2 of 3 are in, one event when all are; the result is in input order
    and is read later, from another runtime, without any history (scenario 16)."""
    batch = await runtime.spawn_batch(["hold unit", "fail", "fetch"], correlation_id="unit-16")

    async def two_are_in() -> bool:
        record = await runtime.get_batch(batch.id)
        return record is not None and record.arrived == 2

    await wait_until(two_are_in, what="two of three are in")
    assert await runtime.wait_for_batch(batch.id, timeout=0.5) is None
    assert await joins_told(runtime, batch.id) == []
    assert [r and r.status for r in await runtime.get_batch_reports(batch.id)] == [
        None,
        FAILED,
        SUCCESS,
    ]
    (folder / "unit").touch()
    result = await joined(runtime, batch.id)
    assert statuses_of(result) == [SUCCESS, FAILED, SUCCESS]
    [told] = await joins_told(runtime, batch.id)
    assert told.data["counts"] == {"success": 2, "failed": 1}
    async with ColonyRuntime("trees", redis_url=running.redis_url) as later:
        assert await later.wait_for_batch(batch.id, timeout=0) == result
        record = await later.get_batch(batch.id)
        assert record is not None
        assert record.result == result
        assert result.correlation_id == "unit-16"
        page = await later.get_batch_reports(batch.id, start=1, count=2)
        assert [r and r.summary for r in page] == ["Could not fetch", "Fetched 5 rows"]
    assert await total(runtime, "stale_refused") == 0
