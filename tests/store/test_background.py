"""Background work: a parent's places are given atomically, those that queue start first come first
served, and the parent sleeps until one of several ends."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest

from colony.errors import StaleToken, TreeLimit
from colony.models import Report, WorkerState
from colony.store import Ring, Store
from colony.store.workers import Accepted, Background, NewBatch, NewWorker, Parent, Parked, Policy
from colony.testing import wait_until
from tests.store.batch_kit import (
    batch_of,
    batch_record,
    due,
    end_all,
    is_due,
    parent,
    record,
    states,
    stop,
)
from tests.store.fixtures import OpenColony
from tests.store.kit import SOON, claim, dump, new_workers, now_ms, state, success, told

REJECT = Background(1, queue=False)
QUEUE = Background(1, queue=True)


async def unit_of(
    store: Store, by: Parent, size: int = 1, places: Background = QUEUE
) -> tuple[str, list[str]]:
    """Dispatch a unit of background work; its handle and its members."""
    batch = new_unit(size, places)
    _, ids = await store.accept(new_workers(size), ring_again_after=SOON, batch=batch, parent=by)
    return batch.batch_id, ids


def new_unit(size: int, places: Background) -> NewBatch:
    """A unit that is joined when all its members are in."""
    return NewBatch(f"b{secrets.token_hex(6)}", Policy.ALL, size + 1, background=places)


async def ended(store: Store, handle: str, ids: list[str]) -> list[str]:
    """All members end well, and the unit is joined; whom that rings for."""
    await end_all(store, ids)
    return [ring.worker_id for ring in await store.join(handle, ring_again_after=SOON)]


async def waits_of(store: Store, ids: list[str]) -> set[str | None]:
    """What they wait for."""
    return {(await record(store, worker_id)).waits_for for worker_id in ids}


async def units(store: Store, by: Parent) -> dict[str, float]:
    """What is out: 0 runs, else since when it queues (microseconds)."""
    flat = await store.link.call("ZRANGE", store.keys("units", by.worker_id), 0, -1, "WITHSCORES")
    flat = [x for pair in flat for x in pair] if flat and isinstance(flat[0], list) else flat
    return dict(zip(flat[::2], map(float, flat[1::2]), strict=True))


# -- a place ------------------------------------------------------------------------------------


async def test_of_two_racing_dispatches_one_is_accepted_and_the_other_told_the_capacity(
    store: Store, redis_url: str
) -> None:
    """Capacity 1 and `reject`: the refused one leaves nothing behind, not one key or count (17)."""
    by = await parent(store)
    made = [(new_unit(2, REJECT), new_workers(2)) for _ in range(2)]

    async def dispatch(batch: NewBatch, workers: list[NewWorker]) -> Accepted:
        verdict, _ = await store.accept(workers, ring_again_after=SOON, batch=batch, parent=by)
        return verdict

    both = await asyncio.gather(*(dispatch(*one) for one in made), return_exceptions=True)
    assert [v for v in both if v is Accepted.NOW] == [Accepted.NOW]
    [refused] = [index for index, verdict in enumerate(both) if isinstance(verdict, TreeLimit)]
    assert "at most 1 may be (max_async_children)" in str(both[refused])
    assert "1 units of background work are out" in str(both[refused])
    batch, workers = made[refused]
    whole = dump(redis_url, store)
    assert not [one for one in [batch.batch_id, *(w for w, _ in workers)] if one in str(whole)]
    assert whole["meta"]["total:accepted"] == "3"
    assert whole[f"worker:{by.worker_id}"]["descendants"] == "2"


async def test_a_refused_dispatch_finds_a_place_once_one_has_ended(store: Store) -> None:
    """The same request again, after the unit before it was joined and not only complete."""
    by = await parent(store)
    first, members = await unit_of(store, by, places=REJECT)
    await end_all(store, members)
    with pytest.raises(TreeLimit):
        await unit_of(store, by, places=REJECT)
    await store.join(first, ring_again_after=SOON)
    await unit_of(store, by, places=REJECT)


async def test_a_unit_of_many_takes_one_place(store: Store) -> None:
    """Three of two members each fit in three places; batches that are waited for take none."""
    by = await parent(store)
    await batch_of(store, 2, parent=by)
    three = Background(3, queue=False)
    handles = [(await unit_of(store, by, 2, three))[0] for _ in range(3)]
    assert await units(store, by) == dict.fromkeys(handles, 0)
    with pytest.raises(TreeLimit, match="3 units"):
        await unit_of(store, by, 1, three)


async def test_places_are_of_one_parent(store: Store) -> None:
    """Another parent's units take none of them."""
    by, other = await parent(store), await parent(store)
    await unit_of(store, by, places=REJECT)
    await unit_of(store, other, places=REJECT)


