"""The bridge: each kept event once and in order, through lost connections; what is missing is said."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from redis import Redis

from colony.events import Filter, Subscription, read_events
from colony.models import Event, EventType
from colony.redis_server import EmbeddedRedis
from colony.store import Store
from colony.testing import wait_until
from tests.store.fixtures import OpenColony
from tests.store.kit import NOW, SOON, new_colony_id, new_workers, one, open_store, running, success

ALL = Filter()


async def _kept(store: Store, wanted: Filter = ALL, after: str = "0") -> list[Event]:
    """What the log has to tell."""
    return [event async for event in read_events(store, wanted, after=after, follow=False)]


async def _tell(store: Store, first: int, last: int) -> None:
    """Events that count."""
    await asyncio.gather(
        *(store.tell(EventType.NODE_JOINED, {"n": n}) for n in range(first, last + 1))
    )


class Reader:
    """Reads until it has been told to stop, and keeps what it read."""

    def __init__(self, store: Store, wanted: Filter = ALL, after: str | None = "0") -> None:
        self.read: list[Event] = []
        events = read_events(store, wanted, after=after, follow=True)
        self.task = asyncio.create_task(self._read(events))

    async def _read(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self.read.append(event)

    async def stop(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def _listeners(store: Store) -> int:
    reply = await store.link.call("PUBSUB NUMSUB", store.keys("live"))
    return int(reply[0][1])


async def _has(reader: Reader, count: int) -> list[Event]:
    await wait_until(lambda: len(reader.read) >= count, 30, what=f"{count} events are read")
    return reader.read


def _numbers(events: list[Event]) -> list[int]:
    return [int((event.id or "-0").partition("-")[2]) for event in events]


async def test_filters(store: Store) -> None:
    """Readers get the types, the stream and the worker that they ask for, and nothing else."""
    mine = await running(store)
    other = new_workers(stream="room", correlation="c7")
    await store.accept(other, ring_again_after=SOON)
    await store.settle(mine, "t1", success())
    assert {e.worker_id for e in await _kept(store, Filter.of(None, None, mine))} == {mine}
    [room] = await _kept(store, Filter.of(None, "room", None))
    assert (room.worker_id, room.correlation_id) == (other[0][0], "c7")
    reports = await _kept(store, Filter.of([EventType.SUBAGENT_REPORT], None, None))
    assert [(e.type, e.worker_id) for e in reports] == [("subagent_report", mine)]
    assert await _kept(store, Filter.of(["subagent_report"], "room", None)) == []


async def test_replay_from_an_id(store: Store) -> None:
    """After an id come the events behind it; after the last one nothing; a wrong id is refused."""
    await _tell(store, 1, 10)
    whole = await _kept(store)
    assert [e.data["n"] for e in whole] == list(range(1, 11))
    assert await _kept(store, after=whole[3].id or "") == whole[4:]
    assert await _kept(store, after=whole[-1].id or "") == []
    with pytest.raises(ValueError, match="1-42"):
        await _kept(store, after="yesterday")


async def test_replay_goes_on_live(store: Store) -> None:
    """A reader that begins in the past passes into the present without a repeat or a gap."""
    await _tell(store, 1, 700)
    reader = Reader(store)
    await _has(reader, 1)
    await _tell(store, 701, 1400)
    await _has(reader, 1400)
    await reader.stop()
    assert _numbers(reader.read) == list(range(1, 1401))


async def test_from_now_on(store: Store) -> None:
    """With no position, a reader hears what comes after it began to listen, and no history."""
    await _tell(store, 1, 5)
    reader = Reader(store, after=None)
    await wait_until(lambda: _listeners(store))
    await store.link.call("PING")
    await _tell(store, 6, 8)
    await wait_until(lambda: reader.read and reader.read[-1].data["n"] == 8)
    await reader.stop()
    assert min(e.data["n"] for e in reader.read) >= 6


async def test_once_and_in_order_while_connections_die(own_redis: EmbeddedRedis) -> None:
    """2,000 events while the reader's connection is killed again and again: each once, in order."""
    store = await open_store(own_redis.url, new_colony_id())
    reader, killed = Reader(store), 0
    try:
        await wait_until(lambda: _listeners(store))
        with Redis.from_url(own_redis.url) as operator:
            for start in range(0, 2000, 400):
                await wait_until(lambda: _listeners(store))
                await _tell(store, start + 1, start + 200)
                killed += operator.client_kill_filter(_type="pubsub")
                await _tell(store, start + 201, start + 400)
        await _has(reader, 2000)
    finally:
        await reader.stop()
        await store.link.close()
    assert killed == 5
    assert _numbers(reader.read) == list(range(1, 2001))
    assert EventType.GAP not in {e.type for e in reader.read}


async def test_what_the_cap_took_is_announced(open_colony: OpenColony) -> None:
    """A reader of a log that was cut is told how many events are missing, then reads the rest."""
    store = await open_colony(max_history=100)
    await _tell(store, 1, 1000)
    gap, *rest = await _kept(store)
    assert (gap.type, gap.id) == (EventType.GAP, None)
    assert "max_history" in gap.data["reason"]
    assert gap.data["missed"] + len(rest) == 1000
    assert 100 <= len(rest) < 1000
    assert _numbers(rest) == list(range(gap.data["missed"] + 1, 1001))
    behind = await _kept(store, Filter.of(["subagent_report"], None, None), after="1-10")
    assert [e.data["missed"] for e in behind] == [gap.data["missed"] - 10]


