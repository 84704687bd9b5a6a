"""Webhooks in the store: owed by the script that ends, claimed by lease and in turns, bounded."""

from __future__ import annotations

import json
from datetime import timedelta

from colony.models import ReportStatus
from colony.store import Store
from colony.store.deliveries import Failed, NewDelivery, Owed
from tests.store.delivery_kit import SUBSCRIPTION, URL, owed
from tests.store.kit import NOW, accepted, one

HOUR = timedelta(hours=1)
OTHER = "https://other.example.org:8443/b?c=1"


async def take(store: Store, token: str = "t1", most: int = 10, per_lane: int = 10) -> list[Owed]:
    """Claim for an hour."""
    return await store.claim_deliveries(token, lease=HOUR, most=most, per_lane=per_lane)


async def total(store: Store, name: str) -> int:
    """A counter."""
    return int((await store.face()).get(f"total:{name}", 0))


async def lease_over(store: Store, delivery: Owed) -> None:
    """As if the time of a claim had passed."""
    lane = delivery.to.url.rpartition("/")[0] if delivery.to.url else ""
    for name in ("lane", "sending"):
        await store.link.call("ZADD", store.keys(name, lane), "XX", 1, delivery.id)
    await store.link.call("ZADD", store.keys("lanes"), "XX", 1, lane)


async def test_an_end_owes_its_webhook_in_one_step(store: Store) -> None:
    """The settling script writes the delivery; what is sent is the report as it was kept, and the colony."""
    name = await owed(store, big=2**53 + 1, empty=[])
    [found] = await take(store)
    assert (found.id, found.type, found.to.url, found.attempt) == (name, "worker.completed", URL, 1)
    data = json.loads(found.data)
    assert (data["colony_id"], data["status"]) == (store.colony_id, "success")
    assert data["data"] == {"n": 1, "big": 2**53 + 1, "empty": []}
    assert await take(store) == [], "not twice"


async def test_a_worker_that_is_stopped_while_it_waits_owes_it_too(store: Store) -> None:
    """Every way into a terminal state owes what on_complete asks for."""
    told = '{"url":"https://h.example/","secret":["env:S"]}'
    worker = await one(store)
    await store.link.call("HSET", store.keys("worker", worker), "on_complete", told)
    await store.stop(worker, status=ReportStatus.STOPPED, reason="r", grace=HOUR)
    [found] = await take(store)
    assert json.loads(found.data)["status"] == "stopped"


async def test_a_claim_ends_with_its_lease_and_its_token(store: Store) -> None:
    """Whoever comes after the lease has it; the first one's failure no longer counts, its success does."""
    await owed(store)
    [first] = await take(store, "t1")
    await lease_over(store, first)
    [second] = await take(store, "t2")
    assert (second.id, second.attempt) == (first.id, 2)
    verdict = await store.delivery_failed(first.id, "t1", "late", again_after=NOW)
    assert verdict is Failed.STALE
    await store.delivered(first.id)
    verdict = await store.delivery_failed(first.id, "t2", "late", again_after=NOW)
    assert verdict is Failed.STALE
    assert await store.delivery(first.id) is None
    assert await total(store, "delivered") == 1


async def test_one_origin_has_only_so_many_places_and_lanes_take_turns(store: Store) -> None:
    """Five of one origin, one of another: two of the first, and the other; then the next."""
    for _ in range(5):
        await owed(store)
    other = await owed(store, OTHER)
    first = await take(store, "t1", per_lane=2)
    assert sorted(found.to.url or "" for found in first) == sorted([URL, URL, OTHER])
    assert other in [found.id for found in first]
    assert await take(store, "t2", per_lane=2) == []
    [mine, _] = [found for found in first if found.to.url == URL]
    await store.delivery_failed(mine.id, "t1", "500", again_after=HOUR)
    [following] = await take(store, "t3", per_lane=2)
    assert following.id not in {found.id for found in first}


async def test_a_lane_without_a_place_is_not_looked_at(store: Store) -> None:
    """It waits until one of its deliveries has ended: who asks for one delivery gets one of another lane."""
    for url in (URL, URL, "https://third.example.org/", OTHER):
        await owed(store, url)
    urls = [found.to.url for _ in range(3) for found in await take(store, most=1, per_lane=1)]
    assert urls == [URL, "https://third.example.org/", OTHER]
    late = await owed(store, "https://late.example.org/")
    assert [found.id for found in await take(store, most=1, per_lane=1)] == [late]


