"""Redis' clock goes back (a failover to a host that is behind): nothing waits until it has caught up."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from colony.store import Store
from colony.testing import wait_until
from colony.triggers.keeping import put
from tests.store.delivery_kit import SUBSCRIPTION
from tests.store.kit import LEASE, NOW, SOON, now_ms, one, running, success
from tests.store.test_triggers import late_by, ring, timer
from tests.store.test_watching import ACCEPTED, on_event

AHEAD = timedelta(hours=1)


async def ahead(store: Store, by: timedelta = AHEAD) -> int:
    """A moment that has not come: written by a server whose clock was ahead."""
    return int(await now_ms(store)) + by // timedelta(milliseconds=1)


async def written(store: Store, field: str, by: timedelta = AHEAD) -> None:
    await store.link.call("HSET", store.keys("meta"), field, await ahead(store, by))


async def scored(store: Store, key: str, member: str) -> None:
    await store.link.call("ZADD", store.keys(key), await ahead(store), member)


async def test_the_janitor_goes_on(store: Store) -> None:
    """A sweep in the future is none of this interval; the next one is."""
    await one(store, deadline=NOW)
    await written(store, "swept")
    due = await store.sweep(interval=LEASE, lease=LEASE, cap=10)
    assert due is not None
    assert len(due.items) == 1
    assert await store.sweep(interval=LEASE, lease=LEASE, cap=10) is None


async def test_the_dead_are_found_a_lease_later(store: Store) -> None:
    """A lease that seems to run for an hour, and a hold on rescues, run for a lease."""
    lease = timedelta(milliseconds=300)
    await running(store)
    await scored(store, "nodes", "n1")
    await written(store, "swept")
    await written(store, "hold_until", AHEAD + lease)

    async def found() -> bool:
        due = await store.sweep(interval=NOW, lease=lease, cap=10)
        return due is not None and list(due.dead_nodes) == ["n1"]

    await wait_until(found, 5, what="the node is named")
    taken, _ = await store.rescue("n1", cap=10, ring_again_after=SOON)
    assert taken == 1


async def test_what_was_due_at_once_is_due_at_once(store: Store) -> None:
    """Stops of trees, parts, rings; a deadline stays where its producer put it."""
    worker_id = await one(store, deadline=AHEAD)
    until = {"tree": timedelta(0), "part": timedelta(seconds=1)}
    for kind, later in until.items():
        moment = await ahead(store, timedelta(minutes=30) + later)
        await store.link.call("ZADD", store.keys("due"), moment, f"{kind}:{worker_id}")
    await written(store, "swept", timedelta(minutes=30))
    due = await store.sweep(interval=NOW, lease=LEASE, cap=10)
    assert due is not None
    assert sorted(due.items) == [f"part:{worker_id}", f"tree:{worker_id}"]


async def test_events_are_followed_and_watched(store: Store) -> None:
    """The intervals of subscriptions and of event triggers."""
    await put(store, on_event(ACCEPTED))
    await store.put_subscription(SUBSCRIPTION, from_start=True, most=10)
    await one(store)
    await written(store, "watched")
    assert len(await store.watchers(interval=LEASE)) == 1
    await written(store, "followed")
    _, behind = await store.behind(interval=LEASE, backlog=10)
    assert len(behind) == 1


async def test_a_timer_that_a_dead_ringer_has_is_rung_by_the_next(store: Store) -> None:
    """The second that it had seems to last an hour."""
    await put(store, timer())
    await late_by(store, "t", 100)
    await scored(store, "ringing", "t")
    assert await ring(store) == 1


async def test_the_fleet_is_idle_from_now_on(store: Store) -> None:
    """Its latest work is an hour ahead: it may be idle in a minute, not in an hour and a minute."""
    await put(store, timer(config={"skip_when_active_within": 60}))
    await written(store, "active_at")
    await late_by(store, "t", 100)
    assert await ring(store) == 1
    assert [f.outcome for f in await store.fires("t", 10)] == ["skipped: the fleet is active"]
    assert float((await store.face())["active_at"]) <= await now_ms(store)


async def test_a_rate_owes_no_more_than_its_burst(store: Store) -> None:
    """A caller is refused for one request's time, not until the clock has caught up."""
    await store.link.call("SET", store.keys("permits", "me"), await ahead(store))
    first = await store.take_permit("me", rate=20, burst=3)
    assert timedelta(0) < first <= timedelta(milliseconds=50)

    async def taken() -> bool:
        return await store.take_permit("me", rate=20, burst=3) == timedelta(0)

    await wait_until(taken, 2, what="a permit")


async def test_what_was_counted_later_than_now_does_not_count(store: Store) -> None:
    """The rate limit of the pipeline has room again."""
    window: dict[str, Any] = {
        "limit": 2,
        "window": SOON,
        "same_for": SOON,
        "max_buckets": 10,
    }
    for request in ("r1", "r2"):
        assert await store.rate_limit("stage", request, {"a": 1}, **window) is None
    assert await store.rate_limit("stage", "r3", {"a": 1}, **window) is not None
    [bucket] = await store.link.call("KEYS", store.keys.prefix + "rate:*")
    for place in await store.link.call("ZRANGE", bucket, 0, -1):
        await store.link.call("ZADD", bucket, 1000 * await ahead(store), place)
    assert await store.rate_limit("stage", "r3", {"a": 1}, **window) is None


async def test_a_worker_that_began_later_than_now_took_no_time(store: Store) -> None:
    """A report's duration is never negative."""
    worker_id = await running(store)
    await store.link.call("HSET", store.keys("worker", worker_id), "started", await ahead(store))
    await store.settle(worker_id, "t1", success())
    record = await store.get(worker_id)
    assert record is not None
    assert record.report is not None
    assert record.report.duration_seconds == 0