async def test_what_a_restart_lost_is_announced(store: Store) -> None:
    """A reader ahead of a log that lost its last second is told so, and reads what came instead.

    The loss is made by hand: events 8 to 10 are taken back, as a restart from an append-only file
    without its last second does, and the sweep after it begins generation 2.
    """
    await _tell(store, 1, 10)
    seen = await _kept(store)
    for event in seen[7:]:
        await store.link.call("XDEL", store.keys("events"), event.id)
    meta = store.keys("meta")
    await store.link.call("HSET", meta, "events", 7, "generation", 2, "since:2", 7)
    await _tell(store, 11, 12)
    gap, *rest = await _kept(store, after=seen[-1].id or "")
    assert (gap.type, gap.data["missed"], gap.data["lost_by_server"]) == (EventType.GAP, 3, True)
    assert [(e.id, e.data["n"]) for e in rest] == [("2-8", 11), ("2-9", 12)]
    in_time = await _kept(store, after=seen[6].id or "")
    assert [e.id for e in in_time] == ["2-8", "2-9"]


async def test_a_restart_without_loss_is_no_gap(own_redis: EmbeddedRedis) -> None:
    """A reader follows over a restart of Redis into the next generation, with nothing to announce."""
    store = await open_store(own_redis.url, new_colony_id())
    reader = Reader(store)
    try:
        await _sweep(store)
        await _tell(store, 1, 5)
        await _has(reader, 5)
        await asyncio.to_thread(own_redis.restart)
        await _sweep(store)
        await _tell(store, 6, 8)
        await _has(reader, 8)
    finally:
        await reader.stop()
        await store.link.close()
    ids = [f"1-{n}" for n in range(1, 6)] + [f"2-{n}" for n in range(6, 9)]
    assert [e.id for e in reader.read] == ids


async def _sweep(store: Store) -> None:
    assert await store.sweep(interval=NOW, lease=SOON, cap=1) is not None


async def test_deltas_are_heard_and_not_kept(store: Store) -> None:
    """Text deltas reach who listens, without an id, and are not in the log."""
    worker_id = await one(store)
    reader = Reader(store, Filter.of(None, "room", None))
    await wait_until(lambda: _listeners(store))
    said = {"text": 'ü\u2028"\\', "a": []}
    await store.say(
        "llm_text_delta", said, worker_id=worker_id, stream_id="room", correlation_id="c"
    )
    [heard] = await _has(reader, 1)
    await reader.stop()
    assert (heard.id, heard.type, heard.worker_id) == (None, "llm_text_delta", worker_id)
    assert heard.data == said
    assert [e.type for e in await _kept(store)] == ["execution_accepted"]


async def test_a_handler_that_raises_harms_nobody(store: Store) -> None:
    """A failing or slow subscriber goes on with its next event, and others do not notice."""
    heard: dict[str, list[int]] = {"raises": [], "slow": [], "good": []}

    def raises(event: Event) -> None:
        heard["raises"].append(event.data["n"])
        raise RuntimeError("a subscriber's mistake")

    async def slow(event: Event) -> None:
        await asyncio.sleep(0.005)
        heard["slow"].append(event.data["n"])

    def good(event: Event) -> None:
        heard["good"].append(event.data["n"])

    subscriptions = [
        Subscription(read_events(store, ALL, after="0", follow=True), handler)
        for handler in (raises, slow, good)
    ]
    await _tell(store, 1, 20)
    await wait_until(lambda: all(len(numbers) == 20 for numbers in heard.values()))
    for subscription in subscriptions:
        await subscription.close()
    await _tell(store, 21, 21)
    assert all(numbers == list(range(1, 21)) for numbers in heard.values())


async def test_events_carry_their_colony_and_consecutive_ids(store: Store) -> None:
    """Every event of a worker's life has the colony, the worker, the stream, and the next number."""
    worker_id = await running(store)
    await store.settle(worker_id, "t1", success())
    told = await _kept(store)
    assert _numbers(told) == list(range(1, len(told) + 1))
    assert {e.colony_id for e in told} == {(await store.face())["id"]}
    of_worker = [e for e in told if e.worker_id]
    assert {(e.execution_id, e.stream_id) for e in of_worker} == {
        (worker_id, f"worker:{worker_id}")
    }
    raw = json.loads(of_worker[-1].model_dump_json())
    assert Event.model_validate(raw) == of_worker[-1]


async def test_a_position_ahead_of_the_log_is_a_gap_at_once(store: Store) -> None:
    """Of this generation: the events that Redis lost, before a node has noticed; of a later one: the log
    is another, and all of it follows."""
    await _tell(store, 1, 5)
    [gap] = await _kept(store, after="1-12")
    assert (gap.type, gap.data["missed"], gap.data["lost_by_server"]) == ("gap", 7, True)
    [gap, *rest] = await _kept(store, after="3-2")
    assert (gap.type, gap.data["missed"], _numbers(rest)) == ("gap", 5, [1, 2, 3, 4, 5])
