"""Leases: a node that beats keeps its workers, one that does not loses them, an outage kills nobody."""

from __future__ import annotations

from datetime import timedelta

import pytest

from colony.errors import StaleToken
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.store import Claim, Due, Link, Ring, Store
from colony.testing import wait_until
from tests.store.kit import (
    LEASE,
    NOW,
    SOON,
    VERSION,
    check_keys,
    die,
    dump,
    events_of,
    join,
    new_colony_id,
    now_ms,
    one,
    open_store,
    running,
    state,
    step,
    success,
)


async def _sweep(store: Store, lease: timedelta = LEASE) -> Due:
    due = await store.sweep(interval=NOW, lease=lease, cap=100)
    assert due is not None
    return due


async def _rescue(store: Store, node: str, *, cap: int = 100, died: bool = True) -> list[str]:
    _, rings = await store.rescue(node, cap=cap, ring_again_after=SOON, died=died)
    return [ring.worker_id for ring in rings]


async def test_a_beat_tells_what_the_store_thinks_runs(store: Store) -> None:
    """A beat answers with the claims of that node and no other's; joining is told once."""
    mine = await running(store, node="n1", token="t1")
    await running(store, node="n2", token="t2")
    assert await store.beat("n1", lease=LEASE, about={"host": "h"}) == {mine: "t1"}
    assert (await events_of(store)).count("node_joined") == 2
    assert await join(store) == {mine: "t1"}
    assert (await events_of(store)).count("node_joined") == 2


async def test_a_lease_that_was_taken_away_is_not_renewed_by_a_beat(store: Store) -> None:
    """A rescued node learns with its beat that it is dead, and lives again only by joining."""
    await join(store)
    await die(store, "n1")
    await _rescue(store, "n1")
    assert await store.beat("n1", lease=LEASE, about={"host": "h"}) is None
    assert await join(store) == {}


async def test_only_one_sweep_per_interval(store: Store) -> None:
    """Of all nodes that ask within an interval, one is told what is due."""
    assert await store.sweep(interval=LEASE, lease=LEASE, cap=10) is not None
    assert await store.sweep(interval=LEASE, lease=LEASE, cap=10) is None


async def test_a_sweep_names_the_dead_and_the_due(store: Store) -> None:
    """Nodes whose lease ran out and items whose time has come are named, up to the cap; no others."""
    await join(store, "alive")
    for node in ("dead1", "dead2"):
        await join(store, node)
        await die(store, node)
    due_now = await one(store, deadline=NOW)
    await one(store, deadline=LEASE)
    due = await _sweep(store)
    assert (sorted(due.dead_nodes), due.pending) == (["dead1", "dead2"], 2)
    assert list(due.items) == [f"deadline:{due_now}"]
    capped = await store.sweep(interval=NOW, lease=LEASE, cap=1)
    assert capped is not None
    assert len(capped.dead_nodes) == 1


async def test_the_workers_of_a_dead_node_run_elsewhere(store: Store) -> None:
    """A rescue counts one death, notes it, and the next claim goes on from the last checkpoint."""
    worker_id = await running(store)
    await store.checkpoint(worker_id, "t1", step("a"), after=0)
    await die(store, "n1")
    _, rings = await store.rescue("n1", cap=10, ring_again_after=SOON)
    assert rings == [Ring(worker_id, "agent")]
    record = await store.get(worker_id)
    assert record is not None
    assert (record.state, record.resurrections) == (WorkerState.PENDING, 1)
    assert record.attempts[0].outcome == "node n1 died"
    await join(store, "n2")
    got = await store.claim(worker_id, node="n2", token="t2", version=VERSION)
    assert isinstance(got, Claim)
    assert (len(got.parts), got.record.epoch) == (1, 2)
    told = await events_of(store)
    assert "node_lost" in told
    assert "execution_resurrected" in told


async def test_a_rescue_goes_in_portions(store: Store) -> None:
    """The cap bounds each step; the node is forgotten when its last worker was taken."""
    ids = {await running(store, token=f"t{n}") for n in range(5)}
    await die(store, "n1")
    first = await _rescue(store, "n1", cap=3)
    assert (await _sweep(store)).dead_nodes == ["n1"]
    rest = await _rescue(store, "n1", cap=3)
    assert (len(first), set(first) | set(rest)) == (3, ids)
    assert (await _sweep(store)).dead_nodes == []


