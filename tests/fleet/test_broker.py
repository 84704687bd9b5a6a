"""Store and broker may be two servers: COLONY_BROKER_URL."""

from __future__ import annotations

import pytest
from redis import Redis

from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet

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
