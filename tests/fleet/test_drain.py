"""A node that is told to end: what can end does, the rest goes on elsewhere."""

from __future__ import annotations

import signal

import pytest

from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until

pytestmark = pytest.mark.fleet


async def _running(fleet: Fleet) -> int:
    return (await fleet.runtime.get_stats()).states[WorkerState.RUNNING]


async def test_after_the_grace_time_workers_are_handed_over(fleet: type[Fleet]) -> None:
    """SIGTERM with workers that do not end: they run on another node, and no death is counted."""
    async with fleet("tests.definitions:basic", drain_grace="0.5") as running:
        ids = await running.runtime.spawn("doze", count=10)
        await wait_until(lambda: _all_asleep(running, 10), what="ten workers run")
        [first] = running.nodes
        await running.add_nodes(1)
        first.process.send_signal(signal.SIGTERM)
        assert first.wait(15) == 0
        reports = await running.runtime.wait_for_worker_reports(ids, timeout=30)
        assert {report.status for report in reports} == {"success"}
        for worker_id in ids:
            record = await running.runtime.get_worker(worker_id)
            assert record is not None
            assert record.resurrections == 0
            assert [a.outcome for a in record.attempts] == ["handed over", "success"]


async def _all_asleep(running: Fleet, count: int) -> bool:
    return await _running(running) == count


async def test_a_drain_ends_without_redis(fleet: type[Fleet]) -> None:
    """SIGTERM while Redis is away: the node does not wait for it for ever."""
    with EmbeddedRedis() as redis:
        async with fleet(
            "tests.definitions:basic", redis_url=redis.url, drain_grace="0.5"
        ) as running:
            await running.runtime.spawn("sleep", count=3)
            await wait_until(lambda: _all_asleep(running, 3), what="three workers run")
            redis.kill()
            [node] = running.nodes
            node.terminate()
            assert node.wait(40) is not None
            redis.start()