async def test_the_same_dispatch_again_is_the_same_unit(store: Store, redis_url: str) -> None:
    """Sent again while it runs, and while it queues: the same answer, nothing changes."""
    by = await parent(store)
    for expected in (Accepted.NOW, Accepted.LATER):
        workers, batch = new_workers(2), new_unit(2, QUEUE)
        before = None
        for _ in range(2):
            verdict, ids = await store.accept(
                workers, ring_again_after=SOON, batch=batch, parent=by
            )
            assert (verdict, ids) == (expected, [worker_id for worker_id, _ in workers])
            now = state(redis_url, store)
            assert before in (None, now)
            before = now


async def test_a_parent_that_lost_its_claim_dispatches_nothing(store: Store) -> None:
    """Neither with a stale token nor while it is told to stop; no place is taken."""
    by = await parent(store)
    with pytest.raises(StaleToken):
        await unit_of(store, Parent(by.worker_id, "old"))
    await stop(store, by.worker_id)
    with pytest.raises(StaleToken):
        await unit_of(store, by)
    assert await units(store, by) == {}


# -- the queue ------------------------------------------------------------------------------------


async def test_queued_units_start_first_come_first_served_when_one_before_is_joined(
    store: Store,
) -> None:
    """Three for one place: the members of a queued one wait for their siblings and cannot be claimed;
    the join of each starts the next and returns its doorbells."""
    by = await parent(store)
    made = [await unit_of(store, by, 2) for _ in range(3)]
    (first, _), (second, seconds), (third, thirds) = made
    queue = await units(store, by)
    assert queue[first] == 0
    assert 0 < queue[second] < queue[third]
    assert abs(queue[second] / 1000 - await now_ms(store)) < 60_000
    assert await states(store, [*seconds, *thirds]) == ["PARKED"] * 4
    assert await waits_of(store, [*seconds, *thirds]) == {"siblings"}
    refused = await store.claim(seconds[0], node="n1", token="t", version="1")
    assert refused == "PARKED"
    for position, (handle, ids) in enumerate(made):
        assert await states(store, ids) == ["PENDING"] * 2
        following = made[position + 1][1] if position < 2 else []
        await end_all(store, ids)
        rings = await store.join(handle, ring_again_after=SOON)
        assert rings == [
            Ring(worker_id, "agent", made[position + 1][0], index)
            for index, worker_id in enumerate(following)
        ]
        assert await waits_of(store, following) <= {"slot"}
    assert await units(store, by) == {}
    assert await store.link.call("EXISTS", store.keys("units", by.worker_id)) == 0


async def test_the_end_of_one_wakes_the_parent_and_starts_the_next(store: Store) -> None:
    """One join does both, and rings for both; a second join does neither."""
    by = await parent(store)
    first, members = await unit_of(store, by)
    second, queued = await unit_of(store, by)
    await store.park(by.worker_id, "tp", (first, second), ring_again_after=SOON)
    assert await ended(store, first, members) == [by.worker_id, *queued]
    assert await store.join(first, ring_again_after=SOON) == []


