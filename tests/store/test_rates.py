"""The rate limit: exact, fleet-wide, by Redis' clock, and the same answer to the same request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

import pytest_asyncio
from redis import Redis

from colony.store import Link, Store
from colony.store.rates import Full
from colony.testing import wait_until
from tests.store.kit import SOON, accepted

WINDOW = timedelta(seconds=60)


async def ask(
    store: Store,
    request: str,
    places: Mapping[str, int] | None = None,
    *,
    limit: int = 3,
    window: timedelta = WINDOW,
    same_for: timedelta = WINDOW,
    max_buckets: int = 100,
) -> Full | None:
    return await store.rate_limit(
        "stage",
        request,
        places or {"a": 1},
        limit=limit,
        window=window,
        same_for=same_for,
        max_buckets=max_buckets,
    )


@pytest_asyncio.fixture
async def other(store: Store, redis_url: str) -> AsyncIterator[Store]:
    """The same colony, on a link of its own: another process."""
    link = Link(redis_url, patience=SOON)
    yield Store(link, store.colony_id)
    await link.close()


async def test_the_bound_is_exact_under_concurrency_from_two_sides(
    store: Store, other: Store
) -> None:
    sides = (store, other)
    asked = [ask(sides[n % 2], f"r{n}", limit=50) for n in range(300)]
    answers = await asyncio.gather(*asked)
    assert answers.count(None) == 50
    waits = [full.after for full in answers if full is not None]
    assert all(wait is not None and timedelta(seconds=50) < wait <= WINDOW for wait in waits)


async def test_a_place_is_free_again_when_the_window_has_moved_on(store: Store) -> None:
    short = timedelta(seconds=0.4)
    for n in range(3):
        assert await ask(store, f"r{n}", window=short) is None
    full = await ask(store, "late", window=short)
    assert full is not None
    assert full.after is not None
    await asyncio.sleep(full.after.total_seconds())
    assert await ask(store, "late", window=short) is None, "it said so"


async def test_the_clock_is_that_of_redis(store: Store, redis_url: str) -> None:
    """A place that was taken at a time of Redis' future is still taken: nobody else's clock counts."""
    await ask(store, "r1", limit=1)
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        [key] = redis.keys(store.keys.prefix + "rate:*")
        [(_, at)] = redis.zrange(key, 0, -1, withscores=True)
        seconds, micros = redis.time()
        assert 0 <= int(seconds) * 1_000_000 + int(micros) - at < 5_000_000
        redis.zadd(key, {"r1#1": at - 59_000_000})
    full = await ask(store, "r2", limit=1)
    assert full is not None
    assert full.after is not None
    assert full.after <= timedelta(seconds=1)


async def test_the_same_request_is_counted_once_and_admitted_each_time(store: Store) -> None:
    answers = await asyncio.gather(*(ask(store, "one", limit=1) for _ in range(20)))
    assert answers == [None] * 20
    assert await ask(store, "two", limit=1) is not None
    for _ in range(2):
        assert await ask(store, "three", {"b": 3}) is None, "all its places, once"
    assert await ask(store, "three", {"b": 4}) is not None, "but not more than it had"


async def test_a_request_that_comes_too_late_to_be_the_same_counts_anew(store: Store) -> None:
    same_for = timedelta(milliseconds=50)
    for _ in range(3):
        assert await ask(store, "again", same_for=same_for) is None
        await asyncio.sleep(0.06)
    assert await ask(store, "again", same_for=same_for) is not None


async def test_all_buckets_of_a_request_or_none(store: Store) -> None:
    assert await ask(store, "r1", {"a": 2}) is None
    full = await ask(store, "r2", {"b": 1, "a": 2})
    assert full is not None
    assert full.bucket == "a"
    assert await ask(store, "r3", {"b": 3}) is None, "b was not touched"
    assert await ask(store, "r4", {"c": 4}) == Full("c", None), "never has so many"


async def test_the_number_of_buckets_is_bounded_and_they_go_by_themselves(
    store: Store, redis_url: str
) -> None:
    window = timedelta(seconds=1)
    for n in range(8):
        assert await ask(store, f"r{n}", {f"b{n}": 1}, window=window, max_buckets=5) is None
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        names = redis.keys(store.keys.prefix + "rate:*")
        assert len(names) == 6, "five, and the one that the others share"
        assert await ask(store, "r8", {"b8": 1}, window=window, max_buckets=5) is not None
        assert await ask(store, "r9", {"b0": 1}, window=window, max_buckets=5) is None
        await wait_until(lambda: not redis.keys(store.keys.prefix + "rate:*"), what="they expire")
    assert await ask(store, "r10", {"b8": 1}, window=window, max_buckets=5) is None
    assert await store.link.call("ZCARD", store.keys("rates")) == 1


async def test_known_is_the_first_answer_while_it_is_remembered(store: Store) -> None:
    assert await store.known("k") == []
    ids = await accepted(store, 2, idempotency_key="k", idempotency_ttl=timedelta(seconds=0.3))
    assert await store.known("k") == ids

    async def forgotten() -> bool:
        return await store.known("k") == []

    await wait_until(forgotten, what="the key's life is over")
