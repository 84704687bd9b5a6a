"""Claim, checkpoint, settle, park, wake: one owner at a time, written once, the first end wins."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic_core import to_json

from colony.conversation import Filed
from colony.errors import StaleToken
from colony.models import ReportStatus, WorkerState
from colony.store import Claim, Refusal, Ring, Store
from colony.store.workers import Parked
from tests.store.kit import (
    NOW,
    SOON,
    VERSION,
    claim,
    die,
    events_of,
    join,
    new_workers,
    one,
    part,
    running,
    state,
    step,
    success,
)

NODE_LEASE = timedelta(seconds=10)

# The exact text must survive: an empty list, an integer beyond 2^53, quotes and line separators.
TRICKY: dict[str, Any] = {
    "a": [],
    "n": 9007199254740993,
    "s": 'ü\u2028"\\',
    "e": {},
    "f": 1.0,
    "z": None,
}


async def test_a_claim_is_one_owner(store: Store, redis_url: str) -> None:
    """The first claim runs the worker; any other token is told its state and changes nothing."""
    worker_id = await running(store, token="t1")
    before = state(redis_url, store)
    await join(store, "n2")
    assert await store.claim(worker_id, node="n2", token="t2", version=VERSION) == "RUNNING"
    after = state(redis_url, store)
    assert after["nodes"] == ["n1", "n2"]
    assert (after[f"worker:{worker_id}"], after["held:n1"]) == (
        before[f"worker:{worker_id}"],
        {worker_id: "t1"},
    )
    record = await store.get(worker_id)
    assert record is not None
    assert (record.node, record.epoch, len(record.attempts)) == ("n1", 1, 1)


async def test_a_claim_hands_over_the_conversation(store: Store) -> None:
    """Whoever claims gets the record, the parts in order, and what is left of the deadline."""
    worker_id = await running(store, deadline=timedelta(hours=1))
    await store.checkpoint(worker_id, "t1", step("a", "b"), after=0)
    await store.give_back(worker_id, "t1", "moved", counted=False, ring_again_after=SOON)
    got = await claim(store, worker_id, token="t2")
    assert got.parts == [part("a"), part("b")]
    assert got.remaining is not None
    assert timedelta(minutes=59) < got.remaining <= timedelta(hours=1)
    assert (got.record.epoch, got.record.requests, got.record.tokens_used) == (2, 1, 5)
    assert await events_of(store, worker_id) == [
        "execution_accepted",
        "execution_started",
        "execution_paused",
        "execution_resumed",
    ]


async def test_a_node_without_a_lease_claims_nothing(store: Store) -> None:
    """A lease that ran out refuses every claim, also the repeated one of a worker it still holds."""
    first, second = await running(store), await one(store)
    await die(store, "n1")
    for worker_id in (first, second):
        got = await store.claim(worker_id, node="n1", token="t1", version=VERSION)
        assert got is Refusal.LEASE
    assert await store.claim(second, node="never", token="t", version=VERSION) is Refusal.LEASE


async def test_another_version_is_not_claimed_and_says_so(store: Store) -> None:
    """A node of another definition leaves the worker alone; the worker says what it waits for."""
    worker_id = await one(store)
    await join(store)
    assert await store.claim(worker_id, node="n1", token="t", version="2") is Refusal.VERSION
    record = await store.get(worker_id)
    assert record is not None
    assert (record.state, record.waits_for) == (WorkerState.PENDING, "version 1")
    got = await claim(store, worker_id)
    assert got.record.waits_for is None


async def test_one_that_was_rung_at_a_node_of_another_version_is_rung_again_soon(
    store: Store,
) -> None:
    """While a node of its version lives, its doorbell does not count as unanswered: whatever the length
    of the queue, it is rung again, once, after about half a second. Without such a node it is not."""
    worker_id = await one(store)
    await join(store)
    for _ in range(2):
        refused = await store.claim(worker_id, node="n1", token="t", version="2")
        assert refused is Refusal.VERSION
    assert f"ring:{worker_id}" not in await due(store)
    await store.beat("n2", lease=NODE_LEASE, about={"version": VERSION}, join=True)
    for _ in range(2):
        await store.claim(worker_id, node="n1", token="t", version="2")
    at = (await due(store))[f"ring:{worker_id}"] - await now_ms(store)
    assert 0 < at <= 600
    assert await store.expire(f"ring:{worker_id}", grace=SOON) == []
    await asyncio.sleep(at / 1000)
    assert await store.expire(f"ring:{worker_id}", grace=SOON) == [Ring(worker_id, "agent")]
    assert f"ring:{worker_id}" not in await due(store)


async def test_a_ring_at_the_wrong_door_that_is_lost_is_made_up_for_soon(store: Store) -> None:
    """However often it was rung in vain before: the next node to look rings within two seconds."""
    worker_id, doorbells = await one(store), store.keys("doorbells")
    await join(store)
    await store.beat("n2", lease=NODE_LEASE, about={"version": VERSION}, join=True)
    for _ in range(8):
        await store.link.call("ZADD", doorbells, 1, worker_id)
        await store.ring_again(after=NODE_LEASE, cap=10)
    await store.claim(worker_id, node="n1", token="t", version="2")
    assert (
        float(await store.link.call("ZSCORE", doorbells, worker_id)) <= await now_ms(store) + 2000
    )


async def due(store: Store) -> dict[str, int]:
    """What is due when (ms)."""
    flat = await store.link.call("ZRANGE", store.keys("due"), 0, -1, "WITHSCORES")
    pairs = flat if flat and isinstance(flat[0], list) else zip(flat[::2], flat[1::2], strict=True)
    return {str(item): int(float(at)) for item, at in pairs}


async def now_ms(store: Store) -> int:
    """Redis' time."""
    seconds, micros = await store.link.call("TIME")
    return int(seconds) * 1000 + int(micros) // 1000