async def test_queued_units_go_on_after_their_parent_has_ended(store: Store) -> None:
    """A parent that leaves its work: what queues is started all the same."""
    by = await parent(store)
    first, members = await unit_of(store, by)
    second, queued = await unit_of(store, by)
    await store.settle(by.worker_id, "tp", success())
    assert await ended(store, first, members) == queued
    assert await ended(store, second, queued) == []
    assert await units(store, by) == {}


async def test_a_queued_unit_can_be_stopped(store: Store) -> None:
    """Its members settle at once; joined, it leaves the queue, and who is behind it comes in turn."""
    by = await parent(store)
    first, members = await unit_of(store, by)
    second, queued = await unit_of(store, by, 2)
    third, last = await unit_of(store, by)
    for worker_id in queued:
        assert await stop(store, worker_id) == "settled"
    assert await store.join(second, ring_again_after=SOON) == []
    assert list(await units(store, by)) == [first, third]
    assert (await batch_record(store, second)).state == "JOINED"
    for worker_id in queued:
        assert await due(store, f"part:{worker_id}") == [worker_id]
    assert await ended(store, first, members) == last


async def test_a_queued_unit_that_lost_a_member_runs_the_others(store: Store) -> None:
    """One of two is stopped while they queue: its turn comes, and only the other is rung for."""
    by = await parent(store)
    first, members = await unit_of(store, by)
    second, (gone, stays) = await unit_of(store, by, 2)
    await stop(store, gone)
    assert await ended(store, first, members) == [stays]
    assert await ended(store, second, [stays]) == []
    await due(store, f"part:{gone}")


async def test_the_stop_of_a_parent_takes_its_units_along(store: Store) -> None:
    """One that runs is told, one that is PENDING and one that queues settle; no place stays taken, and
    a queued one is not started by the joins."""
    by = await parent(store)
    first, (runs, pending) = await unit_of(store, by, 2)
    second, queued = await unit_of(store, by, 2)
    await claim(store, runs, token="tc")
    await store.park(by.worker_id, "tp", (first, second), ring_again_after=SOON)
    assert await stop(store, by.worker_id) == "settled"
    await due(store, f"tree:{by.worker_id}")
    assert await states(store, [runs, pending, *queued]) == ["told", *["STOPPED"] * 3]
    await store.settle(runs, "tc", success())
    assert await store.join(second, ring_again_after=SOON) == []
    assert await store.join(first, ring_again_after=SOON) == []
    assert await units(store, by) == {}
    report = (await record(store, by.worker_id)).report
    assert report is not None
    assert report.left_running == ()


async def test_a_unit_that_is_started_while_its_tree_is_being_stopped_is_stopped(
    store: Store,
) -> None:
    """The stop goes down a few at a time: a join in between starts the next unit, which ends too."""
    by = await parent(store)
    first, members = await unit_of(store, by)
    second, queued = await unit_of(store, by, 3)
    await stop(store, by.worker_id)
    for worker_id in members:
        await stop(store, worker_id)
    started = [ring.worker_id for ring in await store.join(first, ring_again_after=SOON)]
    assert started == queued
    for _ in range(4):
        if await is_due(store, f"tree:{by.worker_id}"):
            await due(store, f"tree:{by.worker_id}", cap=1)
    assert await states(store, queued) == ["STOPPED"] * 3
    await store.join(second, ring_again_after=SOON)
    assert await units(store, by) == {}


async def test_under_a_cap_a_unit_whose_turn_has_come_lines_up_for_capacity(
    open_colony: OpenColony,
) -> None:
    """Its place among its siblings is no place in the colony: it waits for that next."""
    store = await open_colony(**{"definition_capped": "1", "cap:colony": 2})
    by = await parent(store)
    first, members = await unit_of(store, by)
    second, queued = await unit_of(store, by, 2)
    assert await ended(store, first, members) == queued[:1]
    assert await waits_of(store, queued[1:]) == {"capacity"}
    assert await units(store, by) == {second: 0}


