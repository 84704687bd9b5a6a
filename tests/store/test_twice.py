"""Scripts can be sent twice: a command whose answer was lost is sent again, and nothing is different.

*Transitions* give the same answer again. *Housekeeping* hands each item to one caller: sent again
it finds nothing more to do (what a lost answer should have rung for is rung by the next sweep).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from colony.models import ReportStatus
from colony.store import Claim, Store
from colony.store.deliveries import NewDelivery
from colony.store.scripts import SCRIPTS
from colony.store.triggers import Fire, Times
from colony.store.workers import NewBatch, Parent, Policy
from tests.store.delivery_kit import SUBSCRIPTION, owed
from tests.store.kit import (
    LEASE,
    NOW,
    SOON,
    VERSION,
    claim,
    die,
    dump,
    join,
    new_workers,
    one,
    running,
    state,
    step,
    success,
)

Request = Callable[[], Awaitable[Any]]
Scene = Callable[[Store], Awaitable[Request]]

HOUR = timedelta(hours=1)
TRANSITIONS: dict[str, Scene] = {}
HOUSEKEEPING: dict[str, Scene] = {}


def scene(table: dict[str, Scene]) -> Callable[[Scene], Scene]:
    """Register a scene: it prepares, and returns the request that is then sent twice."""

    def register(prepare: Scene) -> Scene:
        table[prepare.__name__] = prepare
        return prepare

    return register


@scene(TRANSITIONS)
async def register(store: Store) -> Request:
    return lambda: store.register({"version": VERSION, "goal": "g"})


@scene(TRANSITIONS)
async def accept(store: Store) -> Request:
    workers = new_workers(3)
    return lambda: store.accept(workers, ring_again_after=SOON, deadline=HOUR)


@scene(TRANSITIONS)
async def accept_with_a_key(store: Store) -> Request:
    workers = new_workers(2)
    return lambda: store.accept(workers, ring_again_after=SOON, idempotency_key="k")


@scene(TRANSITIONS)
async def accept_with_a_key_that_is_remembered_for_long(store: Store) -> Request:
    await store.put_trigger("w", "{}", kind="webhook", most=None, policy="skip")
    workers, fire = new_workers(), Fire("w", "webhook", remember_ms=86_400_000)
    return lambda: store.accept(workers, ring_again_after=SOON, idempotency_key="k", fire=fire)


@scene(TRANSITIONS)
async def accept_for_later(store: Store) -> Request:
    workers = new_workers()
    return lambda: store.accept(workers, ring_again_after=SOON, not_before=HOUR)


@scene(TRANSITIONS)
async def stage(store: Store) -> Request:
    [(worker_id, fields)] = new_workers()
    flat = [text for item in fields.items() for text in item]
    return lambda: store.run("stage", worker_id, 60_000, 0, worker_id, len(flat), *flat)


@scene(TRANSITIONS)
async def beat(store: Store) -> Request:
    await running(store)
    return lambda: store.beat("n1", lease=LEASE, about={"host": "h"})


@scene(TRANSITIONS)
async def beat_to_join(store: Store) -> Request:
    return lambda: join(store)


@scene(TRANSITIONS)
async def claim_(store: Store) -> Request:
    worker_id = await one(store)
    await join(store)
    return lambda: store.claim(worker_id, node="n1", token="t1", version=VERSION)


@scene(TRANSITIONS)
async def claim_refused(store: Store) -> Request:
    worker_id = await one(store)
    await join(store)
    return lambda: store.claim(worker_id, node="n1", token="t1", version="other")


@scene(TRANSITIONS)
async def checkpoint(store: Store) -> Request:
    worker_id = await running(store)
    made = step("a", "b", events=[("llm_turn_complete", {})], filed=success())
    return lambda: store.checkpoint(worker_id, "t1", made, after=0)


@scene(TRANSITIONS)
async def settle(store: Store) -> Request:
    worker_id = await running(store)
    return lambda: store.settle(worker_id, "t1", success())


@scene(TRANSITIONS)
async def park(store: Store) -> Request:
    worker_id = await running(store)
    return lambda: store.park(worker_id, "t1", HOUR, ring_again_after=SOON)


@scene(TRANSITIONS)
async def drain(store: Store) -> Request:
    await running(store)
    return lambda: store.drain("n1")


@scene(TRANSITIONS)
async def drop(store: Store) -> Request:
    worker_id = await running(store)
    await store.link.call("HSET", store.keys("worker", worker_id), "resurrections", 3)
    await store.give_back(worker_id, "t1", "x", counted=True, ring_again_after=SOON)
    assert await store.is_quarantined(worker_id)
    return lambda: store.drop(worker_id)


@scene(TRANSITIONS)
async def set_limit(store: Store) -> Request:
    await one(store)
    return lambda: store.set_limit("colony", 5)


@scene(TRANSITIONS)
async def notices(store: Store) -> Request:
    return lambda: store.notices(again_after=HOUR, cap=10)


@scene(TRANSITIONS)
async def notice_sent(store: Store) -> Request:
    return lambda: store.notice_sent("batch:b1")


@scene(TRANSITIONS)
async def join_open(store: Store) -> Request:
    batch = NewBatch("b1", Policy.ALL, 3)
    await store.accept(new_workers(2), ring_again_after=SOON, batch=batch)
    return lambda: store.join("b1", ring_again_after=SOON)


async def _joined_without_one(store: Store) -> str:
    """A batch whose policy was met; the member that runs and was not needed."""
    [good, other], batch = new_workers(2), NewBatch("b1", Policy.ANY, 1)
    await store.accept([good, other], ring_again_after=SOON, batch=batch)
    for worker_id in (good[0], other[0]):
        await claim(store, worker_id)
    await store.settle(good[0], "t1", success())
    return other[0]


@scene(HOUSEKEEPING)
async def join_without_one(store: Store) -> Request:
    await _joined_without_one(store)
    return lambda: store.run("join", "b1", 1000)


@scene(TRANSITIONS)
async def settle_of_one_that_was_not_needed(store: Store) -> Request:
    worker_id = await _joined_without_one(store)
    await store.join("b1", ring_again_after=SOON)
    return lambda: store.settle(worker_id, "t1", success())


@scene(TRANSITIONS)
async def checkpoint_of_one_that_was_not_needed(store: Store) -> Request:
    worker_id = await _joined_without_one(store)
    await store.join("b1", ring_again_after=SOON)
    return lambda: store.checkpoint(worker_id, "t1", step("a", filed=success()), after=0)


@scene(TRANSITIONS)
async def give_back(store: Store) -> Request:
    worker_id = await running(store)
    return lambda: store.give_back(worker_id, "t1", "x", counted=True, ring_again_after=SOON)


@scene(TRANSITIONS)
async def give_back_of_one_told_to_stop(store: Store) -> Request:
    worker_id = await running(store)
    await store.stop(worker_id, status=ReportStatus.STOPPED, reason="r", grace=HOUR)
    return lambda: store.give_back(worker_id, "t1", "x", counted=True, ring_again_after=SOON)


@scene(TRANSITIONS)
async def stop_a_running_one(store: Store) -> Request:
    worker_id = await running(store)
    return lambda: store.stop(worker_id, status=ReportStatus.STOPPED, reason="r", grace=HOUR)


@scene(TRANSITIONS)
async def stop_one_that_has_left_children(store: Store) -> Request:
    parent = await running(store)
    by = Parent(parent, "t1")
    batch = NewBatch("b1", Policy.ALL, 2)
    await store.accept(new_workers(1), ring_again_after=SOON, batch=batch, parent=by)
    await store.settle(parent, "t1", success())
    return lambda: store.stop(parent, status=ReportStatus.STOPPED, reason="r", grace=HOUR)


@scene(TRANSITIONS)
async def living(store: Store) -> Request:
    await one(store)
    return store.living


@scene(TRANSITIONS)
async def expire(store: Store) -> Request:
    worker_id = await one(store, deadline=NOW)
    return lambda: store.expire(f"deadline:{worker_id}", grace=SOON)


@scene(TRANSITIONS)
async def set_intake(store: Store) -> Request:
    return lambda: store.set_intake(paused=True)


async def _timer(store: Store) -> Fire:
    """A timer that is due, and its fire."""
    due = await store.now_ms() - 100
    times = Times("x", due, due)
    await store.put_trigger("t", "{}", kind="timer", most=None, policy="skip", times=times)
    later = due + 3_600_000
    return Fire("t", "timer", due=due, slot=due, next_due=later, next_slot=later)


@scene(TRANSITIONS)
async def accept_of_a_timer(store: Store) -> Request:
    fire, workers = await _timer(store), new_workers()
    return lambda: store.accept(workers, ring_again_after=SOON, fire=fire)


@scene(TRANSITIONS)
async def put_trigger(store: Store) -> Request:
    return lambda: store.put_trigger(
        "w", "{}", kind="webhook", most=1, policy="queue", route="/x", declared="d" * 16
    )


async def _watcher(store: Store) -> None:
    """A trigger that the events of another colony fire."""
    watched = ("other", "1-0")
    await store.put_trigger("w", "{}", kind="event", most=None, policy="skip", watched=watched)


@scene(TRANSITIONS)
async def put_trigger_that_watches(store: Store) -> Request:
    return lambda: _watcher(store)


@scene(TRANSITIONS)
async def pause_trigger(store: Store) -> Request:
    await _timer(store)
    return lambda: store.pause_trigger("t")


@scene(TRANSITIONS)
async def set_timer(store: Store) -> Request:
    await _timer(store)
    return lambda: store.set_timer("t", due=5, slot=4)


@scene(TRANSITIONS)
async def set_cursor(store: Store) -> Request:
    await _watcher(store)
    return lambda: store.set_cursor("w", "other", "1-0", "1-5")


@scene(HOUSEKEEPING)
async def watchers(store: Store) -> Request:
    await _watcher(store)
    return lambda: store.watchers(HOUR)


@scene(TRANSITIONS)
async def pause_timers(store: Store) -> Request:
    return lambda: store.hold_timers(hold=True)


@scene(HOUSEKEEPING)
async def remove_trigger(store: Store) -> Request:
    await _timer(store)
    return lambda: store.remove_trigger("t")


@scene(HOUSEKEEPING)
async def due_timers(store: Store) -> Request:
    await _timer(store)
    return lambda: store.due_timers(10)


@scene(HOUSEKEEPING)
async def pass_over(store: Store) -> Request:
    fire = await _timer(store)
    return lambda: store.pass_over(fire, "skipped: missed")


async def _owed(store: Store) -> str:
    """A delivery that is being sent, claimed with token t1; its id."""
    delivery_id = await owed(store)
    [claimed] = await store.claim_deliveries("t1", lease=HOUR, most=1, per_lane=1)
    assert claimed.id == delivery_id
    return delivery_id


@scene(TRANSITIONS)
async def delivered(store: Store) -> Request:
    delivery_id = await _owed(store)
    return lambda: store.delivered(delivery_id)


@scene(TRANSITIONS)
async def delivery_failed(store: Store) -> Request:
    delivery_id = await _owed(store)
    return lambda: store.delivery_failed(delivery_id, "t1", "500", again_after=HOUR)


@scene(TRANSITIONS)
async def delivery_failed_for_good(store: Store) -> Request:
    delivery_id = await _owed(store)
    return lambda: store.delivery_failed(delivery_id, "t1", "410", again_after=None, gone=True)


@scene(TRANSITIONS)
async def retry_delivery(store: Store) -> Request:
    delivery_id = await _owed(store)
    await store.delivery_failed(delivery_id, "t1", "500", again_after=None)
    return lambda: store.retry_delivery(delivery_id)


@scene(TRANSITIONS)
async def put_subscription(store: Store) -> Request:
    return lambda: store.put_subscription(SUBSCRIPTION, from_start=False, most=1)


@scene(TRANSITIONS)
async def pause_subscription(store: Store) -> Request:
    await store.put_subscription(SUBSCRIPTION, from_start=False, most=1)
    return lambda: store.pause_subscription("s", "paused")


@scene(TRANSITIONS)
async def follow(store: Store) -> Request:
    await store.put_subscription(SUBSCRIPTION, from_start=True, most=1)
    new = [NewDelivery("s_1-1", "execution_accepted", 0, "{}")]
    return lambda: store.follow("s", "0-0", "1-1", new)


@scene(HOUSEKEEPING)
async def claim_deliveries(store: Store) -> Request:
    await owed(store)
    return lambda: store.claim_deliveries("t1", lease=HOUR, most=5, per_lane=5)


@scene(HOUSEKEEPING)
async def behind(store: Store) -> Request:
    await store.put_subscription(SUBSCRIPTION, from_start=True, most=1)
    await one(store)
    return lambda: store.behind(interval=HOUR, backlog=1)


@scene(HOUSEKEEPING)
async def drop_delivery(store: Store) -> Request:
    delivery_id = await owed(store)
    return lambda: store.drop_delivery(delivery_id)


@scene(HOUSEKEEPING)
async def remove_subscription(store: Store) -> Request:
    await store.put_subscription(SUBSCRIPTION, from_start=True, most=1)
    await store.follow("s", "0-0", "1-1", [NewDelivery("s_1-1", "t", 0, "{}")])
    return lambda: store.remove_subscription("s")


@scene(TRANSITIONS)
async def figures(store: Store) -> Request:
    await one(store, not_before=HOUR)
    return lambda: store.figures(set_aside=True)


@scene(TRANSITIONS)
async def wait_for(store: Store) -> Request:
    worker_id = await one(store)
    return lambda: store.wait_for([worker_id, "w0"], ttl=HOUR)


@scene(HOUSEKEEPING)
async def stop_a_waiting_one(store: Store) -> Request:
    worker_id = await one(store)
    return lambda: store.stop(worker_id, status=ReportStatus.STOPPED, reason="r", grace=HOUR)


@scene(HOUSEKEEPING)
async def wake(store: Store) -> Request:
    worker_id = await one(store, not_before=HOUR)
    return lambda: store.wake(worker_id, ring_again_after=SOON)


@scene(HOUSEKEEPING)
async def rescue(store: Store) -> Request:
    await running(store)
    await die(store, "n1")
    return lambda: store.rescue("n1", cap=10, ring_again_after=SOON)


@scene(HOUSEKEEPING)
async def exonerate(store: Store) -> Request:
    await running(store)
    await die(store, "n1")
    await store.rescue("n1", cap=10, ring_again_after=SOON)
    return lambda: store.exonerate("n1", "was cut off")


@scene(HOUSEKEEPING)
async def ring_again(store: Store) -> Request:
    await one(store, ring_again_after=NOW)
    return lambda: store.ring_again(after=HOUR, cap=10)


@scene(HOUSEKEEPING)
async def retain(store: Store) -> Request:
    for _ in range(2):
        await store.settle(await running(store), "t1", success())
    return lambda: store.retain(most=1, ttl=None, cap=10)


@scene(HOUSEKEEPING)
async def sweep(store: Store) -> Request:
    await one(store, deadline=NOW)
    return lambda: store.sweep(interval=HOUR, lease=LEASE, cap=10)


def _timeless(answer: Any) -> Any:
    """An answer without what runs down by itself."""
    if isinstance(answer, Claim):
        return answer.record, answer.parts, answer.token
    return answer


@scene(TRANSITIONS)
async def known(store: Store) -> Request:
    await store.accept(new_workers(2), ring_again_after=SOON, idempotency_key="k")
    return lambda: store.known("k")


@scene(TRANSITIONS)
async def page(store: Store) -> Request:
    await one(store)
    return lambda: store.page("listed", None, 5, ["state"])


TOKEN = '{"name":"n","scopes":["read"],"sha256":"x"}'


@scene(TRANSITIONS)
async def put_token(store: Store) -> Request:
    return lambda: store.put_token("t1", TOKEN, ttl=HOUR)


@scene(HOUSEKEEPING)
async def read_token(store: Store) -> Request:
    await store.put_token("t1", TOKEN, ttl=HOUR)
    return lambda: store.read_token("t1")


@scene(TRANSITIONS)
async def rate_limit(store: Store) -> Request:
    places = {"a": 2, "b": 1}
    return lambda: store.rate_limit("s", "r", places, limit=2, window=HOUR, same_for=HOUR)


@pytest.mark.parametrize("name", TRANSITIONS)
async def test_a_transition_sent_twice(store: Store, redis_url: str, name: str) -> None:
    """The second time: the same answer, the same state, no second event and nothing counted twice."""
    request = await TRANSITIONS[name](store)
    first = await request()
    before, told = state(redis_url, store), _told(redis_url, store)
    assert _timeless(await request()) == _timeless(first)
    assert state(redis_url, store) == before
    assert _told(redis_url, store) == told


@pytest.mark.parametrize("name", HOUSEKEEPING)
async def test_housekeeping_sent_twice(store: Store, redis_url: str, name: str) -> None:
    """The second time there is nothing to do: the same state, no second event or count."""
    request = await HOUSEKEEPING[name](store)
    assert await request()
    before, told = state(redis_url, store), _told(redis_url, store)
    await request()
    assert state(redis_url, store) == before
    assert _told(redis_url, store) == told


def _told(redis_url: str, store: Store) -> Any:
    whole = dump(redis_url, store)
    totals = {k: v for k, v in whole["meta"].items() if k.startswith("total:")}
    return whole.get("events"), totals


def test_no_script_is_forgotten() -> None:
    """Every script is sent twice here, except those that only write down, or count, what they are given."""
    scenes = {*TRANSITIONS, *HOUSEKEEPING}
    sent = {s for s in SCRIPTS if any(name.strip("_").startswith(s) for name in scenes)}
    assert set(SCRIPTS) - sent == {"reject", "tell", "tally", "take_permit"}
