"""A stop reaches all that it is meant for: whom one that has ended left behind, and all that live."""

from __future__ import annotations

from colony.models import ReportStatus
from colony.store import Store
from tests.store.batch_kit import HOUR, batch_of, due, is_due, parent, states, stop
from tests.store.kit import NOW, SOON, claim, success


async def test_a_stop_of_one_that_has_ended_goes_to_its_children(store: Store) -> None:
    """It answers `ended`, its report stands, and those whom it left are stopped."""
    by = await parent(store)
    _, ids = await batch_of(store, 2, parent=by)
    await claim(store, ids[1], token="tc")
    await store.settle(by.worker_id, "tp", success())
    assert await stop(store, by.worker_id) == "ended"
    await due(store, f"tree:{by.worker_id}")
    assert await states(store, [by.worker_id, *ids]) == ["COMPLETED", "STOPPED", "told"]


async def test_who_has_ended_in_time_keeps_its_children(store: Store) -> None:
    """A time-out is of those who are late: it finds an ended one, and nothing is done."""
    by = await parent(store)
    await batch_of(store, 1, parent=by)
    await store.settle(by.worker_id, "tp", success())
    verdict = await store.stop(by.worker_id, status=ReportStatus.TIMEOUT, reason="late", grace=NOW)
    assert verdict == "ended"
    assert not await is_due(store, f"tree:{by.worker_id}")


async def test_all_that_live_are_told_in_one_moment(store: Store) -> None:
    """Those that wait first, those that run last, and none that has ended."""
    pending, runs, ended, parked = (await batch_of(store, 4))[1]
    for worker_id in (runs, ended, parked):
        await claim(store, worker_id, token=f"t{worker_id}")
    await store.settle(ended, f"t{ended}", success())
    await store.park(parked, f"t{parked}", HOUR, ring_again_after=SOON)
    assert await store.living() == [parked, pending, runs]
