"""Store and broker may be two servers: COLONY_BROKER_URL."""

from __future__ import annotations

import asyncio

import pytest
from redis import Redis

from colony.errors import StoreUnavailable
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.testing import Fleet
from tests.proxy import Proxy

pytestmark = pytest.mark.fleet


async def test_the_queue_may_have_a_server_of_its_own(fleet: type[Fleet]) -> None:
    """Records are on one server, messages on the other, and a batch is joined across both."""
    with EmbeddedRedis() as store, EmbeddedRedis() as broker:
        async with fleet(
            "tests.definitions:basic", redis_url=store.url, broker_url=broker.url
        ) as running:
            batch = await running.runtime.spawn_batch(["fetch", "fail", "text"])
            result = await running.runtime.wait_for_batch(batch.id, timeout=20)
            assert result is not None
            assert [member.worker_id for member in result.members] == batch
            assert await running.runtime.queue_depth() == 0
        with Redis.from_url(store.url, decode_responses=True) as client:
            foreign = [k for k in client.scan_iter("*") if not k.startswith("colony:")]
        with Redis.from_url(broker.url, decode_responses=True) as client:
            ours = [k for k in client.scan_iter("*") if k.startswith("colony:{")]
        assert foreign == []
        assert ours == []


async def test_a_broker_that_is_cut_off_holds_up_no_producer(fleet: type[Fleet]) -> None:
    """It takes what it is told and says nothing, at whatever moment: what is accepted is returned in time and
    runs once a janitor has rung; what only the broker knows is an error that names it."""
    with EmbeddedRedis() as store, EmbeddedRedis() as broker, Proxy(broker.url) as proxy:
        async with (
            fleet(
                "tests.definitions:basic",
                redis_url=store.url,
                broker_url=broker.url,
                ring_again_after="1",
            ) as running,
            ColonyRuntime("basic", redis_url=store.url, broker_url=proxy.url) as runtime,
        ):
            assert await runtime.wait_for_worker_reports(await runtime.spawn("fetch"), 10)
            proxy.black_hole()
            async with asyncio.timeout(6):  # one wait for the chord, or for the doorbells, is 1.5 s
                ids = await runtime.spawn("fetch")
                batch = await runtime.spawn_batch(["fetch"] * 3)
            for look in (runtime.queue_depth, runtime.intake_depth):
                with pytest.raises(StoreUnavailable, match="the broker at"):
                    async with asyncio.timeout(3):
                        await look()
            reports = await running.runtime.wait_for_worker_reports([*ids, *batch], timeout=20)
            assert all(report.ok for report in reports)