# -- the parent sleeps, and ends --------------------------------------------------------------------


async def test_a_parent_sleeps_until_the_first_of_several_ends(store: Store) -> None:
    """Parked on three, it is woken by the one that is joined first, once; then parked on the others."""
    by, three = await parent(store), Background(3, queue=False)
    made = [await unit_of(store, by, places=three) for _ in range(3)]
    handles = tuple(handle for handle, _ in made)
    assert await store.park(by.worker_id, "tp", handles, ring_again_after=SOON) == Parked([])
    assert (await record(store, by.worker_id)).waits_for == "children"
    assert await ended(store, *made[1]) == [by.worker_id]
    assert await states(store, [by.worker_id]) == ["PENDING"]
    assert await ended(store, *made[2]) == []
    await claim(store, by.worker_id, token="t2")
    parked = await store.park(by.worker_id, "t2", handles[:1], ring_again_after=SOON)
    assert parked == Parked([])
    assert await ended(store, *made[0]) == [by.worker_id]


async def test_one_that_ended_before_the_park_wakes_the_parent_at_once(store: Store) -> None:
    """Joined before: PENDING again, and the same for the same request; complete but not joined: the
    join wakes it."""
    by, three = await parent(store), Background(3, queue=False)
    made = [await unit_of(store, by, places=three) for _ in range(2)]
    handles = tuple(handle for handle, _ in made)
    await ended(store, *made[1])
    for _ in range(2):
        parked = await store.park(by.worker_id, "tp", handles, ring_again_after=SOON)
        assert parked == Parked([Ring(by.worker_id, "agent")], again=True)
    await claim(store, by.worker_id, token="t2")
    await end_all(store, made[0][1])
    assert await store.park(by.worker_id, "t2", handles[:1], ring_again_after=SOON) == Parked([])
    assert len(await store.join(handles[0], ring_again_after=SOON)) == 1


@pytest.mark.parametrize("woken_by", ["its soft deadline", "a unit"])
async def test_a_parent_does_not_sleep_beyond_its_soft_deadline(
    store: Store, woken_by: str
) -> None:
    """Parked before it, it is woken at it; a unit that ends first takes that alarm away, and one that
    parks after it sleeps until a unit ends."""
    [(worker_id, fields)] = new_workers(soft_ms="60000")
    await store.accept([(worker_id, fields)], ring_again_after=SOON)
    await claim(store, worker_id, token="tp")
    by = Parent(worker_id, "tp")
    handle, members = await unit_of(store, by)
    await store.park(worker_id, "tp", (handle,), ring_again_after=SOON)
    alarm = await store.link.call("ZSCORE", store.keys("due"), f"wake:{worker_id}")
    created = (await record(store, worker_id)).created_at.timestamp() * 1000
    assert abs(float(alarm) - created - 60_000) < 2
    if woken_by == "a unit":
        assert await ended(store, handle, members) == [worker_id]
        assert not await is_due(store, f"wake:{worker_id}")
        return
    ring = await store.wake(worker_id, ring_again_after=SOON)
    assert ring == Ring(worker_id, "agent")
    await store.link.call("HSET", store.keys("worker", worker_id), "soft_ms", 0)
    await claim(store, worker_id, token="t2")
    parked = await store.park(worker_id, "t2", (handle,), ring_again_after=SOON)
    assert parked == Parked([])
    assert not await is_due(store, f"wake:{worker_id}")


async def test_a_batch_whose_id_is_part_of_another_wakes_nobody(store: Store) -> None:
    """Ids are compared whole."""
    by = await parent(store)
    ids = {}
    for batch_id in ("b1", "b12"):
        batch = NewBatch(batch_id, Policy.ALL, 2)
        _, ids[batch_id] = await store.accept(
            new_workers(), ring_again_after=SOON, batch=batch, parent=by
        )
    await store.park(by.worker_id, "tp", ("b12",), ring_again_after=SOON)
    assert await ended(store, "b1", ids["b1"]) == []
    assert await ended(store, "b12", ids["b12"]) == [by.worker_id]


