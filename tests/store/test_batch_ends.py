"""How batches and trees end when nobody ends them: deadlines, stops down the tree, retention."""

from __future__ import annotations

from datetime import timedelta

import pytest

from colony.models import ReportStatus
from colony.store import Store
from colony.store.workers import Parent
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
from tests.store.kit import NOW, SOON, claim, die, dump, one, running, state, step, success


async def test_the_deadline_of_a_batch_ends_its_stragglers(store: Store) -> None:
    """Those that wait end with timeout at once, one that runs is told to, the finished keep their
    reports, and the batch is joined with all of them in order."""
    batch_id, ids = await batch_of(store, 4, deadline=HOUR)
    await end(store, ids[0])
    await claim(store, ids[1], token="t9")
    await due(store, f"batch:{batch_id}")
    assert await states(store, ids) == ["COMPLETED", "told", "FAILED", "FAILED"]
    assert not await is_due(store, f"batch:{batch_id}")
    assert (await try_join(store, batch_id))[0] == "open"
    await store.give_back(ids[1], "t9", "told", counted=False, ring_again_after=SOON)
    await try_join(store, batch_id)
    result = (await batch_record(store, batch_id)).result
    assert result is not None
    assert [m.status.value for m in result.members] == ["success", *["timeout"] * 3]


async def test_a_joined_batch_has_no_deadline(store: Store) -> None:
    """Joined early, its deadline is forgotten and stops nobody with `timeout`."""
    batch_id, ids = await batch_of(store, 2, need=1, deadline=HOUR)
    await end(store, ids[0])
    await try_join(store, batch_id)
    assert not await is_due(store, f"batch:{batch_id}")
    await due(store, f"rest:{batch_id}")
    report = (await record(store, ids[1])).report
    assert report is not None
    assert report.status is ReportStatus.STOPPED


@pytest.mark.parametrize("kind", ["batch", "rest", "tree"])
@pytest.mark.parametrize("where", ["waiting", "running"])
async def test_many_are_stopped_in_portions(store: Store, kind: str, where: str) -> None:
    """At most `cap` at a time, and the item stays due until the last one is stopped or told: those
    that were told before are no hindrance."""
    by = await parent(store)
    batch_id, ids = await batch_of(store, 6, deadline=HOUR, need=1, parent=by)
    if kind == "rest":
        await end(store, ids[0])
        await try_join(store, batch_id)
    elif kind == "tree":
        await stop(store, by.worker_id)
    left = ids[1:] if kind == "rest" else ids
    if where == "running":
        for worker_id in left:
            await claim(store, worker_id, token=f"t{worker_id}")
    item = f"tree:{by.worker_id}" if kind == "tree" else f"{kind}:{batch_id}"
    done, portions = 0, []
    while await is_due(store, item):
        await due(store, item, cap=2)
        now = await states(store, left)
        stopped = sum(s not in ("PENDING", "RUNNING") for s in now)
        portions.append(stopped - done)
        done = stopped
        assert len(portions) <= len(ids), "it goes round in circles"
    assert done == len(left)
    assert max(portions) == 2


async def test_an_item_is_done_when_its_time_has_come(store: Store, redis_url: str) -> None:
    """Asked before its time, or for an item that is not there, nothing happens."""
    batch_id, _ = await batch_of(store, 2, deadline=HOUR)
    before = dump(redis_url, store)
    for item in (f"batch:{batch_id}", f"rest:{batch_id}", "tree:w0", "part:w0"):
        assert await store.expire(item, grace=NOW) == []
    assert dump(redis_url, store) == before


@pytest.mark.parametrize("ended", ["stopped waiting", "killed", "timed out", "lost", "slice lost"])
async def test_who_ends_without_a_slice_owes_its_part(store: Store, ended: str) -> None:
    """A member that no slice ends is rung for once more, with its place in the chord; then no more."""
    batch_id, [_, member] = await batch_of(store, 2, deadline=HOUR)
    if ended in ("killed", "lost", "slice lost"):
        await claim(store, member, token="t9")
    match ended:
        case "stopped waiting":
            await stop(store, member)
        case "timed out":
            await due(store, f"deadline:{member}")
        case "killed":
            await stop(store, member)
            await due(store, f"kill:{member}")
        case _:
            await store.link.call("HSET", store.keys("worker", member), "resurrections", 3)
    if ended == "lost":
        await die(store, "n1")
        await store.rescue("n1", cap=10, ring_again_after=SOON)
    elif ended == "slice lost":
        await store.give_back(
            member, "t9", "its slice was lost", counted=True, ring_again_after=SOON
        )
    assert (await record(store, member)).report is not None
    await store.link.call("ZADD", store.keys("due"), "XX", 1, f"part:{member}")
    [ring] = await store.expire(f"part:{member}", grace=SOON)
    assert (ring.worker_id, ring.batch, ring.index) == (member, batch_id, 1)
    assert await store.expire(f"part:{member}", grace=SOON) == []


async def test_who_ends_in_its_slice_owes_nothing(store: Store) -> None:
    """The slice that settles or gives back returns the part itself: nobody is rung for it."""
    _, [settled, told, _] = await batch_of(store, 3)
    await end(store, settled)
    await claim(store, told, token="t9")
    await stop(store, told)
    await store.give_back(told, "t9", "told to stop", counted=False, ring_again_after=SOON)
    assert not await is_due(store, f"part:{settled}")
    assert not await is_due(store, f"part:{told}")


# -- trees ------------------------------------------------------------------------------------


async def _tree(store: Store) -> tuple[Parent, str, list[str]]:
    """A running parent, its running child, and the child's two children."""
    by = await parent(store)
    _, [child] = await batch_of(store, 1, parent=by)
    await claim(store, child, token="tc")
    _, ids = await batch_of(store, 2, parent=Parent(child, "tc"))
    return by, child, ids


