"""Tokens, rates and pages as the store keeps them."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from colony.errors import InvalidTask
from colony.listing import make_cursor, read_cursor
from colony.models import WorkerState
from colony.store import Store
from colony.testing import wait_until
from colony.tokens import TokenInfo, token_holder
from tests.store.fixtures import OpenColony
from tests.store.kit import accepted, new_colony_id, open_store

KEPT = '{"name":"n","scopes":["read"],"sha256":"x"}'


async def test_a_token_is_kept_once_and_revoked(store: Store) -> None:
    """The same request again changes nothing; what is revoked is gone."""
    first = await store.put_token("a" * 16, KEPT, ttl=None)
    assert first == await store.put_token("a" * 16, KEPT, ttl=timedelta(seconds=1))
    kept, now = await store.read_token("a" * 16)
    assert kept == first
    token = TokenInfo.model_validate_json(f'{{"token_id":"t",{kept[1:]}')
    assert (token.expires_at, token.created_at.timestamp() * 1000 <= now) == (None, True)
    assert await store.revoke_token("a" * 16)
    assert not await store.revoke_token("a" * 16)
    assert (await store.read_token("a" * 16))[0] == ""
    assert isinstance(await token_holder(store, f"colony_{'a' * 16}_{'A' * 43}"), str)


async def test_an_unknown_colony_has_no_tokens_and_no_counters(redis_url: str) -> None:
    """Nothing is written for a colony that nobody registered."""
    store = await open_store(redis_url, new_colony_id())
    try:
        await store.link.call("DEL", store.keys("meta"))
        assert await store.put_token("a" * 16, KEPT, ttl=None) is None
        await store.tally("http_401")
        assert await store.link.call("KEYS", store.keys.prefix + "*") == []
    finally:
        await store.link.close()


async def test_what_was_refused_is_counted(store: Store) -> None:
    """A tally is a total of the colony."""
    await asyncio.gather(*(store.tally("http_401") for _ in range(3)))
    stats = await store.stats()
    assert stats is not None
    assert stats.totals["http_401"] == 3


async def test_a_rate_is_exact_and_its_key_goes(store: Store) -> None:
    """As many at once as `burst` says, then as many a second as `rate` says; who waits as long as it is
    told is let in; refused requests cost nothing; an idle caller leaves no key."""
    taken = [await store.take_permit("who", rate=10, burst=5) for _ in range(20)]
    assert taken[:5] == [timedelta(0)] * 5
    late = [wait for wait in taken[5:] if wait]
    assert len(late) >= 12
    assert max(late) <= timedelta(milliseconds=101)
    await asyncio.sleep(late[-1].total_seconds())
    assert not await store.take_permit("who", rate=10, burst=5)
    assert not await store.take_permit("another", rate=10, burst=5)

    async def gone() -> bool:
        return not await store.link.call("EXISTS", store.keys("permits", "who"))

    await wait_until(gone, 5)


async def _pages(store: Store, index: str, size: int) -> list[str]:
    seen: list[str] = []
    after = None
    while rows := await store.page(index, after, size, ["state"]):
        seen += [worker_id for worker_id, _, _ in rows]
        after = rows[-1][1], rows[-1][0]
    return seen


@pytest.mark.parametrize("size", [1, 7, 500])
async def test_pages_hold_each_worker_once(open_colony: OpenColony, size: int) -> None:
    """Many workers of one millisecond, more of others: newest first, each once, nobody left out."""
    store = await open_colony()
    ids = [*await accepted(store, 40), *await accepted(store, 1), *await accepted(store, 20)]
    for index in ("listed", WorkerState.PENDING.value):
        seen = await _pages(store, index, size)
        assert sorted(seen) == sorted(ids)
        key = "listed" if index == "listed" else f"state:{index}"
        assert seen == await store.link.call("ZREVRANGE", store.keys.prefix + key, 0, -1)


async def test_a_page_goes_on_behind_one_that_is_gone(store: Store) -> None:
    """The last of a page may leave the list before the next one is asked for."""
    await accepted(store, 30)
    rows = await store.page("listed", None, 10, ["state"])
    seen = [worker_id for worker_id, _, _ in rows]
    whole = await _pages(store, "listed", 500)
    await store.link.call("ZREM", store.keys("listed"), *seen[5:])
    rest = await store.page("listed", (rows[-1][1], rows[-1][0]), 50, ["state"])
    assert [worker_id for worker_id, _, _ in rest] == whole[10:]
    await store.link.call(
        "ZADD", store.keys("listed"), *(t for w in seen[5:] for t in (rows[-1][1], w))
    )


def test_cursors() -> None:
    """A cursor is of one list; anything else is refused."""
    cursor = make_cursor("listed", 1763740000000, "w1")
    assert read_cursor("listed", cursor) == (1763740000000, "w1")
    for wrong in (
        "",
        "=",
        "ü",
        make_cursor("PARKED", 1, "w1"),
        "bGlzdGVkIC0xIHcx",
    ):
        with pytest.raises(InvalidTask, match="next_cursor"):
            read_cursor("listed", wrong)
