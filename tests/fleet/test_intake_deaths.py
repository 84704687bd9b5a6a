"""What is sent to the intake is accepted once, whatever dies: the node that has taken it, at each step, the
node that is frozen with it, Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as NotYet
from redis import Redis

from colony import ReportStatus, WorkerState
from colony.doorbell import SPAWN
from colony.errors import FleetFull, InvalidTask
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once, statuses, wait_for_state
from tests.fleet.shop import shop

pytestmark = pytest.mark.fleet

INTAKE = "colony.basic.intake"
POOLS = {"asyncio": 10, "threads": 2, "prefork": 2, "solo": 1}


def fleet(**options: Any) -> Fleet:
    """A fleet whose nodes are soon seen to be dead."""
    return Fleet(
        "tests.definitions:basic", beat_interval="0.3", lease="1.5", sweep_interval="0.2", **options
    )


def send(client: Celery, count: int = 1) -> list[Any]:
    """So many spawns, by name."""
    return [client.send_task(SPAWN, args=["fetch"], queue=INTAKE) for _ in range(count)]


async def workers_of(sent: list[Any], timeout: float = 20) -> list[str]:
    """The ids that the client is told, all different."""
    results = [await asyncio.to_thread(result.get, timeout=timeout) for result in sent]
    ids = [worker for result in results for worker in result["worker_ids"]]
    assert len(set(ids)) == len(sent)
    return ids


async def assert_accepted_once(running: Fleet, sent: list[Any], timeout: float = 20) -> None:
    """Each was answered, accepted once, and reported once; nothing is left in the broker."""
    ids = await workers_of(sent, timeout)
    reports = await running.runtime.wait_for_worker_reports(ids, timeout=20)
    assert statuses(reports) == {ReportStatus.SUCCESS: len(sent)}
    await assert_told_once(running.runtime, ids)
    assert (await running.runtime.get_stats()).totals["accepted"] == len(sent)
    await wait_until(lambda: not lists(running), 5, what="the intake is empty")


def lists(running: Fleet) -> dict[str, int]:
    """What waits in the intake, and what nodes have taken."""
    with Redis.from_url(running.redis_url, decode_responses=True) as redis:
        names = [name for name in redis.keys(f"{INTAKE}*") if redis.type(name) == "list"]
        return {name: int(redis.llen(name)) for name in names}


@pytest.mark.parametrize("point", ["before-accept", "after-accept", "before-acknowledge"])
async def test_a_node_that_dies_with_a_message(point: str) -> None:
    """kill -9 before the accept, after it, and before the acknowledgement: another node accepts it, once."""
    async with fleet(nodes=0) as running:
        [victim] = await running.add_nodes(fault=f"{point}@1:kill")
        with shop(running.redis_url) as client:
            sent = send(client, 3)
            await asyncio.to_thread(victim.wait)
            assert sum(lists(running).values()) == 3
            await running.add_nodes()
            await assert_accepted_once(running, sent)


async def test_a_frozen_idle_node_takes_nothing_with_it() -> None:
    """A message that comes while the only node is frozen, which is then killed, is accepted by the next: it
    was handed over by Redis to a process that never read it."""
    async with fleet() as running:
        with shop(running.redis_url) as client:
            [victim] = running.nodes
            victim.freeze()
            sent = send(client)
            await wait_until(lambda: ":" in "".join(lists(running)), 5, what="Redis hands it over")
            victim.kill()
            await running.add_nodes()
            await assert_accepted_once(running, sent)


async def test_a_node_frozen_with_a_message_and_back() -> None:
    """Its message is accepted elsewhere; when it goes on it accepts nothing more, and serves on."""
    async with fleet() as running:
        [frozen] = await running.add_nodes(fault="before-accept@1:stop")
        with shop(running.redis_url) as client:
            sent = send(client, 12)
            ids = await workers_of(sent)
            frozen.thaw()
            more = send(client, 12)
            await assert_accepted_once(running, [*sent, *more])
            assert ids
        assert frozen.process.poll() is None


@pytest.mark.parametrize("pool", POOLS)
async def test_every_pool_accepts_while_it_is_full(pool: str) -> None:
    """Under each pool, with every place taken, what comes is accepted at once, and runs later."""
    async with fleet(pool=pool, concurrency=POOLS[pool]) as running:
        with shop(running.redis_url) as client:
            sleepers = await running.runtime.spawn("sleep", count=POOLS[pool] + 2)
            ids = await workers_of(send(client, 5), timeout=5)
            for worker in sleepers:
                await running.runtime.stop_worker(worker)
            reports = await running.runtime.wait_for_worker_reports(ids, timeout=30)
            assert statuses(reports) == {ReportStatus.SUCCESS: 5}
            await assert_told_once(running.runtime, ids)


async def test_redis_restarts_in_the_middle() -> None:
    """200 messages are under way when Redis is killed and comes back: each is accepted once."""
    with EmbeddedRedis() as server:
        async with fleet(redis_url=server.url) as running:
            with shop(running.redis_url) as client:
                sent = await asyncio.to_thread(send, client, 200)
                await wait_until(lambda: sum(lists(running).values()) < 150, 10, what="some are in")
                server.kill()
                await asyncio.to_thread(server.restart)
                await assert_accepted_once(running, sent, timeout=40)


async def test_a_node_that_ends_in_order_leaves_the_rest() -> None:
    """SIGTERM in the middle of 300 messages: the node leaves soon, the next one accepts the rest."""
    async with fleet() as running:
        [first] = running.nodes
        with shop(running.redis_url) as client:
            first.freeze()  # it is to begin when all are there
            sent = await asyncio.to_thread(send, client, 300)
            first.thaw()
            await wait_until(lambda: sum(lists(running).values()) < 290, 10, what="some are in")
            first.terminate()
            assert await asyncio.to_thread(first.wait) == 0
            assert 0 < sum(lists(running).values()) < 290
            await running.add_nodes()
            await assert_accepted_once(running, sent)


async def test_a_full_fleet_lets_wait_what_can_fit() -> None:
    """Beyond max_pending a message waits until there is room; one that can never fit is refused at once."""
    async with fleet(concurrency=1, max_pending="3") as running:
        with shop(running.redis_url) as client:
            sleepers = await running.runtime.spawn("sleep")
            await wait_for_state(running.runtime, WorkerState.RUNNING, 1)
            sleepers += await running.runtime.spawn("sleep", count=3)
            with pytest.raises(FleetFull):
                await running.runtime.spawn("fetch")
            [sent] = send(client)
            with pytest.raises(NotYet):
                await asyncio.to_thread(sent.get, timeout=1.5)
            for worker in sleepers:
                await running.runtime.stop_worker(worker)
            ids = await workers_of([sent])
            assert await running.runtime.wait_for_worker(ids[0], timeout=10)
            large = client.send_task(SPAWN, ["fetch"], {"count": 4}, queue=INTAKE)
            with pytest.raises(InvalidTask, match="max_pending"):
                await asyncio.to_thread(large.get, timeout=10)