async def _all_due(store: Store) -> None:
    """What the janitors do with all that is due now."""
    for _ in range(10):
        for item in await store.due_items(100):
            await store.expire(item, grace=HOUR)


@pytest.mark.parametrize("parent_is", ["running", "sleeping", "sleeping with a report"])
async def test_a_stop_goes_down_the_tree(store: Store, parent_is: str) -> None:
    """Stopped while it runs, or while it sleeps, also with a report filed already: its descendants of
    any depth are stopped or told to stop."""
    by, child, ids = await _tree(store)
    if parent_is == "sleeping with a report":
        await store.checkpoint(by.worker_id, "tp", step("a", filed=success()), after=0)
    if parent_is != "running":
        await store.park(by.worker_id, "tp", HOUR, ring_again_after=SOON)
    await stop(store, by.worker_id)
    await _all_due(store)
    assert await states(store, [child, *ids]) == ["told", "STOPPED", "STOPPED"]


async def test_a_stop_passes_through_who_has_ended(store: Store) -> None:
    """A child that failed and left children of its own does not shield them."""
    by, child, ids = await _tree(store)
    await store.settle(child, "tc", success())
    await stop(store, by.worker_id)
    await _all_due(store)
    assert await states(store, [child, *ids]) == ["COMPLETED", "STOPPED", "STOPPED"]


async def test_children_of_a_parent_that_dies_go_on(store: Store) -> None:
    """A parent that fails or ends well takes nobody with it."""
    by, _, ids = await _tree(store)
    await store.settle(by.worker_id, "tp", success())
    await _all_due(store)
    assert await states(store, ids) == ["PENDING", "PENDING"]


# -- retention and the sweep ------------------------------------------------------------------


async def test_retention_takes_no_member_of_an_open_batch(store: Store, redis_url: str) -> None:
    """However old: as long as one is out its ended siblings stay; others are forgotten before them."""
    batch_id, ids = await batch_of(store, 3)
    await end_all(store, ids[:2])
    other = await running(store)
    await store.settle(other, "t1", success())
    assert await store.retain(most=0, ttl=NOW, cap=10) == 1
    assert await store.get(other) is None
    await end(store, ids[2])
    before = state(redis_url, store)
    assert await store.retain(most=0, ttl=None, cap=10) == 0, "it is complete, but not joined"
    after = state(redis_url, store)
    assert sorted(after.pop("ended")) == sorted(before.pop("ended"))
    assert after == before
    await try_join(store, batch_id)
    assert await store.retain(most=0, ttl=None, cap=10) == 3


async def test_a_batch_is_forgotten_with_its_last_member(store: Store, redis_url: str) -> None:
    """It stays readable while one member is kept; with the last one nothing is left of it."""
    batch_id, ids = await batch_of(store, 2)
    await end_all(store, ids)
    await try_join(store, batch_id)
    await store.retain(most=1, ttl=None, cap=10)
    assert (await batch_record(store, batch_id)).result is not None
    await store.retain(most=0, ttl=None, cap=10)
    assert await store.batch(batch_id) is None
    assert not [name for name in dump(redis_url, store) if batch_id in name]


async def test_a_straggler_of_a_batch_joined_early_leaves_nothing(
    store: Store, redis_url: str
) -> None:
    """Its siblings are forgotten before it ends; when it has ended, it and the batch are, too."""
    batch_id, ids = await batch_of(store, 2, need=1)
    await claim(store, ids[1], token="t9")
    await end(store, ids[0])
    await try_join(store, batch_id)
    assert await store.retain(most=0, ttl=None, cap=10) == 1
    await store.settle(ids[1], "t9", success())
    await due(store, f"rest:{batch_id}")
    assert await store.retain(most=0, ttl=None, cap=10) == 1
    assert not [name for name in dump(redis_url, store) if batch_id in name]


async def test_who_waits_for_a_batch_keeps_its_members(store: Store) -> None:
    """While somebody waits for a batch by its id, none of its members is forgotten."""
    batch_id, ids = await batch_of(store, 2)
    await end_all(store, ids)
    await try_join(store, batch_id)
    await store.wait_for([batch_id], ttl=HOUR)
    assert await store.retain(most=0, ttl=NOW, cap=10) == 0


async def test_a_stopped_parent_is_kept_until_its_children_are_stopped(store: Store) -> None:
    """Retention that comes before the stop has gone down does not cut it off."""
    by = await parent(store)
    _, ids = await batch_of(store, 2, parent=by)
    await stop(store, by.worker_id, NOW)
    assert await store.retain(most=0, ttl=None, cap=10) == 0
    await _all_due(store)
    assert await states(store, ids) == ["STOPPED", "STOPPED"]


async def test_a_sweep_finds_joins_and_notices(store: Store) -> None:
    """A complete batch that nobody joined is found a moment later, and so is a notice that is due."""
    batch_id, [member] = await batch_of(store, 1, on_complete='{"task":"t"}')
    await one(store)

    async def sweep() -> tuple[list[str], bool]:
        found = await store.sweep(interval=timedelta(0), lease=HOUR, cap=10)
        assert found is not None
        return list(found.joins), found.notices

    assert await sweep() == ([], False)
    await end(store, member)
    await store.link.call("ZINCRBY", store.keys("joins"), -1000, batch_id)
    assert await sweep() == ([batch_id], False)
    await store.join(batch_id, ring_again_after=SOON)
    assert await sweep() == ([], True)
    await store.notices(again_after=HOUR, cap=10)
    assert await sweep() == ([], False)
