"""Stop, deadlines and hand-overs: how a worker ends, or goes on elsewhere, without its own doing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from colony.errors import StaleToken
from colony.models import ReportStatus, WorkerRecord, WorkerState
from colony.store import Ring, Stopped, Store
from tests.store.fixtures import OpenColony
from tests.store.kit import (
    LEASE,
    NOW,
    SOON,
    claim,
    events_of,
    one,
    running,
    state,
    step,
    success,
)

HOUR = timedelta(hours=1)


async def _record(store: Store, worker_id: str) -> WorkerRecord:
    record = await store.get(worker_id)
    assert record is not None
    return record


async def _stop(store: Store, worker_id: str, grace: timedelta = HOUR) -> Stopped:
    return await store.stop(worker_id, status=ReportStatus.STOPPED, reason="enough", grace=grace)


async def _make_due(store: Store, item: str) -> None:
    assert await store.link.call("ZADD", store.keys("due"), "XX", "CH", 1, item) == 1


@pytest.mark.parametrize("options", [{}, {"not_before": HOUR}], ids=["pending", "parked"])
async def test_one_that_waits_stops_at_once(store: Store, options: dict[str, timedelta]) -> None:
    """Scenario 14: a PENDING or PARKED worker settles as stopped, with its report."""
    worker_id = await one(store, **options)
    assert await _stop(store, worker_id) is Stopped.SETTLED
    record = await _record(store, worker_id)
    assert record.report is not None
    assert (record.state, record.report.status) == (WorkerState.STOPPED, ReportStatus.STOPPED)
    assert (record.report.summary, record.report.duration_seconds) == ("enough", 0)
    assert (await events_of(store, worker_id))[-2:] == ["execution_stopped", "subagent_report"]


async def test_one_that_runs_is_told_and_may_end_itself(store: Store) -> None:
    """A running worker keeps its claim after the order, and its own end counts."""
    worker_id = await running(store)
    async with store.link.pubsub() as heard:
        await heard.subscribe(store.keys("hints"))
        assert await _stop(store, worker_id) is Stopped.TOLD
        hint = None
        while hint is None or hint["type"] != "message":
            hint = await heard.get_message(timeout=5)
            assert hint is not None
    assert hint["data"] == f"stop {worker_id}"
    assert (await _record(store, worker_id)).stopping == "stopped"
    await store.settle(worker_id, "t1", success())
    assert (await _record(store, worker_id)).state is WorkerState.COMPLETED


async def test_one_that_does_not_obey_is_ended(store: Store) -> None:
    """After its grace the store ends it with the reason of the stop; its late result is refused."""
    worker_id = await running(store)
    await _stop(store, worker_id)
    await store.expire(f"kill:{worker_id}", grace=SOON)
    assert (await _record(store, worker_id)).state is WorkerState.RUNNING, "not due yet"
    await _make_due(store, f"kill:{worker_id}")
    await store.expire(f"kill:{worker_id}", grace=SOON)
    record = await _record(store, worker_id)
    assert record.report is not None
    assert (record.state, record.report.summary) == (WorkerState.STOPPED, "enough")
    with pytest.raises(StaleToken):
        await store.settle(worker_id, "t1", success())


@pytest.mark.parametrize("provisional", [False, True], ids=["final", "provisional"])
@pytest.mark.parametrize("how", ["kill", "at once", "hand-over", "deadline"])
async def test_a_filed_report_stands(store: Store, how: str, provisional: bool) -> None:
    """Scenario 5: stopped or timed out after it filed its report, the worker ends with that report."""
    worker_id = await running(store, deadline=HOUR)
    filed = replace(success("mine", rows=5), provisional=provisional)
    await store.checkpoint(worker_id, "t1", step("a", filed=filed), after=0)
    match how:
        case "at once":
            await _stop(store, worker_id, NOW)
        case "hand-over":
            await _stop(store, worker_id)
            await store.give_back(worker_id, "t1", "moved", counted=False, ring_again_after=SOON)
        case "kill":
            await _stop(store, worker_id)
            await _make_due(store, f"kill:{worker_id}")
            await store.expire(f"kill:{worker_id}", grace=SOON)
        case "deadline":
            await _make_due(store, f"deadline:{worker_id}")
            await store.expire(f"deadline:{worker_id}", grace=NOW)
            await _make_due(store, f"kill:{worker_id}")
            await store.expire(f"kill:{worker_id}", grace=NOW)
    record = await _record(store, worker_id)
    assert record.report is not None
    assert (record.state, record.report.status) == (WorkerState.COMPLETED, ReportStatus.SUCCESS)
    assert (record.report.summary, record.report.data) == ("mine", {"rows": 5})
    assert record.overruled == ("timeout" if how == "deadline" else "stopped")


async def test_stop_of_an_ended_or_unknown_one_changes_nothing(
    store: Store, redis_url: str
) -> None:
    """The report of an ended worker stands; of an unknown one there is nothing to stop."""
    worker_id = await running(store)
    await store.settle(worker_id, "t1", success())
    before = state(redis_url, store)
    assert await _stop(store, worker_id) is Stopped.ENDED
    assert await _stop(store, "w0") is Stopped.UNKNOWN
    assert state(redis_url, store) == before


@pytest.mark.parametrize("options", [{}, {"not_before": HOUR}], ids=["pending", "parked"])
async def test_a_deadline_ends_one_that_waits(store: Store, options: dict[str, timedelta]) -> None:
    """A worker that never ran by its deadline is reported timeout, and no sooner."""
    worker_id = await one(store, deadline=HOUR, **options)
    await store.expire(f"deadline:{worker_id}", grace=SOON)
    assert not (await _record(store, worker_id)).state.terminal
    await _make_due(store, f"deadline:{worker_id}")
    await store.expire(f"deadline:{worker_id}", grace=SOON)
    record = await _record(store, worker_id)
    assert record.report is not None
    assert (record.state, record.report.status) == (WorkerState.FAILED, ReportStatus.TIMEOUT)
    assert record.report.error == "timeout"


async def test_a_deadline_tells_one_that_runs(store: Store) -> None:
    """A running worker is told at its deadline and may still end itself with what it has."""
    worker_id = await running(store, deadline=HOUR)
    await _make_due(store, f"deadline:{worker_id}")
    await store.expire(f"deadline:{worker_id}", grace=HOUR)
    assert await store.checkpoint(worker_id, "t1", step("a"), after=0) is ReportStatus.TIMEOUT
    await store.settle(worker_id, "t1", success("just so"))
    assert (await _record(store, worker_id)).state is WorkerState.COMPLETED


async def test_a_deadline_of_an_ended_one_is_nothing(store: Store, redis_url: str) -> None:
    """Whoever asks late finds the report as it is."""
    worker_id = await running(store, deadline=HOUR)
    await store.settle(worker_id, "t1", success())
    before = state(redis_url, store)
    await store.expire(f"deadline:{worker_id}", grace=SOON)
    assert state(redis_url, store) == before


async def test_a_hand_over_counts_as_no_death(store: Store) -> None:
    """Given back uncounted as often as you like, a worker is PENDING again, with each attempt noted."""
    worker_id = await one(store)
    for n in range(6):
        await claim(store, worker_id, token=f"t{n}")
        ring = await store.give_back(
            worker_id, f"t{n}", "drained", counted=False, ring_again_after=SOON
        )
        assert ring == Ring(worker_id, "agent")
    record = await _record(store, worker_id)
    assert (record.state, record.resurrections, record.epoch) == (WorkerState.PENDING, 0, 6)
    assert {a.outcome for a in record.attempts} == {"drained"}


async def test_too_many_deaths_are_the_end(open_colony: OpenColony) -> None:
    """A worker whose attempts die more than max_resurrections times is failed as lost, with why."""
    store = await open_colony(max_resurrections=2)
    worker_id = await one(store)
    rings = []
    for n in range(3):
        await claim(store, worker_id, token=f"t{n}")
        rings.append(
            await store.give_back(
                worker_id, f"t{n}", f"crash {n}", counted=True, ring_again_after=SOON
            )
        )
    assert rings == [Ring(worker_id, "agent")] * 2 + [None]
    record = await _record(store, worker_id)
    assert record.report is not None
    assert (record.state, record.report.error) == (WorkerState.FAILED, "lost")
    where = "attempt 1: crash 0, attempt 2: crash 1, attempt 3: crash 2."
    assert record.report.summary == f"Worker was lost: its node died under it 3 times: {where}"
    assert len(record.attempts) == 3


async def test_one_told_to_stop_is_not_handed_on(store: Store) -> None:
    """A claim given back after the order to stop settles the worker instead of ringing for it."""
    worker_id = await running(store)
    await _stop(store, worker_id)
    ring = await store.give_back(worker_id, "t1", "x", counted=True, ring_again_after=SOON)
    assert ring is None
    assert (await _record(store, worker_id)).state is WorkerState.STOPPED


async def test_only_the_owner_gives_back(store: Store, redis_url: str) -> None:
    """Another token cannot take a worker away from its owner."""
    worker_id = await running(store)
    before = state(redis_url, store)
    ring = await store.give_back(worker_id, "t2", "x", counted=True, ring_again_after=LEASE)
    assert ring is None
    assert state(redis_url, store) == before
