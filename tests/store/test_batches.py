"""Batches: accepted whole, arrived at by name, joined once; their parents sleep and are woken."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from colony.errors import StaleToken, TreeLimit
from colony.models import WorkerState
from colony.store import Store
from colony.store.workers import STAGE, NewBatch, Parent, Policy
from tests.store.batch_kit import (
    HOUR,
    batch_of,
    batch_record,
    due,
    end,
    end_all,
    is_due,
    parent,
    record,
    states,
    stop,
    try_join,
)
from tests.store.fixtures import OpenColony
from tests.store.kit import (
    NOW,
    SOON,
    claim,
    dump,
    events_of,
    new_workers,
    state,
    success,
)

# -- accept -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, STAGE + 1])
async def test_members_are_in_input_order(store: Store, size: int) -> None:
    """A batch knows its members in input order, staged or not; each knows its place."""
    batch_id, ids = await batch_of(store, size)
    assert await store.members(batch_id, 0, size) == ids
    last = await record(store, ids[-1])
    assert (last.batch_id, last.batch_index) == (batch_id, size - 1)
    batch = await batch_record(store, batch_id)
    assert (batch.state, batch.size, batch.arrived, batch.result) == ("OPEN", size, 0, None)


async def test_a_deadline_is_never_later_than_the_parents(store: Store) -> None:
    """Children and their batch have the parent's deadline when they ask for a later one or none, and
    their own when it is earlier."""
    by = await parent(store, deadline=HOUR)
    limit = (await record(store, by.worker_id)).deadline
    assert limit is not None
    for asked in (None, 2 * HOUR, HOUR / 2):
        batch_id, [child] = await batch_of(store, 1, parent=by, deadline=asked)
        found = (await record(store, child)).deadline
        assert found is not None
        assert (found < limit) if asked == HOUR / 2 else (found == limit)
        assert (await batch_record(store, batch_id)).deadline == found


async def test_a_child_knows_its_lineage(store: Store) -> None:
    """Parent, root and depth are those of the tree, and the parent lists its children."""
    by = await parent(store)
    batch_id, [child] = await batch_of(store, 1, parent=by)
    await claim(store, child, token="tc")
    _, [grandchild] = await batch_of(store, 1, parent=Parent(child, "tc"))
    found = await record(store, grandchild)
    assert (found.parent_id, found.root_id, found.depth) == (child, by.worker_id, 2)
    assert await store.children(by.worker_id) == [child]
    assert (await batch_record(store, batch_id)).parent_id == by.worker_id


async def test_a_tree_has_at_most_max_depth_levels(open_colony: OpenColony, redis_url: str) -> None:
    """Whoever stands at the deepest level is refused, and nothing has changed."""
    store = await open_colony(max_depth=2)
    _, [child] = await batch_of(store, 1, parent=await parent(store))
    await claim(store, child, token="tc")
    before = state(redis_url, store)
    with pytest.raises(TreeLimit, match="2 levels"):
        await batch_of(store, 1, parent=Parent(child, "tc"))
    assert state(redis_url, store) == before


async def test_descendants_are_counted_for_the_whole_tree(
    open_colony: OpenColony, redis_url: str
) -> None:
    """Beyond max_descendants a whole batch is refused, at any level; ended ones count, too."""
    store = await open_colony(max_descendants=4)
    by = await parent(store)
    _, [child] = await batch_of(store, 1, parent=by)
    await claim(store, child, token="tc")
    _, ids = await batch_of(store, 2, parent=Parent(child, "tc"))
    await end_all(store, ids)
    before = state(redis_url, store)
    with pytest.raises(TreeLimit, match="3 descendants already, at most 4"):
        await batch_of(store, 2, parent=by)
    assert state(redis_url, store) == before
    await batch_of(store, 1, parent=by)


@pytest.mark.parametrize("why", ["other token", "rescued", "parked", "told", "ended", "unknown"])
async def test_only_the_owner_of_the_claim_spawns(store: Store, redis_url: str, why: str) -> None:
    """A parent that lost its claim, waits, has ended or is being stopped gets no children."""
    by = await parent(store)
    match why:
        case "other token":
            by = Parent(by.worker_id, "t0")
        case "rescued":
            await store.give_back(by.worker_id, "tp", "x", counted=False, ring_again_after=SOON)
            await claim(store, by.worker_id, token="t2")
        case "parked":
            await store.park(by.worker_id, "tp", HOUR, ring_again_after=SOON)
        case "told":
            await stop(store, by.worker_id)
        case "ended":
            await store.settle(by.worker_id, "tp", success())
        case "unknown":
            by = Parent("w0", "tp")
    before = state(redis_url, store)
    with pytest.raises(StaleToken):
        await batch_of(store, 1, parent=by)
    assert state(redis_url, store) == before


async def test_nothing_new_under_a_root_that_is_being_stopped(store: Store) -> None:
    """The stop has not come down to the parent yet: what it spawns is refused all the same."""
    root = await parent(store)
    _, [child] = await batch_of(store, 1, parent=root)
    await claim(store, child, token="tc")
    await stop(store, root.worker_id)
    with pytest.raises(StaleToken):
        await batch_of(store, 1, parent=Parent(child, "tc"))


async def test_the_same_spawn_is_the_same_batch(store: Store, redis_url: str) -> None:
    """A parent that was rescued between spawning and parking spawns again, with a new token: no child
    twice, and as long as it lives none is forgotten: it may ask for their reports."""
    by = await parent(store)
    workers, batch = new_workers(2), NewBatch("b1", Policy.ALL, 3)
    await store.accept(workers, ring_again_after=SOON, batch=batch, parent=by)
    await store.give_back(by.worker_id, "tp", "x", counted=True, ring_again_after=SOON)
    await claim(store, by.worker_id, token="t2")
    again = Parent(by.worker_id, "t2")
    for _ in range(2):
        before = state(redis_url, store)
        await store.accept(workers, ring_again_after=SOON, batch=batch, parent=again)
        assert state(redis_url, store) == before
        await end_all(store, [w for w, _ in workers if (await record(store, w)).report is None])
        await store.join("b1", ring_again_after=SOON)
    assert await store.retain(most=0, ttl=None, cap=10) == 0
    await store.settle(by.worker_id, "t2", success())
    assert await store.retain(most=0, ttl=None, cap=10) == 3


async def test_a_batch_that_is_partly_forgotten_is_not_spawned_again(
    store: Store, redis_url: str
) -> None:
    """The same request again, when the first of its members is kept no more."""
    workers, batch = new_workers(2), NewBatch("b2", Policy.ALL, 3)
    await store.accept(workers, ring_again_after=SOON, batch=batch)
    await end_all(store, [worker_id for worker_id, _ in workers])
    await store.join("b2", ring_again_after=SOON)
    await store.link.call("ZADD", store.keys("ended"), 1, workers[0][0])
    await store.retain(most=1, ttl=None, cap=10)
    assert await store.get(workers[0][0]) is None
    before = state(redis_url, store)
    await store.accept(workers, ring_again_after=SOON, batch=batch)
    assert state(redis_url, store) == before


# -- arrive and join --------------------------------------------------------------------------


async def test_a_batch_is_open_until_its_last_member_is_in(store: Store) -> None:
    """A join before that changes nothing and says how many are in; only the last settle names it."""
    batch_id, ids = await batch_of(store, 3)
    for n, worker_id in enumerate(ids[:2]):
        assert await try_join(store, batch_id) == ["open", n, 3]
        assert await end(store, worker_id) == ""
    assert (await batch_record(store, batch_id)).arrived == 2
    assert await end(store, ids[2], "failed") == batch_id
    assert (await try_join(store, batch_id))[0] == "joined"


async def test_a_member_is_counted_once(store: Store) -> None:
    """Settled again, given back, claimed, rung for: who has ended is in, and is in once."""
    batch_id, ids = await batch_of(store, 3)
    await claim(store, ids[0])
    for _ in range(3):
        assert (await store.settle(ids[0], "t1", success())).joinable == ""
    await stop(store, ids[1])
    await stop(store, ids[1])
    assert await due(store, f"part:{ids[1]}") == [ids[1]]
    assert await store.claim(ids[1], node="n1", token="t2", version="1") == WorkerState.STOPPED
    assert await try_join(store, batch_id) == ["open", 2, 3]


async def test_a_batch_is_joined_once(store: Store, redis_url: str) -> None:
    """The first join has the result, in input order, and one event; each one after it is told 'done'
    and changes nothing."""
    batch_id, ids = await batch_of(store, 3)
    for worker_id, status in zip(reversed(ids), ("partial", "failed", "success"), strict=True):
        await end(store, worker_id, status)
    assert await try_join(store, batch_id) == ["joined", []]
    before = dump(redis_url, store)
    for _ in range(3):
        assert await try_join(store, batch_id) == ["done"]
    assert dump(redis_url, store) == before
    result = (await batch_record(store, batch_id)).result
    assert result is not None
    assert [(m.worker_id, m.status.value) for m in result.members] == list(
        zip(ids, ("success", "failed", "partial"), strict=True)
    )
    assert (sum(result.counts.values()), result.ok) == (3, False)
    assert (await events_of(store)).count("batch_completed") == 1
    assert before["meta"]["total:joined"] == "1"


async def test_there_is_no_batch_of_that_id(store: Store, redis_url: str) -> None:
    """An unknown batch is not joined, and nothing is made up for it."""
    before = dump(redis_url, store)
    assert await try_join(store, "b0") == ["unknown"]
    assert dump(redis_url, store) == before


@pytest.mark.parametrize("need", [1, 2])
async def test_good_reports_join_a_batch_early(store: Store, need: int) -> None:
    """any and first_n: that many good reports join it, failed ones do not count towards them; those
    still out are stopped, and one that is in keeps its report."""
    batch_id, ids = await batch_of(store, 6, need=need)
    await end(store, ids[0], "failed")
    for worker_id in ids[1:need]:
        assert await end(store, worker_id) == ""
    assert (await try_join(store, batch_id))[0] == "open"
    assert await end(store, ids[need]) == batch_id
    await claim(store, ids[5])
    await try_join(store, batch_id)
    await due(store, f"rest:{batch_id}")
    expected = ["FAILED", *["COMPLETED"] * need, *["STOPPED"] * (4 - need), "told"]
    assert await states(store, ids) == expected
    result = (await batch_record(store, batch_id)).result
    assert result is not None
    assert result.counts == {"success": need, "failed": 1, "stopped": 5 - need}


async def test_without_enough_good_reports_all_are_awaited(store: Store) -> None:
    """any, and nobody did well: the batch is joined when its last member is in, with nothing to stop."""
    batch_id, ids = await batch_of(store, 2, need=1)
    assert await end(store, ids[0], "failed") == ""
    assert await end(store, ids[1], "failed") == batch_id
    await try_join(store, batch_id)
    assert not await is_due(store, f"rest:{batch_id}")


async def test_a_joined_batch_is_announced_until_it_was_sent(store: Store) -> None:
    """on_complete: the notice comes again and again until it is said to be sent, and then no more."""
    batch_id, [member] = await batch_of(store, 1, on_complete='{"task":"their.task"}')
    plain, [other] = await batch_of(store, 1)
    await end_all(store, [member, other])
    assert await store.notices(again_after=NOW, cap=10) == {}
    for each in (batch_id, plain):
        await try_join(store, each)
    notice = f"batch:{batch_id}"
    for _ in range(2):
        [(found, text)] = (await store.notices(again_after=NOW, cap=10)).items()
        told = json.loads(text)
        assert (told["to"], told["result"]["batch_id"]) == ({"task": "their.task"}, batch_id)
        assert found == notice
    await store.notices(again_after=HOUR, cap=10)
    assert await store.notices(again_after=HOUR, cap=10) == {}, "not again before its time"
    await try_join(store, batch_id)
    await store.notice_sent(notice)
    await store.link.call("ZADD", store.keys("outbox"), "XX", 1, notice)
    assert await store.notices(again_after=NOW, cap=10) == {}


async def test_a_notice_that_cannot_be_sent_comes_ever_more_rarely(store: Store) -> None:
    """Each time after twice as long, up to 32 times; how often it came is kept where all janitors see it."""
    batch_id, [member] = await batch_of(store, 1, on_complete='{"task":"their.task"}')
    await end_all(store, [member])
    await try_join(store, batch_id)
    notice, waits = f"batch:{batch_id}", []
    for _ in range(8):
        before = await store.now_ms()
        assert list(await store.notices(again_after=timedelta(seconds=10), cap=10)) == [notice]
        due = float(await store.link.call("ZSCORE", store.keys("outbox"), notice))
        waits.append(round((due - before) / 10_000))
        await store.link.call("ZADD", store.keys("outbox"), "XX", before, notice)
    assert waits == [1, 2, 4, 8, 16, 32, 32, 32]
    await store.notice_sent(notice)
    assert await store.link.call("EXISTS", *map(store.keys, ("outbox", "notices", "tried"))) == 0