async def test_a_node_that_renewed_keeps_its_workers(store: Store, redis_url: str) -> None:
    """A rescue that comes after the renewal takes nothing."""
    await running(store)
    await die(store, "n1")
    await _sweep(store)
    await store.beat("n1", lease=LEASE, about={"host": "h"})
    before = state(redis_url, store)
    assert await _rescue(store, "n1") == []
    assert state(redis_url, store) == before


async def test_a_leaving_node_hands_over_without_a_death(store: Store, redis_url: str) -> None:
    """A node with a valid lease that leaves rings for its workers, and nothing of it remains."""
    worker_id = await running(store)
    assert await _rescue(store, "n1", died=False) == [worker_id]
    record = await store.get(worker_id)
    assert record is not None
    assert (record.resurrections, record.attempts[0].outcome) == (0, "node n1 handed it over")
    assert "nodes" not in dump(redis_url, store)
    assert "node_lost" not in await events_of(store)


async def test_the_fence(store: Store, redis_url: str) -> None:
    """After a rescue the old token cannot write one byte, before and after the new claim."""
    worker_id = await running(store, token="old")
    await store.checkpoint(worker_id, "old", step("a"), after=0)
    await die(store, "n1")
    await _rescue(store, "n1")
    await _old_owner_writes(store, redis_url, worker_id)
    await join(store, "n2")
    await store.claim(worker_id, node="n2", token="new", version=VERSION)
    await _old_owner_writes(store, redis_url, worker_id)
    await store.settle(worker_id, "new", success())
    await _old_owner_writes(store, redis_url, worker_id)


async def _old_owner_writes(store: Store, redis_url: str, worker_id: str) -> None:
    await join(store, "n1")
    before = state(redis_url, store)
    late = step("b", events=[("llm_turn_complete", {})], filed=success("late"))
    for after in (0, 1):
        with pytest.raises(StaleToken):
            await store.checkpoint(worker_id, "old", late, after=after)
    with pytest.raises(StaleToken):
        await store.settle(worker_id, "old", success("late"))
    with pytest.raises(StaleToken):
        await store.park(worker_id, "old", SOON, ring_again_after=SOON)
    given = await store.give_back(worker_id, "old", "late", counted=True, ring_again_after=SOON)
    assert given is None
    assert state(redis_url, store) == before


async def test_after_a_gap_nobody_is_dead_for_one_lease(store: Store) -> None:
    """When nobody swept for half a lease, the first sweep names no dead node until a lease has passed."""
    lease = timedelta(milliseconds=400)
    await join(store)
    await die(store, "n1")
    assert (await _sweep(store, lease)).dead_nodes == ["n1"]
    until = await now_ms(store) + 250
    await wait_until(lambda: _passed(store, until))
    assert (await _sweep(store, lease)).dead_nodes == []
    hold = float((await store.face())["hold_until"])
    await wait_until(lambda: _names_dead(store, lease), what="the node is named in the end")
    assert await now_ms(store) >= hold >= until + 400 - 1


async def _passed(store: Store, moment: float) -> bool:
    return await now_ms(store) > moment


async def _names_dead(store: Store, lease: timedelta) -> bool:
    return list((await _sweep(store, lease)).dead_nodes) == ["n1"]


async def test_after_a_restart_of_redis_nobody_is_dead(own_redis: EmbeddedRedis) -> None:
    """The first sweep after a restart begins a generation of events and holds; claims are still there."""
    store = await open_store(own_redis.url, new_colony_id())
    try:
        worker_id = await running(store)
        await _sweep(store)
        await die(store, "n1")
        own_redis.restart()
        assert (await _sweep(store)).dead_nodes == []
        face = await store.face()
        assert (face["generation"], face["since:2"]) == ("2", face["events"])
        assert float(face["hold_until"]) > await now_ms(store)
        await _sweep(store)
        assert (await store.face())["generation"] == "2"
        await store.checkpoint(worker_id, "t1", step("a"), after=0)
        await store.settle(worker_id, "t1", success())
        check_keys(own_redis.url, store)
    finally:
        await store.link.close()


async def test_a_new_node_is_no_restart(store: Store, redis_url: str) -> None:
    """A sweep by a client that has just connected neither begins a generation nor holds rescues."""
    await _sweep(store)
    await join(store)
    await die(store, "n1")
    link = Link(redis_url, patience=SOON)
    try:
        assert (await _sweep(Store(link, store.colony_id))).dead_nodes == ["n1"]
    finally:
        await link.close()
    assert (await store.face())["generation"] == "1"
