"""A node that is drained while Redis is away, or full: its workers go on, and no death is counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis

from colony import ReportStatus
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once, records, statuses, wait_for_state

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]


def drained_fleet(url: str, **options: Any) -> Fleet:
    """One node, whose workers have no death to spare."""
    return Fleet(
        "tests.definitions:basic",
        redis_url=url,
        lease="2",
        beat_interval="0.4",
        drain_grace="0.5",
        max_resurrections="0",
        **options,
    )


@pytest.mark.parametrize("trouble", ["away", "out of memory"])
async def test_a_drain_in_trouble_is_no_death(trouble: str) -> None:
    """SIGTERM in it: the node ends, the trouble too, another node goes on."""
    with EmbeddedRedis() as redis:
        async with drained_fleet(redis.url) as fleet:
            runtime, [node] = fleet.runtime, fleet.nodes
            ids = await runtime.spawn("doze", count=3)
            await wait_for_state(runtime, WorkerState.RUNNING, 3)
            with Redis.from_url(redis.url) as operator:
                if trouble == "away":
                    redis.kill()
                else:
                    operator.config_set("maxmemory", "1")
                node.terminate()
                assert await asyncio.to_thread(node.wait, 30) == 0
                if trouble == "away":
                    redis.start()
                else:
                    operator.config_set("maxmemory", "0")
            await fleet.add_nodes(1)
            reports = await runtime.wait_for_worker_reports(ids, timeout=40)
            assert statuses(reports) == {ReportStatus.SUCCESS: 3}
            assert {r.resurrections for r in await records(runtime, ids)} == {0}
            await assert_told_once(runtime, ids)


async def test_a_full_redis_gets_room_by_retention() -> None:
    """Results whose time is over are forgotten while it refuses to write."""
    with EmbeddedRedis() as redis:
        async with drained_fleet(redis.url, result_retention_ttl="8") as fleet:
            runtime = fleet.runtime
            ids = await runtime.spawn("fetch", count=5)
            await wait_for_state(runtime, WorkerState.COMPLETED, 5)
            with Redis.from_url(redis.url) as operator:
                operator.config_set("maxmemory", "1")

                async def forgotten() -> bool:
                    return await runtime.get_worker(ids[0]) is None

                await wait_until(forgotten, 30, what="retention")
                operator.config_set("maxmemory", "0")
