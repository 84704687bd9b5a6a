"""A node that is not seen again after Redis was away: nobody can say how it ended, so it is no death."""

from __future__ import annotations

from datetime import timedelta

import pytest
from redis import Redis

from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.store import Due, Store
from colony.testing import wait_until
from tests.store.kit import (
    LEASE,
    NOW,
    SOON,
    accepted,
    check_keys,
    claim,
    die,
    join,
    new_colony_id,
    now_ms,
    open_store,
    running,
    state,
    success,
)

SHORT = timedelta(milliseconds=400)
SPARED_MOST = 10


async def _sweep(store: Store, lease: timedelta = SHORT) -> Due:
    due = await store.sweep(interval=NOW, lease=lease, cap=100)
    assert due is not None
    return due


async def _nobody_sweeps(store: Store, lease: timedelta = SHORT) -> None:
    """For longer than half a lease; the first sweep after it holds the rescues."""
    until = await now_ms(store) + lease / timedelta(milliseconds=1)

    async def passed() -> bool:
        return await now_ms(store) > until

    await wait_until(passed)
    assert (await _sweep(store, lease)).dead_nodes == []


async def _rescue_when_dead(store: Store, node: str = "n1", *, witnessed: bool = False) -> None:
    async def dead() -> bool:
        return node in (await _sweep(store)).dead_nodes

    await wait_until(dead, what=f"{node} counts as dead")
    taken, _ = await store.rescue(node, cap=10, ring_again_after=SOON, witnessed=witnessed)
    assert taken


async def _deaths(store: Store, worker_id: str) -> tuple[int, str | None]:
    """How many were counted, and how the last attempt ended."""
    record = await store.get(worker_id)
    assert record is not None
    return record.resurrections, record.attempts[-1].outcome


async def test_a_node_from_before_a_restart_of_redis_is_no_death(own_redis: EmbeddedRedis) -> None:
    """Not seen again since: not counted, also with no resurrection to spare. One that has beaten since
    and dies is counted."""
    store = await open_store(own_redis.url, new_colony_id(), max_resurrections=0)
    try:
        drained = await running(store, node="n1", token="t1")
        killed = await running(store, node="n2", token="t2")
        await _sweep(store)
        await die(store, "n1")
        own_redis.restart()
        await _sweep(store)
        await store.beat("n2", lease=SHORT, about={"host": "h"})
        await _rescue_when_dead(store, "n1")
        assert await _deaths(store, drained) == (0, "node n1 was gone after Redis had been away")
        await _rescue_when_dead(store, "n2")
        record = await store.get(killed)
        assert record is not None
        assert record.state is WorkerState.FAILED
        check_keys(own_redis.url, store)
    finally:
        await store.link.close()


async def test_a_killer_is_spared_so_often_and_no_more(own_redis: EmbeddedRedis) -> None:
    """One whose every node goes down with Redis is counted in the end."""
    store = await open_store(own_redis.url, new_colony_id())
    try:
        worker_id = await running(store)
        await store.link.call("HSET", store.keys("worker", worker_id), "spared", SPARED_MOST - 1)
        await _sweep(store)
        for deaths in (0, 1):
            await die(store, "n1")
            own_redis.restart()
            await _sweep(store)
            await _rescue_when_dead(store)
            assert (await _deaths(store, worker_id))[0] == deaths
            await join(store)
            await claim(store, worker_id)
    finally:
        await store.link.close()


@pytest.mark.parametrize("who", ["another lived on", "nobody knows", "it was witnessed"])
async def test_after_a_silence_it_is_asked_whether_redis_was_away(store: Store, who: str) -> None:
    """Nobody swept. Where a node from before lives, none had Redis: no death. Where only new ones do, the
    last of the old ones may have died: that counts where its disk says so, or a worker could kill node after
    node; else nobody can say, and it does not."""
    await join(store, "n1", lease=SHORT)
    if who == "another lived on":
        await join(store, "n2", lease=LEASE)
    worker_id = await running(store)
    await _sweep(store)
    await die(store, "n1")
    await _nobody_sweeps(store)
    await join(store, "n3")
    witnessed = who == "it was witnessed"
    await _rescue_when_dead(store, witnessed=witnessed)
    assert await _deaths(store, worker_id) == (
        (1, "node n1 died") if witnessed else (0, "node n1 was gone after Redis had been away")
    )


