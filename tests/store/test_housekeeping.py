"""Doorbells that went unanswered, what is kept and what is forgotten, messages set aside, the intake."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from colony.errors import StoreIncompatible
from colony.models import EventType, Rejected
from colony.store import Ring, Store
from colony.store.fleet import REJECTED_KEPT
from tests.store.kit import (
    NOW,
    accepted,
    claim,
    dump,
    events_of,
    join,
    now_ms,
    one,
    running,
    success,
)

MINUTE = timedelta(minutes=1)


async def _ended(store: Store, count: int) -> list[str]:
    """That many ended workers with a conversation, oldest first."""
    ids = []
    for n in range(count):
        worker_id = await running(store)
        await store.settle(worker_id, "t1", success())
        await store.link.call("ZADD", store.keys("ended"), n + 1, worker_id)
        await store.link.call("HSET", store.keys("worker", worker_id), "ended", n + 1)
        ids.append(worker_id)
    return ids


async def test_doorbells_back_off(store: Store, redis_url: str) -> None:
    """Each ring doubles the time to the next, up to 64 times; each is counted in the record."""
    worker_id = await one(store, ring_again_after=NOW)
    for n in range(1, 9):
        now = int(await now_ms(store))
        assert await store.ring_again(after=MINUTE, cap=10) == [Ring(worker_id, "agent")]
        pause = dump(redis_url, store)["doorbells"][worker_id] - now
        expected = 60_000 * 2 ** min(n, 6)
        assert expected <= pause < expected + 30_000
        assert await store.ring_again(after=MINUTE, cap=10) == []
        await store.link.call("ZADD", store.keys("doorbells"), 1, worker_id)
    record = await store.get(worker_id)
    assert record is not None
    assert record.rings == 8


async def test_a_doorbell_is_rung_again_only_when_it_is_time(store: Store) -> None:
    """Before ring_again_after has passed nobody is rung for, and never for one that was claimed."""
    await one(store, ring_again_after=MINUTE)
    claimed = await one(store, ring_again_after=NOW)
    await claim(store, claimed)
    assert await store.ring_again(after=MINUTE, cap=10) == []


async def test_ringing_again_is_capped(store: Store) -> None:
    """One sweep rings at most `cap` times; the rest is rung by the next."""
    ids = await accepted(store, 5, ring_again_after=NOW)
    first = await store.ring_again(after=MINUTE, cap=3)
    rest = await store.ring_again(after=MINUTE, cap=3)
    assert (len(first), len(rest)) == (3, 2)
    assert {ring.worker_id for ring in (*first, *rest)} == set(ids)


async def test_a_new_wait_is_rung_from_the_start(store: Store) -> None:
    """Given back, a worker's back-off begins anew."""
    worker_id = await one(store, ring_again_after=NOW)
    await store.ring_again(after=NOW, cap=10)
    await claim(store, worker_id)
    await store.give_back(worker_id, "t1", "moved", counted=False, ring_again_after=MINUTE)
    record = await store.get(worker_id)
    assert record is not None
    assert record.rings == 0


async def test_a_node_that_joins_has_doorbells_rung_that_backed_off(
    store: Store, redis_url: str
) -> None:
    """Rung in vain for long, while no node was there: due at once when one comes, not after a minute."""
    await join(store)
    worker_id = await one(store)
    await store.link.call("ZADD", store.keys("doorbells"), "XX", 1, worker_id)
    await store.ring_again(after=MINUTE, cap=10)
    assert await store.ring_again(after=MINUTE, cap=10) == []
    await join(store, "n2")
    rung = await store.ring_again(after=MINUTE, cap=10)
    assert [ring.worker_id for ring in rung] == [worker_id]


async def test_retention_by_count_forgets_the_oldest(store: Store, redis_url: str) -> None:
    """Beyond the count the oldest go, with record and conversation; those that live stay."""
    ids = await _ended(store, 5)
    alive = await one(store)
    assert await store.retain(most=2, ttl=None, cap=100) == 3
    left = {k.removeprefix("worker:") for k in dump(redis_url, store) if k.startswith("worker:")}
    assert left == {*ids[3:], alive}


