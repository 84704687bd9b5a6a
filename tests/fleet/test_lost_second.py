"""What a Redis that lost the end of its append-only file can mean: nothing worse than the README says.

Store and queue are two servers here, so that each can lose its last second alone. The file is cut to
where it ended before the work was given, as a crash before the fsync leaves it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from colony import EventType, ReportStatus
from colony.errors import UnknownWorker
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once
from tests.tour.helpers import report_of

pytestmark = pytest.mark.fleet

BASIC = "tests.definitions:basic"


def file_of(server: EmbeddedRedis) -> Path:
    """The part of the append-only file that is written now: one file in Redis 6, several from 7 on."""
    return max(server.directory.rglob("*.aof"), key=lambda file: file.stat().st_mtime_ns)


def remember(server: EmbeddedRedis) -> Callable[[], None]:
    """How to let the server forget what is written from now on: it is killed, and comes back without."""
    with Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "always")
    file = file_of(server)
    size = file.stat().st_size

    def forget() -> None:
        server.kill()
        os.truncate(file, size)
        server.restart()

    return forget


async def test_a_record_is_lost_and_its_doorbell_is_not() -> None:
    """The message of a worker that nobody knows is set aside; its producer is told so; all else goes on, and
    readers of events are told that something is missing."""
    with EmbeddedRedis() as store, EmbeddedRedis() as queue:
        async with Fleet(BASIC, redis_url=store.url, broker_url=queue.url) as fleet:
            runtime = fleet.runtime
            [before] = await runtime.spawn("fetch")
            await report_of(runtime, before)
            last = await runtime._store.latest_event()
            fleet.nodes[0].freeze()
            forget = remember(store)
            [lost] = await runtime.spawn("fetch")
            forget()
            fleet.nodes[0].thaw()

            async def is_set_aside() -> bool:
                return any(r.message == lost for r in await runtime.list_rejected())

            await wait_until(is_set_aside, 20, what="the message of a lost worker is set aside")
            with pytest.raises(UnknownWorker, match=lost):
                await runtime.wait_for_worker(lost, timeout=1)
            [after] = await runtime.spawn("fetch")
            assert (await report_of(runtime, after, 20)).status is ReportStatus.SUCCESS
            await assert_told_once(runtime, [before, after])
            told = [e async for e in runtime.events(after=last, follow=False)]
            assert [e.type for e in told].count(EventType.SUBAGENT_REPORT) == 1


async def test_a_doorbell_is_lost_and_its_record_is_not() -> None:
    """The queue forgot the message: it is rung again, and the worker reports once."""
    with EmbeddedRedis() as store, EmbeddedRedis() as queue:
        async with Fleet(BASIC, redis_url=store.url, broker_url=queue.url) as fleet:
            runtime = fleet.runtime
            fleet.nodes[0].freeze()
            forget = remember(queue)
            ids = await runtime.spawn("fetch", count=3)
            forget()
            fleet.nodes[0].thaw()
            for worker_id in ids:
                assert (await report_of(runtime, worker_id, 30)).status is ReportStatus.SUCCESS
            await assert_told_once(runtime, ids)
            totals = (await runtime.get_stats()).totals
            assert totals["rung_again"] >= 2, "one was on its way to the node already"
