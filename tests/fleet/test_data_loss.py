"""Redis loses what it held, and the nodes live: the colony goes on from what there is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from redis import Redis

from colony import ReportStatus
from colony.errors import UnknownColony
from colony.models import WorkerState
from colony.store import Link, Store
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import node_name, statuses, wait_for_state

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

BEAT: dict[str, Any] = {"lease": "2", "beat_interval": "0.4"}


async def test_an_emptied_redis_is_served_again_by_the_nodes_that_live() -> None:
    """FLUSHALL under a node with work: within a few beats its colony and its triggers are known again, and
    what is spawned from then on is done; nobody restarts anything."""
    async with Fleet("tests.fleet.loss_definitions:firing", **BEAT) as fleet:
        runtime, [node] = fleet.runtime, fleet.nodes
        await runtime.spawn("sleep", count=2)
        await wait_for_state(runtime, WorkerState.RUNNING, 2)
        with Redis.from_url(fleet.redis_url) as redis:
            redis.flushall()

        async def accepted() -> list[str]:
            with suppress(UnknownColony):
                return await runtime.spawn("fetch", count=3)
            return []

        ids = await wait_until(accepted, 8, what="the colony is known again")
        reports = await runtime.wait_for_worker_reports(ids, timeout=15)
        assert statuses(reports) == {ReportStatus.SUCCESS: 3}
        fired = await runtime.trigger("by-hand")
        assert await runtime.wait_for_worker(fired, timeout=10) is not None
        assert "is registered again" in node.tail(500)


async def test_a_node_that_lost_its_lease_leaves_a_later_definition_alone() -> None:
    """It comes back in the midst of a deploy: what was registered since then stands. An older state of
    Redis, from before its own start, does not."""
    async with Fleet("tests.definitions:basic", **BEAT) as fleet:
        runtime, [node] = fleet.runtime, fleet.nodes
        link = Link(fleet.redis_url, patience=None)
        store = Store(link, fleet.colony_id)
        name = await node_name(runtime, node)
        mine = (await store.face())["version"]

        async def loses_its_lease() -> str:
            await link.call("ZREM", store.keys("nodes"), name)
            await wait_until(back, 10, what="the node has a lease again")
            return (await store.face())["version"]

        async def back() -> bool:
            return name in [found.node for found in await runtime.list_nodes()]

        await store.register({"version": "next"})
        assert await loses_its_lease() == "next"
        await link.call("HSET", store.keys("meta"), "last_registered", 1)
        assert await loses_its_lease() == mine
        await link.close()