async def test_an_unknown_worker_is_not_claimed(store: Store, redis_url: str) -> None:
    """A doorbell for nobody changes nothing."""
    await join(store)
    before = state(redis_url, store)
    assert await store.claim("w0", node="n1", token="t", version=VERSION) is Refusal.UNKNOWN
    assert state(redis_url, store) == before


async def test_an_ended_worker_is_not_claimed(store: Store) -> None:
    """A late doorbell finds the state in which the worker ended."""
    worker_id = await running(store)
    await store.settle(worker_id, "t1", success())
    assert await store.claim(worker_id, node="n1", token="t1", version=VERSION) == "COMPLETED"


async def test_a_checkpoint_counts_once(store: Store) -> None:
    """However often a step is sent, its parts, costs and events are written once."""
    worker_id = await running(store)
    made = step("a", "b", events=[("llm_turn_complete", {"turn": 1})])
    for _ in range(3):
        assert await store.checkpoint(worker_id, "t1", made, after=0) is None
    await store.checkpoint(worker_id, "t1", step("c"), after=2)
    record = await store.get(worker_id)
    assert record is not None
    assert await store.conversation(worker_id) == [part("a"), part("b"), part("c")]
    assert (record.requests, record.tokens_used, record.cost_usd) == (2, 10, 1.0)
    assert (await events_of(store, worker_id)).count("llm_turn_complete") == 1


async def test_a_checkpoint_without_parts_counts_once(store: Store) -> None:
    """A step that only tells events tells them once, however often it is sent."""
    worker_id = await running(store)
    for _ in range(2):
        await store.checkpoint(worker_id, "t1", step(events=[("node_retry", {})]), after=0)
    assert (await events_of(store, worker_id)).count("node_retry") == 1