async def test_retention_by_age(store: Store) -> None:
    """Older than the ttl goes, whatever the count; with no ttl age does not matter."""
    await _ended(store, 2)
    young = await running(store)
    await store.settle(young, "t1", success())
    assert await store.retain(most=100, ttl=None, cap=100) == 0
    assert await store.retain(most=100, ttl=MINUTE, cap=100) == 2
    assert await store.get(young) is not None


async def test_retention_spares_what_somebody_waits_for(store: Store) -> None:
    """A report that is waited for is kept until nobody waits any more; another goes in its place."""
    ids = await _ended(store, 3)
    await store.wait_for([ids[0]], ttl=MINUTE)
    assert await store.retain(most=1, ttl=None, cap=100) == 2
    assert await store.get(ids[0]) is not None
    await store.link.call("ZADD", store.keys("waited"), 1, ids[0])
    assert await store.retain(most=100, ttl=MINUTE, cap=100) == 1
    assert await store.get(ids[0]) is None


async def test_what_is_kept_does_not_stand_in_the_way(store: Store) -> None:
    """The oldest are waited for and fill a round: the next round looks at those behind them."""
    ids = await _ended(store, 4)
    await store.wait_for(ids[:2], ttl=MINUTE)
    assert await store.retain(most=2, ttl=None, cap=2) == 0
    assert await store.retain(most=2, ttl=None, cap=2) == 2
    assert [await store.get(i) is not None for i in ids] == [True, True, False, False]


async def test_retention_is_capped(store: Store) -> None:
    """One round looks at no more than `cap` workers."""
    await _ended(store, 5)
    assert await store.retain(most=1, ttl=None, cap=2) == 2
    assert await store.retain(most=1, ttl=None, cap=2) == 2
    assert await store.retain(most=1, ttl=None, cap=2) == 0


async def test_messages_are_set_aside_newest_first(store: Store) -> None:
    """What is not ours is kept with its reason and text, cut to size; only the newest are kept."""
    await store.reject("malformed", 'not "json" \u2028')
    await store.reject("too long", "x" * 5000)
    long, malformed = await store.rejected(10)
    assert isinstance(malformed, Rejected)
    assert (malformed.reason, malformed.message) == ("malformed", 'not "json" \u2028')
    assert len(long.message) == 2000
    for n in range(REJECTED_KEPT):
        await store.reject("again", str(n))
    kept = await store.rejected(2 * REJECTED_KEPT)
    assert (len(kept), kept[0].message) == (REJECTED_KEPT, str(REJECTED_KEPT - 1))


async def test_a_message_that_is_no_unicode_is_set_aside_too(store: Store) -> None:
    """Half of a surrogate pair, in the reason or in the message, is kept as a question mark."""
    await store.reject("unknown task \udcff", "bad \ud800 text")
    [kept] = await store.rejected(10)
    assert (kept.reason, kept.message) == ("unknown task ?", "bad ? text")


async def test_the_intake_is_told_of_when_it_changes(store: Store) -> None:
    """Pausing twice is one pause, and one event."""
    for paused in (False, True, True, False):
        assert await store.set_intake(paused=paused)
    assert await events_of(store) == ["intake_paused", "intake_resumed"]


async def test_what_is_told_keeps_its_json(store: Store) -> None:
    """An event's data is carried as text: [] stays [], large integers stay whole."""
    data = {"a": [], "n": 9007199254740993, "s": 'ü\u2028"\\'}
    await store.tell(EventType.PROGRESS, data)
    [(_, fields)] = await store.link.call("XRANGE", store.keys("events"), "-", "+")
    event = json.loads(fields["e"] if isinstance(fields, dict) else fields[1])
    assert event["data"] == data


async def test_a_newer_schema_is_refused(store: Store, redis_url: str) -> None:
    """What a newer Colony wrote is not registered over, and producers are told to upgrade."""
    await store.link.call("HSET", store.keys("meta"), "schema", 99)
    before = dump(redis_url, store)
    with pytest.raises(StoreIncompatible, match="upgrade"):
        await store.register({"version": "1"})
    with pytest.raises(StoreIncompatible, match="upgrade"):
        await store.check_schema()
    assert dump(redis_url, store) == before
    await store.link.call("HSET", store.keys("meta"), "schema", 1)
