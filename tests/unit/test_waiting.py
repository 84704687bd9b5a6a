"""Fan-in: a report reaches whoever waits, whenever it came and whatever the connection did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
import pytest_asyncio
from redis import Redis
from redis.asyncio.connection import AbstractConnection as Connection

from colony.models import Report
from colony.redis_server import EmbeddedRedis
from colony.store import Store, listen
from colony.testing import wait_until
from colony.waiting import Ended, Waiting
from tests.store.kit import (
    accepted,
    claim,
    dump,
    new_colony_id,
    one,
    open_store,
    running,
    success,
)


@pytest_asyncio.fixture
async def waiting(store: Store) -> AsyncIterator[Waiting]:
    """The waiters of one runtime."""
    made = Waiting(store)
    yield made
    await made.close()


def _summary(found: Ended | bool) -> str:
    assert isinstance(found, Report)
    return found.summary


async def _wait(waiting: Waiting, worker_id: str) -> asyncio.Task[Ended | bool]:
    """A waiter that has looked into the store and waits now."""
    task = asyncio.create_task(waiting.ended(worker_id, 20))
    await wait_until(lambda: worker_id in waiting._waiters and waiting._confirmed.is_set())
    return task


async def test_settled_before(store: Store, waiting: Waiting) -> None:
    """Scenario 15: whoever comes after the end gets the stored report, each the same."""
    worker_id = await running(store)
    await store.settle(worker_id, "t1", success("early"))
    found = [await waiting.ended(worker_id, t) for t in (None, 5, 0)]
    assert [_summary(f) for f in found] == ["early"] * 3


async def test_settled_while_waiting(store: Store, waiting: Waiting) -> None:
    """Two waiters get the report as soon as it is there."""
    worker_id = await running(store)
    tasks = [await _wait(waiting, worker_id) for _ in range(2)]
    await store.settle(worker_id, "t1", success("now"))
    assert [_summary(await task) for task in tasks] == ["now", "now"]
    assert waiting._waiters == {}


async def test_settled_at_any_moment_of_the_beginning(store: Store) -> None:
    """However the end falls between subscribing and reading, it is not missed."""
    for turns in range(0, 40, 2):
        waiting = Waiting(store)
        worker_id = await running(store)
        task = asyncio.create_task(waiting.ended(worker_id, 10))
        for _ in range(turns):
            await asyncio.sleep(0)
        await store.settle(worker_id, "t1", success(str(turns)))
        assert _summary(await task) == str(turns)
        await waiting.close()


async def test_settled_while_the_connection_was_lost(own_redis: EmbeddedRedis) -> None:
    """A report that was told while nobody could hear it is read after the reconnection."""
    mine = await open_store(own_redis.url, new_colony_id())
    waiting = Waiting(mine)
    try:
        for n in range(3):
            worker_id = await running(mine)
            task = await _wait(waiting, worker_id)
            with Redis.from_url(own_redis.url) as operator:
                operator.client_kill_filter(_type="pubsub")
            await mine.settle(worker_id, "t1", success(str(n)))
            assert _summary(await task) == str(n)
        worker_id = await running(mine)
        task = await _wait(waiting, worker_id)
        await asyncio.to_thread(own_redis.restart)
        await mine.settle(worker_id, "t1", success("after"))
        assert _summary(await task) == "after"
    finally:
        await waiting.close()
        await mine.link.close()


async def test_a_thousand_waiters_on_one_connection(store: Store, redis_url: str) -> None:
    """A thousand waits share one subscription, and each gets the report of its own worker."""
    waiting = Waiting(store)
    ids = await accepted(store, 1000)
    with Redis.from_url(redis_url) as operator:
        before = len(operator.client_list(_type="pubsub"))
        tasks = [asyncio.create_task(waiting.ended(w, 60)) for w in ids]
        await wait_until(lambda: len(waiting._waiters) == 1000 and waiting._confirmed.is_set())
        await asyncio.gather(*(claim(store, w) for w in ids))
        await asyncio.gather(*(store.settle(w, "t1", success(w)) for w in ids))
        found = await asyncio.gather(*tasks)
        assert len(operator.client_list(_type="pubsub")) == before + 1
    assert [_summary(f) for f in found] == ids
    await waiting.close()


async def test_a_timeout_leaves_the_worker_running(store: Store, waiting: Waiting) -> None:
    """No report in time is True; 0 looks once; a later wait gets the report."""
    worker_id = await running(store)
    assert [await waiting.ended(worker_id, t) for t in (0, -1, 0.05)] == [True] * 3
    await store.settle(worker_id, "t1", success("late"))
    assert _summary(await waiting.ended(worker_id, 5)) == "late"


async def test_an_unknown_worker_is_no_wait(waiting: Waiting) -> None:
    """Nobody waits for a worker that does not exist, with or without a time limit."""
    assert [await waiting.ended("w0", t) for t in (None, 5, 0)] == [False] * 3


async def test_a_large_report_is_read_from_the_record(store: Store, waiting: Waiting) -> None:
    """A report that is too large to be told along arrives whole."""
    worker_id = await running(store)
    task = await _wait(waiting, worker_id)
    data = {"text": "ü" * 20_000, "n": 9007199254740993, "a": []}
    await store.settle(worker_id, "t1", success("large", **data))
    found = await task
    assert isinstance(found, Report)
    assert found.data == data


async def test_who_waits_holds_the_report(store: Store, waiting: Waiting, redis_url: str) -> None:
    """While somebody waits, retention is told to spare the worker."""
    worker_id = await one(store)
    assert await waiting.ended(worker_id, 0.5) is True
    assert worker_id in dump(redis_url, store)["waited"]


async def test_closing_ends_every_wait(store: Store) -> None:
    """Who waits on a runtime that closes is cancelled, and does not hang."""
    waiting = Waiting(store)
    task = await _wait(waiting, await one(store))
    await waiting.close()
    done, _ = await asyncio.wait([task], timeout=5)
    assert done
    assert task.cancelled()


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_who_ends_while_it_asks_for_a_word_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """A cancellation in the very moment in which a listener has sent something is not lost, at any of its
    first questions (Python 3.11 loses it in `asyncio.wait_for`, in which redis-py sends)."""
    monkeypatch.setattr(listen, "SILENCE_SECONDS", 0.01)
    send = Connection._send_packed_command
    sent = 0

    async def cancel_as_it_returns(self: Connection, command: Iterable[bytes]) -> None:
        nonlocal sent
        await send(self, command)
        if any(word in b"".join(command) for word in (b"SUBSCRIBE", b"PING")):
            sent += 1
            if sent == nth:
                asyncio.get_running_loop().call_soon(listening.cancel)

    monkeypatch.setattr(Connection, "_send_packed_command", cancel_as_it_returns)
    listening = asyncio.create_task(Waiting(store)._listen())
    done, _ = await asyncio.wait({listening}, timeout=5)
    listening.cancel()
    assert done, "it listens on"
    assert sent == nth
    assert listening.cancelled()
