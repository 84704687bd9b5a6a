"""Another team's Celery application on the same Redis database is not disturbed, and disturbs nobody."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from redis import Redis

from colony import ReportStatus
from colony.doorbell import celery_app
from colony.testing import Fleet, Node, wait_until
from tests.fleet import neighbour
from tests.fleet.helpers import assert_at_rest, assert_told_once, records, statuses

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

BAKERS = 4
BAKE_SECONDS = 5.0
KEYS = re.compile(
    r"neighbour:.*|celery-task-meta-.*|unacked|unacked_index|unacked_mutex|celery|"
    r"_kombu\.binding.*"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """A fleet of one node."""
    async with Fleet("tests.definitions:basic", concurrency=20) as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bakery(running: Fleet, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """The neighbour's worker, with Celery's defaults and threads."""
    neighbour.app.conf.update(broker_url=running.redis_url, result_backend=running.redis_url)
    log = tmp_path_factory.mktemp("neighbour") / "log"
    command = [sys.executable, "-m", "celery", "-A", "tests.fleet.neighbour", "worker"]
    command += ["-P", "threads", "-c", str(BAKERS), "-n", "baker@%h", "-l", "info"]
    env = {**os.environ, "NEIGHBOUR_REDIS_URL": running.redis_url}
    node = Node(command, env, Path.cwd(), log)
    await wait_until(lambda: " ready." in node.tail(200), 20, what="the neighbour is ready")
    yield node
    node.terminate()
    await asyncio.to_thread(node.wait)


async def test_a_late_ack_neighbour_runs_each_long_task_once(running: Fleet, bakery: Node) -> None:
    """The neighbour's tasks are older than our visibility timeout: our node does not restore them,
    our workers report once, and neither uses the other's keys."""
    ours = celery_app("basic", running.runtime.settings).conf.broker_transport_options
    with Redis.from_url(running.redis_url, decode_responses=True) as redis:
        baking = [neighbour.bake.delay(loaf, BAKE_SECONDS) for loaf in range(BAKERS)]
        waiting = neighbour.bake.delay(BAKERS, 0)
        await wait_until(lambda: redis.llen("neighbour:baked") == BAKERS, 5, what="all bake")
        began = time.monotonic()
        aged = age_unacked(redis, seconds=4.0 * ours["visibility_timeout"])
        assert aged >= BAKERS, "the neighbour holds unacknowledged messages under stock keys"
        ids = await running.runtime.spawn("nap", count=60)
        reports = await running.runtime.wait_for_worker_reports(ids, timeout=20)
        assert statuses(reports) == {ReportStatus.SUCCESS: 60}
        assert [await asyncio.to_thread(b.get, timeout=15) for b in baking] == [0, 1, 2, 3]
        assert time.monotonic() - began > ours["unacked_restore_interval"] + 1, "nobody looked"
        assert await asyncio.to_thread(waiting.get, timeout=15) == BAKERS
        assert sorted(redis.lrange("neighbour:baked", 0, -1)) == ["0", "1", "2", "3", "4"]
        await wait_until(lambda: redis.hlen("unacked") == 0, 5, what="all is acknowledged")
        foreign = [key for key in redis.keys("*") if not KEYS.fullmatch(key)]

    assert {len(record.attempts) for record in await records(running.runtime, ids)} == {1}
    await assert_told_once(running.runtime, ids)
    await assert_at_rest(running.redis_url, "basic")
    assert [key for key in foreign if not key.startswith(("colony:", "colony."))] == []
    assert not {key for key in ours if key.endswith("_key") and ours[key].startswith("unacked")}


def age_unacked(redis: Redis, seconds: float) -> int:
    """Let the neighbour's tasks look as if they had run for longer than our visibility timeout (not
    than its own, an hour). Returns how many there are."""
    tags = redis.zrange("unacked_index", 0, -1)
    for tag in tags:
        redis.zincrby("unacked_index", -seconds, str(tag))
    return len(tags)


async def test_nodes_take_no_messages_of_the_neighbour(running: Fleet, bakery: Node) -> None:
    """What the neighbour queues while its worker is frozen stays in its queue."""
    bakery.freeze()
    try:
        with Redis.from_url(running.redis_url, decode_responses=True) as redis:
            before = redis.llen("celery")
            for loaf in range(10):
                neighbour.bake.delay(loaf, 0)
            ids = await running.runtime.spawn("fetch", count=40)
            reports = await running.runtime.wait_for_worker_reports(ids, timeout=10)
            assert statuses(reports) == {ReportStatus.SUCCESS: 40}
            assert redis.llen("celery") - before >= 9, "the frozen worker asked for one at most"
            assert await running.runtime.list_rejected() == []
    finally:
        bakery.thaw()