@pytest.mark.parametrize("after", [1, 5])
async def test_a_checkpoint_that_does_not_fit_is_refused(store: Store, after: int) -> None:
    """A step for a conversation of another length is stale: two writers, or lost parts."""
    worker_id = await running(store)
    await store.checkpoint(worker_id, "t1", step("a", "b", "c"), after=0)
    with pytest.raises(StaleToken):
        await store.checkpoint(worker_id, "t1", step("x"), after=after)
    assert len(await store.conversation(worker_id)) == 3


async def test_a_checkpoint_returns_the_order_to_stop(store: Store) -> None:
    """One who was told to stop hears it with the next checkpoint, which is kept."""
    worker_id = await running(store)
    await store.stop(worker_id, status=ReportStatus.TIMEOUT, reason="late", grace=SOON)
    assert await store.checkpoint(worker_id, "t1", step("a"), after=0) is ReportStatus.TIMEOUT
    assert await store.conversation(worker_id) == [part("a")]


async def test_the_first_filed_report_stands(store: Store) -> None:
    """What was filed first is the report, whatever is filed or settled afterwards."""
    worker_id = await running(store)
    await store.checkpoint(worker_id, "t1", step("a", filed=success("mine", rows=5)), after=0)
    other = Filed(ReportStatus.FAILED, "second thoughts", {}, "oops")
    await store.checkpoint(worker_id, "t1", step("b", filed=other), after=1)
    await store.settle(worker_id, "t1", other)
    record = await store.get(worker_id)
    assert record is not None
    assert record.report is not None
    assert (record.state, record.report.summary) == (WorkerState.COMPLETED, "mine")
    assert (record.report.data, record.report.error) == ({"rows": 5}, None)


async def test_a_provisional_report_stands_until_the_next(store: Store) -> None:
    """Each replaces the provisional one before it; none the first that is not provisional."""
    worker_id = await running(store)
    said = [("early", True), ("later", True), ("final", False), ("early again", True), ("x", False)]
    for after, (summary, provisional) in enumerate(said):
        filed = replace(success(summary), provisional=provisional)
        await store.checkpoint(worker_id, "t1", step("a", filed=filed), after=after)
    await store.settle(worker_id, "t1", success("made from a text"))
    record = await store.get(worker_id)
    assert record is not None
    assert record.report is not None
    assert record.report.summary == "final"


async def test_the_first_settle_wins(store: Store, redis_url: str) -> None:
    """Scenario 36: a result that comes after the end is kept as an event, never as the report."""
    worker_id = await running(store)
    await store.stop(worker_id, status=ReportStatus.STOPPED, reason="enough", grace=NOW)
    before = state(redis_url, store)
    with pytest.raises(StaleToken, match=worker_id):
        await store.settle(worker_id, "t1", success())
    assert state(redis_url, store) == before
    assert (await events_of(store, worker_id))[-1] == "late_result"
    assert (await events_of(store, worker_id)).count("subagent_report") == 1


async def test_settling_again_is_the_same_success(store: Store, redis_url: str) -> None:
    """The owner whose answer was lost may settle again: the first report stays, no event comes."""
    worker_id = await running(store)
    await store.settle(worker_id, "t1", success("first"))
    before, told = state(redis_url, store), await events_of(store)
    await store.settle(worker_id, "t1", success("second"))
    assert (state(redis_url, store), await events_of(store)) == (before, told)


@pytest.mark.parametrize("status", list(ReportStatus))
async def test_each_status_has_its_state(store: Store, status: ReportStatus) -> None:
    """COMPLETED carries success and partial, FAILED failed and timeout, STOPPED stopped."""
    worker_id = await running(store)
    await store.settle(worker_id, "t1", Filed(status, "end", {}, "why"))
    record = await store.get(worker_id)
    assert record is not None
    assert record.report is not None
    assert (record.state, record.report.status) == (status.state, status)
    assert record.attempts[-1].outcome == status