async def test_a_report_names_what_is_left_running(store: Store) -> None:
    """In the record, in the event and on the channel: units that run and units that queue, and no batch
    that was waited for; once all are joined a later report names none."""
    by = await parent(store)
    await batch_of(store, 1, parent=by)
    first, members = await unit_of(store, by)
    second, queued = await unit_of(store, by)
    await store.settle(by.worker_id, "tp", success())
    left = (await record(store, by.worker_id)).report
    assert left is not None
    assert left.left_running == (first, second)
    [event] = [
        e
        for e in await told(store)
        if (e["type"], e["worker_id"]) == ("subagent_report", by.worker_id)
    ]
    assert event["data"]["left_running"] == [first, second]
    assert await ended(store, first, members) == queued
    await ended(store, second, queued)
    child = (await record(store, members[0])).report
    assert child is not None
    assert child.left_running == ()


async def test_a_report_without_background_work_says_nothing_of_it(
    store: Store, redis_url: str
) -> None:
    """The field is not in the JSON: old readers and small reports are left in peace."""
    by = await parent(store)
    first, members = await unit_of(store, by)
    await ended(store, first, members)
    await store.settle(by.worker_id, "tp", success())
    stored = dump(redis_url, store)[f"worker:{by.worker_id}"]["report"]
    assert "left_running" not in json.loads(stored)
    assert Report.model_validate_json(stored).left_running == ()


# -- retention --------------------------------------------------------------------------------------


async def test_results_are_kept_while_the_parent_lives(store: Store) -> None:
    """Members of a joined unit whose parent runs are not forgotten; later ones without a parent are,
    and once the parent has ended they are, too."""
    by = await parent(store)
    first, members = await unit_of(store, by, 2)
    await ended(store, first, members)
    _, others = await batch_of(store, 1)
    await end_all(store, others)
    [other] = [(await record(store, w)).batch_id for w in others]
    assert other is not None
    await store.join(other, ring_again_after=SOON)
    assert await store.retain(most=0, ttl=None, cap=100) == 1
    assert await store.get(others[0]) is None
    assert await states(store, members) == ["COMPLETED"] * 2
    await store.settle(by.worker_id, "tp", success())
    assert await store.retain(most=0, ttl=None, cap=100) == 3
    assert await store.batch(first) is None


async def test_a_parent_is_kept_while_its_units_are_out(store: Store) -> None:
    """An ended parent with work that it left is there until that is joined."""
    by = await parent(store)
    first, members = await unit_of(store, by)
    await store.settle(by.worker_id, "tp", success())
    assert await store.retain(most=0, ttl=None, cap=100) == 0
    await ended(store, first, members)
    assert await store.retain(most=0, ttl=None, cap=100) == 2
    names = await store.link.call("KEYS", store.keys.prefix + "*:*")
    assert not [name for name in names if "units" in name or "worker" in name]


async def test_what_is_kept_does_not_stop_what_is_not(store: Store) -> None:
    """Three that are kept are the oldest, and at most two are looked at in a sweep: the surplus behind
    them is forgotten by the next sweeps."""
    by = await parent(store)
    first, members = await unit_of(store, by, 3)
    await ended(store, first, members)
    later = [await parent(store) for _ in range(2)]
    for worker in later:
        await store.settle(worker.worker_id, "tp", success())
    forgotten = 0

    async def all_forgotten() -> bool:
        nonlocal forgotten
        forgotten += await store.retain(most=0, ttl=None, cap=2)
        return forgotten == 2

    await wait_until(all_forgotten, what="two workers are forgotten")
    assert await states(store, members) == [WorkerState.COMPLETED.value] * 3
