"""Workers that were lost are kept until somebody has looked; drains count for nothing."""

from __future__ import annotations

import pytest

from colony.models import WorkerState
from colony.store import Refusal, Ring, Store
from colony.testing import wait_until
from tests.store.batch_kit import due, is_due
from tests.store.fixtures import OpenColony
from tests.store.kit import (
    LEASE,
    NOW,
    SOON,
    VERSION,
    check_keys,
    claim,
    die,
    join,
    one,
    running,
    step,
    success,
)


async def lose(store: Store, deaths: int = 1) -> str:
    """A worker whose node dies under it so often."""
    worker_id = await one(store)
    for number in range(deaths):
        await claim(store, worker_id, node=f"n{number}", token=f"t{number}")
        await die(store, f"n{number}")
        await store.rescue(f"n{number}", cap=10, ring_again_after=SOON)
    if await is_due(store, f"part:{worker_id}"):  # it was one too many
        assert await due(store, f"part:{worker_id}") == [worker_id]
    return worker_id


async def summary_of(store: Store, worker_id: str) -> str:
    """What its report says."""
    record = await store.get(worker_id)
    assert record is not None
    assert record.report is not None
    return record.report.summary


async def test_the_reason_says_where_and_how_often(open_colony: OpenColony) -> None:
    """The report names the node of each attempt that died, and only of those."""
    store = await open_colony(max_resurrections=1)
    worker_id = await one(store)
    for number, died in enumerate([True, False, True], 1):
        node = f"host-{number}/boot"
        await claim(store, worker_id, node=node, token=f"t{number}")
        if died:
            await die(store, node)
        await store.rescue(node, cap=10, ring_again_after=SOON, died=died)
    assert await summary_of(store, worker_id) == (
        "Worker was lost: its node died under it 2 times: attempt 1: node host-1/boot died, "
        "attempt 3: node host-3/boot died."
    )
    assert [r.worker_id for r in await store.quarantined(10)] == [worker_id]


async def test_a_long_list_of_deaths_is_cut(open_colony: OpenColony) -> None:
    """Of very many deaths the first twenty and the last are told."""
    store = await open_colony(max_resurrections=29)
    told = await summary_of(store, await lose(store, 30))
    assert "died under it 30 times" in told
    assert "attempt 20: node n19 died, …, the last attempt 30: node n29 died." in told
    assert "attempt 21" not in told


async def test_retention_leaves_quarantine_alone(open_colony: OpenColony, redis_url: str) -> None:
    """Neither count nor age takes a lost worker, nor does it take the place of others; dropped, it goes
    its way."""
    store = await open_colony(max_resurrections=0)
    lost = [await lose(store) for _ in range(3)]
    others = []
    for _ in range(2):
        others.append(await running(store))
        await store.settle(others[-1], "t1", success())
    assert await store.retain(most=2, ttl=None, cap=10) == 0
    assert await store.retain(most=1, ttl=None, cap=10) == 1
    assert await wait_until(lambda: store.retain(most=10, ttl=NOW, cap=10)) == 1
    assert [r.worker_id for r in await store.quarantined(10)] == lost[::-1]
    check_keys(redis_url, store)
    await store.drop(lost[0])
    assert not await store.is_quarantined(lost[0])
    assert await store.get(lost[0]) is not None
    check_keys(redis_url, store)
    assert await wait_until(lambda: store.retain(most=10, ttl=NOW, cap=10)) == 1
    assert await store.get(lost[0]) is None
    assert [r.worker_id for r in await store.quarantined(10)] == [lost[2], lost[1]]


async def test_quarantine_is_bounded(open_colony: OpenColony, redis_url: str) -> None:
    """One too many: the oldest leaves the list, and is kept like any other."""
    store = await open_colony(max_resurrections=0, quarantine_max=2)
    lost = [await lose(store) for _ in range(3)]
    assert [r.worker_id for r in await store.quarantined(10)] == [lost[2], lost[1]]
    assert await store.get(lost[0]) is not None
    check_keys(redis_url, store)
    assert await wait_until(lambda: store.retain(most=10, ttl=NOW, cap=10)) == 1


async def test_one_that_had_filed_its_report_is_not_lost(open_colony: OpenColony) -> None:
    """Its report stands: there is nothing to look into."""
    store = await open_colony(max_resurrections=0)
    worker_id = await running(store)
    await store.checkpoint(worker_id, "t1", step("a", filed=success()), after=0)
    await die(store, "n1")
    await store.rescue("n1", cap=10, ring_again_after=SOON)
    record = await store.get(worker_id)
    assert record is not None
    assert record.state is WorkerState.COMPLETED
    assert await store.quarantined(10) == []
    assert await store.link.call("HGET", store.keys("meta"), "total:lost") is None


async def test_a_draining_node_is_refused_claims(store: Store, redis_url: str) -> None:
    """Until it has left; what it runs goes on, and a claim of its own asked again is answered."""
    mine = await running(store)
    waiting = await one(store)
    assert await store.drain("n1")
    assert await store.is_draining("n1")
    refused = await store.claim(waiting, node="n1", token="t2", version=VERSION)
    assert refused is Refusal.DRAINING
    again = await store.claim(mine, node="n1", token="t1", version=VERSION)
    assert not isinstance(again, str)
    await store.checkpoint(mine, "t1", step("a"), after=0)
    await claim(store, waiting, node="n2", token="t3")
    check_keys(redis_url, store)


async def test_an_unknown_node_is_not_drained(store: Store) -> None:
    """Nothing is written for a node without a lease."""
    assert not await store.drain("n9")
    assert not await store.is_draining("n9")


@pytest.mark.parametrize("told", [True, False])
async def test_a_node_that_dies_in_its_drain_counts_for_nothing(
    store: Store, redis_url: str, told: bool
) -> None:
    """An orchestrator that kills what it has told to end: a deploy, no death."""
    worker_id = await running(store)
    if told:
        await store.drain("n1")
    await die(store, "n1")
    _, rings = await store.rescue("n1", cap=10, ring_again_after=SOON)
    assert rings == [Ring(worker_id, "agent")]
    record = await store.get(worker_id)
    assert record is not None
    assert record.resurrections == (0 if told else 1)
    [attempt] = record.attempts
    assert attempt.outcome == ("node n1 ended in its drain" if told else "node n1 died")
    await join(store)
    assert await store.is_draining("n1") == told, "it comes back and goes on draining"
    check_keys(redis_url, store)


async def test_a_beat_keeps_the_flag(store: Store) -> None:
    """It is durable: the node may have been away when it was set."""
    await join(store)
    await store.drain("n1")
    await store.beat("n1", lease=LEASE, about={"host": "h"})
    assert await store.is_draining("n1")
