"""Parents sleep while their children run, and are woken by the join."""

from __future__ import annotations

from datetime import timedelta

import pytest

from colony.errors import StaleToken
from colony.models import ReportStatus
from colony.store import Ring, Store
from colony.store.workers import Parent, Parked
from tests.store.batch_kit import HOUR, batch_of, end_all, parent, record, states, stop
from tests.store.kit import SOON, claim, events_of, success


async def test_the_join_wakes_the_parent_that_waits_for_it(store: Store) -> None:
    """Of a parent's two batches the one it waits for wakes it, the other does not; the ring is
    returned with the join, once."""
    by = await parent(store)
    awaited, ids = await batch_of(store, 1, parent=by)
    other, others = await batch_of(store, 1, parent=by)
    assert await store.park(by.worker_id, "tp", (awaited,), ring_again_after=SOON) == Parked([])
    assert (await record(store, by.worker_id)).waits_for == "children"
    await end_all(store, [*others, *ids])
    assert await store.join(other, ring_again_after=SOON) == []
    assert await states(store, [by.worker_id]) == ["PARKED"]
    assert await store.join(awaited, ring_again_after=SOON) == [Ring(by.worker_id, "agent")]
    assert await states(store, [by.worker_id]) == ["PENDING"]
    assert await store.join(awaited, ring_again_after=SOON) == []


@pytest.mark.parametrize("how", ["runs", "sleeps", "has ended"])
async def test_the_join_disturbs_no_parent_that_does_not_wait(store: Store, how: str) -> None:
    """A parent that runs, sleeps for a time or has ended is left as it is."""
    by = await parent(store)
    batch_id, ids = await batch_of(store, 1, parent=by)
    if how == "sleeps":
        await store.park(by.worker_id, "tp", HOUR, ring_again_after=SOON)
    elif how == "has ended":
        await store.settle(by.worker_id, "tp", success())
    before = await record(store, by.worker_id)
    await end_all(store, ids)
    assert await store.join(batch_id, ring_again_after=SOON) == []
    assert await record(store, by.worker_id) == before


async def test_children_that_were_faster_wake_it_at_once(store: Store) -> None:
    """All children in and joined before the parent parks: it is PENDING at once, and again for the
    same request; a batch that is complete but not joined lets it wait for the join."""
    by = await parent(store)
    batch_id, ids = await batch_of(store, 1, parent=by)
    await end_all(store, ids)
    await store.join(batch_id, ring_again_after=SOON)
    for _ in range(2):
        parked = await store.park(by.worker_id, "tp", (batch_id,), ring_again_after=SOON)
        assert parked == Parked([Ring(by.worker_id, "agent")], again=True)
        assert await states(store, [by.worker_id]) == ["PENDING"]
    await claim(store, by.worker_id, token="t2")
    second, ids = await batch_of(store, 1, parent=Parent(by.worker_id, "t2"))
    await end_all(store, ids)
    assert await store.park(by.worker_id, "t2", (second,), ring_again_after=SOON) == Parked([])
    assert len(await store.join(second, ring_again_after=SOON)) == 1


async def test_a_parent_that_is_told_to_stop_does_not_park(store: Store) -> None:
    """It keeps its claim and learns with which status it has to end."""
    by = await parent(store)
    batch_id, _ = await batch_of(store, 1, parent=by)
    await stop(store, by.worker_id)
    told = await store.park(by.worker_id, "tp", (batch_id,), ring_again_after=SOON)
    assert told is ReportStatus.STOPPED
    assert await states(store, [by.worker_id]) == ["told"]


async def test_a_closed_intake_does_not_keep_a_parent_from_its_children(store: Store) -> None:
    """What was accepted goes on, and that is the whole tree."""
    by = await parent(store)
    await store.set_intake(paused=True)
    _, ids = await batch_of(store, 2, parent=by)
    assert await states(store, ids) == ["PENDING"] * 2


async def test_a_parked_parent_holds_no_slot_and_keeps_its_place(store: Store) -> None:
    """The same park request again is no second park, and an old one after a new claim is refused."""
    by = await parent(store)
    batch_id, _ = await batch_of(store, 1, parent=by)
    for _ in range(2):
        assert await store.park(by.worker_id, "tp", (batch_id,), ring_again_after=SOON) == Parked(
            []
        )
    assert await store.beat("n1", lease=timedelta(minutes=5), about={"host": "h"}) == {}
    assert (await events_of(store, by.worker_id)).count("execution_paused") == 1
    await store.wake(by.worker_id, ring_again_after=SOON)
    await claim(store, by.worker_id, token="t2")
    with pytest.raises(StaleToken):
        await store.park(by.worker_id, "tp", (batch_id,), ring_again_after=SOON)