async def test_what_failed_waits_and_then_is_given_up(store: Store) -> None:
    """Not before its time; then dead, kept with its reason, and tried again with all attempts before it."""
    name = await owed(store)
    [found] = await take(store, "t1")
    assert await store.delivery_failed(name, "t1", "500", again_after=HOUR) is Failed.LATER
    assert await take(store) == []
    assert await store.retry_delivery(name)
    [found] = await take(store, "t2")
    assert found.attempt == 1
    assert await store.delivery_failed(name, "t2", "501", again_after=None) is Failed.DEAD
    [dead] = await store.deliveries(dead=True, limit=10)
    assert (dead.id, dead.error, dead.dead) == (name, "501", True)
    assert await take(store) == []
    assert await store.drop_delivery(name)
    assert not await store.drop_delivery(name)
    assert not await store.retry_delivery(name)


async def test_owed_and_dead_are_bounded(store: Store) -> None:
    """Beyond deliveries_max the oldest are given up; beyond dead_deliveries_max they are forgotten."""
    await store.register({"deliveries_max": 2, "dead_deliveries_max": 2})
    names = [await owed(store) for _ in range(5)]
    kept = {delivery.id for delivery in await store.deliveries(dead=False, limit=10)}
    assert kept == set(names[3:])
    dead = await store.deliveries(dead=True, limit=10)
    assert {delivery.id for delivery in dead} == set(names[1:3])
    assert {delivery.error for delivery in dead} == {"more than deliveries_max were owed"}
    assert await total(store, "delivery_dead") == 3


async def test_a_cursor_moves_once(store: Store) -> None:
    """Two nodes that follow the same page: one owes it; a page is behind the cursor from then on."""
    await store.put_subscription(SUBSCRIPTION, from_start=False, most=1)
    [info] = await store.subscriptions()
    await one(store)
    latest, [behind] = await store.behind(interval=NOW, backlog=10)
    assert behind.cursor == info.cursor != latest
    mine = [NewDelivery(f"s_{latest}", "execution_accepted", 0, "{}")]
    assert await store.follow("s", info.cursor, latest, mine)
    assert not await store.follow("s", info.cursor, "1-99", [NewDelivery("s_1-99", "t", 0, "{}")])
    assert [found.id for found in await take(store)] == [f"s_{latest}"]
    assert (await store.behind(interval=NOW, backlog=10))[1] == []
    assert not await store.put_subscription(
        SUBSCRIPTION.model_copy(update={"id": "t"}), from_start=False, most=1
    )


async def test_who_is_owed_too_much_is_not_followed_further(store: Store) -> None:
    """Its cursor waits; the log, and in the end a gap, take what it does not."""
    await store.put_subscription(SUBSCRIPTION, from_start=True, most=1)
    await accepted(store)
    new = [NewDelivery(f"s_{n}", "t", 0, "{}") for n in range(3)]
    await store.follow("s", "0-0", "0-1", new)
    assert (await store.behind(interval=NOW, backlog=3))[1] == []
    await store.delivered("s_0")
    assert len((await store.behind(interval=NOW, backlog=3))[1]) == 1


async def test_a_paused_subscription_is_sent_nothing(store: Store) -> None:
    """What is owed to it is put off and stands in nobody's way; its URL is the one it has now."""
    await store.put_subscription(SUBSCRIPTION, from_start=True, most=1)
    await store.follow("s", "0-0", "0-1", [NewDelivery("s_1", "t", 0, "{}")])
    await store.pause_subscription("s", "paused")
    other = await owed(store)
    assert [found.id for found in await take(store, per_lane=1)] == [other]
    changed = SUBSCRIPTION.model_copy(update={"url": OTHER})
    await store.put_subscription(changed, from_start=True, most=1)
    await store.link.call("ZADD", store.keys("lane", URL[:-2]), "XX", 1, "s_1")
    await store.link.call("ZADD", store.keys("lanes"), 1, URL[:-2])
    [found] = await take(store)
    assert (found.id, found.to.url) == ("s_1", OTHER)
    assert await store.remove_subscription("s")
    assert await store.delivery("s_1") is None
    await store.delivered(other)