async def test_user_json_is_never_touched(store: Store) -> None:
    """Input, conversation and report keep [], {}, integers beyond 2^53 and every character."""
    text = to_json(TRICKY).decode()
    [(worker_id, fields)] = new_workers(task=TRICKY["s"], data=text)
    await store.accept([(worker_id, fields)], ring_again_after=SOON)
    got = await claim(store, worker_id)
    assert (got.record.data, got.record.task) == (TRICKY, TRICKY["s"])
    assert isinstance(got.record.data["n"], int)
    await store.checkpoint(
        worker_id, "t1", step(events=[("progress", TRICKY)], filed=success("s", **TRICKY)), after=0
    )
    await store.settle(worker_id, "t1", success())
    record = await store.get(worker_id)
    assert record is not None
    assert record.report is not None
    assert (record.data, record.report.data) == (TRICKY, TRICKY)
    raw = await store.link.call("HGET", store.keys("worker", worker_id), "report")
    assert '"a":[],"n":9007199254740993' in raw


async def test_park_ends_the_claim_and_wake_makes_it_pending(store: Store) -> None:
    """A parked worker has no owner and says what it waits for; the first to wake it rings."""
    worker_id = await running(store)
    parked = await store.park(worker_id, "t1", timedelta(hours=1), ring_again_after=SOON)
    assert parked == Parked([])
    record = await store.get(worker_id)
    assert record is not None
    assert (record.state, record.waits_for, record.node) == (WorkerState.PARKED, "time", None)
    assert record.attempts[0].outcome == "parked: time"
    with pytest.raises(StaleToken):
        await store.checkpoint(worker_id, "t1", step("a"), after=0)
    assert await store.wake(worker_id, ring_again_after=SOON) == Ring(worker_id, "agent")
    assert await store.wake(worker_id, ring_again_after=SOON) is None
    assert isinstance(await claim(store, worker_id, token="t2"), Claim)


async def test_a_worker_told_to_stop_does_not_park(store: Store) -> None:
    """Park returns the status it must stop with instead, and the claim goes on."""
    worker_id = await running(store)
    await store.stop(worker_id, status=ReportStatus.STOPPED, reason="enough", grace=SOON)
    parked = await store.park(worker_id, "t1", SOON, ring_again_after=SOON)
    assert parked is ReportStatus.STOPPED
    await store.settle(worker_id, "t1", Filed(ReportStatus.STOPPED, "enough", {}))


async def test_parking_is_for_the_owner(store: Store) -> None:
    """Another token cannot park a running worker, nor one that was parked before."""
    worker_id = await running(store)
    for _ in range(2):
        with pytest.raises(StaleToken):
            await store.park(worker_id, "t2", SOON, ring_again_after=SOON)
        await store.park(worker_id, "t1", SOON, ring_again_after=SOON)


async def test_waking_one_that_does_not_sleep_changes_nothing(store: Store, redis_url: str) -> None:
    """A wake for a running worker rings nobody and leaves its claim."""
    worker_id = await running(store)
    before = state(redis_url, store)
    assert await store.wake(worker_id, ring_again_after=SOON) is None
    assert state(redis_url, store) == before


async def test_of_very_many_attempts_the_latest_are_kept(store: Store) -> None:
    """One that parks again and again does not grow without end; what is kept can be read, in order."""
    worker_id = await running(store)
    for number in range(300):
        await store.park(worker_id, f"t{number + 1}", SOON, ring_again_after=SOON)
        await store.wake(worker_id, ring_again_after=SOON)
        await claim(store, worker_id, token=f"t{number + 2}")
    raw = await store.link.call("HGET", store.keys("worker", worker_id), "attempts")
    assert len(raw) <= 32 * 1024
    record = await store.get(worker_id)
    assert record is not None
    epochs = [attempt.epoch for attempt in record.attempts]
    assert epochs == list(range(epochs[0], 302))
    assert len(epochs) > 50
    assert record.epoch == 301
