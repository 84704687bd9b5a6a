"""How a batch is joined: by its policy, once, whatever becomes of doorbells, chord and members."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis import Redis

from colony import ReportStatus
from colony.doorbell import Doorbells, celery_app
from colony.models import OnComplete, WorkerState
from colony.runtime import ColonyRuntime
from colony.store import Ring
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_at_rest, assert_told_once, records, wait_for_state
from tests.fleet.tree_helpers import gates, joined, joins_told, statuses_of, until_states

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS, FAILED, STOPPED = ReportStatus.SUCCESS, ReportStatus.FAILED, ReportStatus.STOPPED
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


async def test_any_is_joined_by_the_first_good_report(runtime: ColonyRuntime) -> None:
    """Policy any: a failure does not join, the first success does, and the rest is stopped."""
    batch = await runtime.spawn_batch(["rest", "fail", "fetch", "rest"], policy="any")
    result = await joined(runtime, batch.id)
    assert statuses_of(result)[2] is SUCCESS
    assert {statuses_of(result)[0], statuses_of(result)[3]} == {STOPPED}
    reports = await runtime.wait_for_worker_reports(batch, timeout=10, stop_on_timeout=False)
    assert [r.status for r in reports][0::3] == [STOPPED, STOPPED]
    assert len(await joins_told(runtime, batch.id)) == 1


async def test_any_without_a_good_report_is_joined_by_the_last(runtime: ColonyRuntime) -> None:
    """Policy any, and all fail: joined with all of them."""
    batch = await runtime.spawn_batch(["fail", "fail"], policy="any")
    assert statuses_of(await joined(runtime, batch.id)) == [FAILED, FAILED]


async def test_first_n_stops_those_not_needed(runtime: ColonyRuntime) -> None:
    """Policy first_n=2: open after one success, joined with the second; the rest is stopped."""
    batch = await runtime.spawn_batch(
        ["fetch", "rest", "rest", "rest-fan 1 fetch"], policy="first_n", first_n=2
    )
    await runtime.wait_for_worker(batch[0], timeout=10)
    assert await runtime.wait_for_batch(batch.id, timeout=0) is None
    assert statuses_of(await joined(runtime, batch.id)) == [SUCCESS, STOPPED, STOPPED, SUCCESS]
    reports = await runtime.wait_for_worker_reports(batch, timeout=10, stop_on_timeout=False)
    assert [r.status for r in reports] == [SUCCESS, STOPPED, STOPPED, SUCCESS]


async def test_who_is_not_needed_ends_as_the_result_says(
    runtime: ColonyRuntime, folder: Path
) -> None:
    """One that would report success while it is being stopped: result and reports say the same, stopped
    unless it had filed before, and the policy is met: ok."""
    batch = await runtime.spawn_batch(["hold met", *["hold any"] * 4], policy="any")
    await until_states(runtime, batch, WorkerState.RUNNING)
    (folder / "met").touch()
    result = await joined(runtime, batch.id)
    (folder / "any").touch()
    reports = await runtime.wait_for_worker_reports(batch, timeout=10, stop_on_timeout=False)
    assert [report.status for report in reports] == statuses_of(result)
    assert (result.ok, statuses_of(result)[0]) == (True, SUCCESS)


async def test_on_complete_sends_the_producers_own_task(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """on_complete: one Celery message with the task's name, the batch's id in its own, and the result."""
    batch = await runtime.spawn_batch(
        ["fetch", "fail"], on_complete=OnComplete(task="shop.done", queue="shop")
    )
    await joined(runtime, batch.id)
    with Redis.from_url(running.redis_url) as redis:
        await wait_until(lambda: redis.llen("shop"), 5, what="the producer's task is sent")
        await wait_until(
            lambda: not redis.exists("colony:{trees}:outbox", "colony:{trees}:notices"), 5
        )
        [raw] = redis.lrange("shop", 0, -1)
    envelope = json.loads(raw)
    args, kwargs, _ = json.loads(base64.b64decode(envelope["body"]))
    assert (envelope["headers"]["task"], envelope["headers"]["id"]) == (
        "shop.done",
        f"{batch.id}.complete",
    )
    [result] = args
    assert (kwargs, result["batch_id"], result["size"]) == ({}, batch.id, 2)
    assert result["counts"] == {"success": 1, "failed": 1}


async def test_doorbells_of_all_members_ten_times_are_one_join(
    runtime: ColonyRuntime, folder: Path
) -> None:
    """Each doorbell, parts of the chord and all, ten times, before and after: one run each, one join."""
    batch = await runtime.spawn_batch(["hold ten", "fetch", "fail"])
    rings = [Ring(worker, "agent", batch.id, n) for n, worker in enumerate(batch)]
    bells = Doorbells(celery_app("trees", runtime.settings), "trees", runtime.settings)
    await asyncio.to_thread(bells.ring, rings * 5)
    (folder / "ten").touch()
    await joined(runtime, batch.id)
    await asyncio.to_thread(bells.ring, rings * 5)
    await asyncio.to_thread(bells.close)
    [after] = await runtime.spawn("fetch")
    assert await runtime.wait_for_worker(after, timeout=10) is not None
    assert [len(record.attempts) for record in await records(runtime, batch)] == [1, 1, 1]
    await assert_told_once(runtime, batch)
    assert len(await joins_told(runtime, batch.id)) == 1


@pytest.mark.parametrize("terminate", [True, False])
async def test_a_revoked_member_is_stopped_and_its_batch_joins(
    runtime: ColonyRuntime, folder: Path, terminate: bool
) -> None:
    """Celery's revoke of a running member, with and without terminate: stopped, joined, no id remembered."""
    gate = f"revoke-{terminate}"
    batch = await runtime.spawn_batch([f"hold {gate}", "rest", f"hold {gate}"])
    await until_states(runtime, batch, WorkerState.RUNNING)
    app = celery_app("trees", runtime.settings)
    await asyncio.to_thread(app.control.revoke, batch[1], terminate=terminate)
    report = await runtime.wait_for_worker(batch[1], timeout=10)
    assert report is not None
    assert report.status is STOPPED
    (folder / gate).touch()
    assert statuses_of(await joined(runtime, batch.id)) == [SUCCESS, STOPPED, SUCCESS]
    await asyncio.to_thread(app.close)


async def test_a_batch_whose_chord_is_lost_is_joined(
    running: Fleet, runtime: ColonyRuntime, folder: Path
) -> None:
    """The keys of its chord are gone, so that no body is ever sent: the last slice joins."""
    batch = await runtime.spawn_batch(["hold chord"] * 3)
    await until_states(runtime, batch, WorkerState.RUNNING)
    with Redis.from_url(running.redis_url) as redis:
        assert redis.delete(*redis.keys(f"celery-taskset-meta-{batch.id}*")) >= 1
    (folder / "chord").touch()
    assert statuses_of(await joined(runtime, batch.id)) == [SUCCESS] * 3
    assert len(await joins_told(runtime, batch.id)) == 1


async def test_a_batch_that_is_stopped_joins(runtime: ColonyRuntime) -> None:
    """stop_batch: running and queued members are stopped, and the batch is joined."""
    batch = await runtime.spawn_batch(["rest"] * (SLOTS + 4))
    await wait_for_state(runtime, WorkerState.RUNNING, SLOTS)
    assert await runtime.stop_batch(batch.id) == SLOTS + 4
    result = await joined(runtime, batch.id, timeout=5)
    assert result.counts == {STOPPED: SLOTS + 4}
    assert len(await joins_told(runtime, batch.id)) == 1
