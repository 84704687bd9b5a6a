"""Batches of a thousand and of ten thousand: all or nothing, joined once, in order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis import Redis

from colony import ReportStatus
from colony.errors import FleetFull
from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet
from tests.fleet.helpers import assert_at_rest
from tests.fleet.tree_helpers import joined, joins_told, total

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """One node of a colony that takes 10,500 waiting workers."""
    async with Fleet("tests.fleet.tree_definitions:large") as fleet:
        yield fleet
        await assert_at_rest(fleet.redis_url, "large")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


async def _run(runtime: ColonyRuntime, size: int, within: float) -> None:
    """A batch of `size`, of which each tenth fails."""
    before = await total(runtime, "joined")
    began = time.monotonic()
    tasks = ["fail" if n % 10 == 3 else "fetch" for n in range(size)]
    batch = await runtime.spawn_batch(tasks, correlation_id="many")
    spawned = time.monotonic() - began
    result = await joined(runtime, batch.id, within)
    print(f"{size} members: accepted in {spawned:.2f} s, joined {time.monotonic() - began:.1f} s")
    assert len(set(batch)) == size
    assert [member.worker_id for member in result.members] == batch
    failed = [n for n, m in enumerate(result.members) if m.status is ReportStatus.FAILED]
    assert failed == list(range(3, size, 10))
    assert result.counts == {
        ReportStatus.SUCCESS: size - size // 10,
        ReportStatus.FAILED: size // 10,
    }
    reports = await runtime.get_batch_reports(batch.id, start=size - 5, count=10)
    assert [r and r.worker_id for r in reports] == batch[-5:]
    assert await total(runtime, "joined") == before + 1
    assert len(await joins_told(runtime, batch.id)) == 1


async def test_a_thousand_members(runtime: ColonyRuntime) -> None:
    """1,000 members are accepted in one call, joined once, and told in input order."""
    await _run(runtime, 1000, 60)


async def test_what_does_not_fit_is_refused_whole(running: Fleet, runtime: ColonyRuntime) -> None:
    """Of 9,600 members that would exceed max_pending not one is accepted, and what was staged of them
    expires by itself."""
    node = running.nodes[0]
    node.freeze()
    try:
        waiting = await runtime.spawn_batch(["fetch"] * 1000)
        accepted = await total(runtime, "accepted")
        with pytest.raises(FleetFull):
            await runtime.spawn_batch(["fetch"] * 9600)
        assert await total(runtime, "accepted") == accepted
        assert (await runtime.get_stats()).states[WorkerState.PENDING] <= 1000
        _assert_staged_expires(running.redis_url, 9600)
    finally:
        node.thaw()
    assert (await joined(runtime, waiting.id, 60)).counts == {ReportStatus.SUCCESS: 1000}


def _assert_staged_expires(redis_url: str, size: int) -> None:
    """What was staged and not accepted has a time to live, each record of it."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        [staged] = redis.scan_iter("colony:{large}:staged:*")
        ids = redis.lrange(staged, 0, -1)
        pipe = redis.pipeline(transaction=False)
        for key in [staged, *(f"colony:{{large}}:worker:{worker}" for worker in ids)]:
            pipe.ttl(key)
        assert len(ids) == size
        assert all(0 < seconds <= 120 for seconds in pipe.execute())


@pytest.mark.slow
async def test_ten_thousand_members(runtime: ColonyRuntime) -> None:
    """10,000 members in one call: staged and committed, joined once, in input order."""
    await _run(runtime, 10_000, 90)