@pytest.mark.parametrize("later", [True, False], ids=["of long ago", "of now"])
async def test_a_silence_of_long_ago_excuses_nobody(store: Store, later: bool) -> None:
    """Redis was away once. That much later nobody swept for a moment says nothing about that time."""

    async def nobody_swept(leases: float) -> None:
        swept = await now_ms(store) - int(leases * (LEASE / timedelta(milliseconds=1)))
        await store.link.call("HSET", store.keys("meta"), "swept", swept, "hold_until", 0)
        await _sweep(store, LEASE)

    await _sweep(store, LEASE)
    worker_id = await running(store)
    await nobody_swept(1.5)
    if later:
        await nobody_swept(0.7)
    await die(store, "n1")
    await store.rescue("n1", cap=10, ring_again_after=SOON)
    assert (await _deaths(store, worker_id))[0] == int(later)


async def test_a_node_that_beat_after_the_silence_and_dies_is_counted(store: Store) -> None:
    """What was before is over with its first beat."""
    await join(store, "n2")
    worker_id = await running(store)
    await _sweep(store)
    await _nobody_sweeps(store)
    await store.beat("n1", lease=SHORT, about={"host": "h"})
    await _rescue_when_dead(store)
    assert await _deaths(store, worker_id) == (1, "node n1 died")


async def test_a_node_leaves_also_when_redis_is_out_of_memory(own_redis: EmbeddedRedis) -> None:
    """The hand-over is let through; what of it is not done counts as no death, either."""
    store = await open_store(own_redis.url, new_colony_id(), max_resurrections=0)
    try:
        first, second = await accepted(store, 2)
        for number, worker_id in enumerate((first, second)):
            await join(store)
            await claim(store, worker_id, token=f"t{number}")
        await _sweep(store)
        with Redis.from_url(own_redis.url) as operator:
            operator.config_set("maxmemory", "1")
            taken, rings = await store.rescue("n1", cap=1, ring_again_after=SOON, died=False)
            operator.config_set("maxmemory", "0")
        assert (taken, len(rings)) == (1, 1)
        await die(store, "n1")
        await _rescue_when_dead(store)
        for worker_id in (first, second):
            record = await store.get(worker_id)
            assert record is not None
            assert (record.state, record.resurrections) == (WorkerState.PENDING, 0)
        check_keys(own_redis.url, store)
    finally:
        await store.link.close()


async def test_retention_makes_room_when_redis_is_out_of_memory(own_redis: EmbeddedRedis) -> None:
    """The sweep that is refused finds nothing due and changes nothing; what has ended is forgotten, and
    a message that is not ours can be kept."""
    store = await open_store(own_redis.url, new_colony_id())
    try:
        worker_id = await running(store)
        await store.settle(worker_id, "t1", success())
        alive = await running(store, token="t2")
        await die(store, "n1")
        with Redis.from_url(own_redis.url) as operator:
            operator.config_set("maxmemory", "1")
            before = state(own_redis.url, store)
            assert await _sweep(store) == Due([], [], 0, [], notices=False)
            assert state(own_redis.url, store) == before
            await store.reject("odd", "message")
            assert await store.retain(most=0, ttl=None, cap=10) == 1
            operator.config_set("maxmemory", "0")
        assert await store.get(worker_id) is None
        assert await store.get(alive) is not None
        assert len(await store.rejected(10)) == 1
        check_keys(own_redis.url, store)
    finally:
        await store.link.close()
