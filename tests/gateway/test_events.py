"""Events over HTTP: each once and in order, whatever is killed; what is missing is said; who may not hear
is not told."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from colony.models import EventType
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.store import Store
from colony.testing import wait_until
from tests.gateway.kit import Api, Gateway, problem
from tests.gateway.listener import Listener
from tests.store.kit import new_colony_id, one, open_store

pytestmark = pytest.mark.fleet

SETTINGS = {
    "gateway_heartbeat": "0.2",
    "gateway_rate": "1000",
    "gateway_burst": "1000",
    "gateway_stream_buffer": "50",
    "gateway_max_streams": "20",
    "gateway_send_timeout": "1",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmbeddedRedis, Gateway]]:
    """A Redis, and a gateway with frequent heartbeats and small buffers."""
    with EmbeddedRedis() as server:
        gateway = Gateway(server.url, tmp_path_factory.mktemp("gateway") / "log", **SETTINGS)
        try:
            gateway.wait_ready()
            yield server, gateway
            assert gateway.terminate() == 0, gateway.tail()
            assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()
        finally:
            if gateway.process.poll() is None:
                gateway.kill()


@pytest_asyncio.fixture
async def lonely(shared: tuple[EmbeddedRedis, Gateway]) -> AsyncIterator[Api]:
    """A colony of its own that nobody serves; the gateway runs, whatever the test before did to it."""
    server, gateway = shared
    store = await open_store(server.url, new_colony_id(), max_history=100_000)
    try:
        if gateway.process.poll() is not None:
            gateway.restart()
        async with (
            ColonyRuntime(store.colony_id, redis_url=server.url) as runtime,
            httpx2.AsyncClient() as client,
        ):
            yield Api(gateway, runtime, client)
    finally:
        await store.link.close()


def store_of(api: Api) -> Store:
    """The store behind a gateway."""
    return api.runtime._store


async def tell(api: Api, first: int, last: int, size: int = 0) -> None:
    """Events that count."""
    store = store_of(api)
    for n in range(first, last + 1):
        await store.tell(EventType.NODE_JOINED, {"n": n, "filling": "x" * size})


def numbers(listener: Listener) -> list[int]:
    """What a listener was told."""
    return [event["data"].get("n", -1) for event in listener.events]


async def listener_of(api: Api, query: str = "after=0") -> Listener:
    """A client that may read events."""
    return Listener(f"{api.base}/events?{query}", await api.token("read"))


def memory_of(pid: int) -> int:
    """The resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Background:
    """Something that goes on beside the test."""

    def __init__(self, work: Coroutine[Any, Any, Any]) -> None:
        self.task: asyncio.Task[Any] = asyncio.create_task(work)

    async def __aenter__(self) -> asyncio.Task[Any]:
        return self.task

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError, httpx2.TransportError):
            await self.task


async def test_a_client_that_is_killed_a_hundred_times_hears_each_event_once(lonely: Api) -> None:
    """A client is killed at random, the gateway is ended in order and by force, and each event comes
    exactly once and in order."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    listener = await listener_of(lonely)
    total = 3000

    async def restart(kill: bool) -> None:
        if kill:
            lonely.gateway.kill()
        else:
            await asyncio.to_thread(lonely.gateway.terminate)
        await asyncio.to_thread(lonely.gateway.restart)

    async with Background(tell(lonely, 1, total)) as telling:
        for round_ in range(100):
            restarting = None
            if round_ in (30, 60):
                restarting = asyncio.ensure_future(restart(round_ == 60))
            await listener.listen_for(chance.uniform(0, 0.08))
            if restarting is not None:
                await restarting
        await telling
    while not listener.events or numbers(listener)[-1] < total:
        await listener.listen_for(1)
    assert numbers(listener) == list(range(1, total + 1))


async def test_what_the_log_no_longer_has_is_announced(lonely: Api) -> None:
    """A client that comes back too late is told how many it has missed, whatever it filters."""
    await tell(lonely, 1, 5)
    listener = await listener_of(lonely)
    await listener.listen_until(lambda: listener.last_id == "1-5", "all that was told is heard")
    assert numbers(listener) == [1, 2, 3, 4, 5]
    await tell(lonely, 6, 400)
    store = store_of(lonely)
    await store.link.call("XTRIM", store.keys("events"), "MAXLEN", 20)
    listener.url = listener.url.replace("after=0", "type=batch_completed")
    # Its position comes to the end all the same: heartbeats carry it, and the gap does not come again.
    await listener.listen_until(lambda: listener.last_id == "1-400", "it is at the end")
    [gap] = listener.events[5:]
    assert (gap["type"], gap["id"], gap["data"]["missed"]) == ("gap", None, 375)
    listener.comments.clear()
    await listener.listen_until(lambda: listener.comments, "it is still at the end")
    assert len(listener.events) == 6


async def test_from_now_on_with_filters_and_heartbeats(lonely: Api) -> None:
    """Without a position a client hears what comes; filters pass what they name; silence has heartbeats."""
    await tell(lonely, 1, 3)
    listener = await listener_of(lonely, "type=node_lost&type=node_joined&worker=w7")
    async with Background(listener.listen()):
        await wait_until(lambda: "alive" in listener.comments, what="a heartbeat")
        assert listener.last_id == "1-3"
        store = store_of(lonely)
        await store.tell(EventType.NODE_JOINED, {"n": 4}, "w7")
        await store.tell(EventType.NODE_JOINED, {"n": 5}, "w8")
        await store.tell(EventType.NODE_RETRY, {"n": 6}, "w7")
        await store.tell(EventType.NODE_LOST, {"n": 7}, "w7")
        await wait_until(lambda: len(listener.events) == 2)
    assert numbers(listener) == [4, 7]


async def test_deltas_are_heard_live_and_have_no_id(lonely: Api) -> None:
    """Text as it streams goes to those who listen, and is not kept."""
    listener = await listener_of(lonely)
    async with Background(listener.listen()):
        await wait_until(lambda: "alive" in listener.comments)
        await store_of(lonely).say(
            "llm_text_delta", {"text": "a\nb"}, worker_id="w1", stream_id="s", correlation_id=None
        )
        await wait_until(lambda: listener.events)
    [event] = listener.events
    assert (event["id"], event["data"]) == (None, {"text": "a\nb"})


async def test_a_revoked_token_ends_its_streams_and_no_others(lonely: Api) -> None:
    """Within a second the stream ends in order; the next connection is refused; another's goes on."""
    made = await lonely.runtime.create_token("brief", ["read"])
    brief = Listener(f"{lonely.base}/events", made.token)
    other = await listener_of(lonely, "")
    async with Background(other.listen()) as still, Background(brief.listen()) as ending:
        await wait_until(lambda: brief.comments and other.comments)
        await lonely.runtime.revoke_token(made.token_id)
        assert await asyncio.wait_for(ending, 3) == 200
        assert "revoked" in brief.comments[-1]
        assert await brief.listen() == 401
        assert not still.done()


async def test_streams_end_in_order_when_the_gateway_is_told_to(lonely: Api) -> None:
    """SIGTERM: each stream ends with a word and a whole answer, long polls are answered, exit code 0."""
    listeners = [await listener_of(lonely, "") for _ in range(5)]
    tasks = [asyncio.ensure_future(each.listen()) for each in listeners]
    worker_id = await one(store_of(lonely))
    waiting = asyncio.ensure_future(lonely.json("GET", f"/workers/{worker_id}/report?wait=50", 202))
    await wait_until(lambda: all(each.comments for each in listeners))
    lonely.gateway.process.terminate()
    assert await asyncio.wait_for(asyncio.gather(*tasks), 5) == [200] * 5
    assert all("connect again" in each.comments[-1] for each in listeners)
    assert (await waiting)["state"] == "PENDING"
    assert await asyncio.to_thread(lonely.gateway.process.wait, 5) == 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory of a process")
async def test_a_slow_reader_costs_no_memory_and_loses_nothing(lonely: Api) -> None:
    """One that reads nothing is disconnected; what it missed is in the log when it comes back, and the
    gateway has not grown by what it did not take."""
    fast = await listener_of(lonely)
    token = await lonely.token("read")
    head = (
        f"GET /v1/colonies/{lonely.runtime.colony_id}/events?after=0 HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", lonely.gateway.port))
        slow.sendall(head.encode())
        async with Background(fast.listen()):
            await tell(lonely, 1, 100, size=10_000)
            before = memory_of(lonely.gateway.process.pid)
            await tell(lonely, 101, 4000, size=10_000)
            await wait_until(lambda: len(fast.events) == 4000, 30)
            grown = memory_of(lonely.gateway.process.pid) - before
        log = lonely.gateway.log
        await wait_until(
            lambda: "took nothing for 1 s" in log.read_text(), what="it is disconnected"
        )
    assert numbers(fast) == list(range(1, 4001))
    assert grown < 20 * 2**20, f"{grown:,} bytes more for 40 MB of events"


async def test_one_subscription_for_all_readers(lonely: Api) -> None:
    """Ten clients, one subscription of Redis; too many streams are refused."""
    listeners = [await listener_of(lonely, "") for _ in range(20)]
    tasks = [asyncio.ensure_future(each.listen()) for each in listeners]
    await wait_until(lambda: all(each.comments for each in listeners))
    store = store_of(lonely)
    reply = await store.link.call("PUBSUB NUMSUB", store.keys("live"))
    assert int(reply[0][1]) == 1
    refused = await lonely.ask("GET", "/events")
    assert "streams open" in problem(refused, 503)["detail"]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    async def room() -> bool:
        listener = await listener_of(lonely, "")
        await listener.listen_for(0.3)
        return bool(listener.last_id)

    await wait_until(room, what="there is room again")


async def test_more_streams_than_there_may_be_at_once(lonely: Api) -> None:
    """Forty that come in the same moment: twenty are let in, as one after the other."""
    listeners = [await listener_of(lonely, "") for _ in range(40)]
    tasks = [asyncio.ensure_future(each.listen()) for each in listeners]

    def answered() -> bool:
        return all(t.done() or each.comments for t, each in zip(tasks, listeners, strict=True))

    await wait_until(answered, what="all are answered")
    refused = [task.result() for task in tasks if task.done()]
    assert refused == [503] * 20
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_redis_that_restarts_is_no_end(tmp_path: Path) -> None:
    """While Redis is away streams stay, and go on without a repeat or a silent gap."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        store = await open_store(server.url, "away")
        gateway = Gateway(server.url, tmp_path / "log", gateway_heartbeat="0.2")
        try:
            gateway.wait_ready()
            async with (
                ColonyRuntime("away", redis_url=server.url) as runtime,
                httpx2.AsyncClient() as client,
            ):
                api = Api(gateway, runtime, client)
                listener = await listener_of(api)
                async with Background(listener.listen()) as listening:
                    await tell(api, 1, 10)
                    await wait_until(lambda: len(listener.events) == 10)
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(2.5)  # longer than a producer's patience
                    async with asyncio.timeout(2.5):
                        answer = await client.get(f"{api.base}/stats", headers=auth(listener))
                    assert server.url.rpartition(":")[2] not in problem(answer, 503)["detail"]
                    assert (await client.get(f"{gateway.url}/livez")).status_code == 200
                    assert (await client.get(f"{gateway.url}/readyz")).status_code == 503
                    await asyncio.to_thread(server.restart)
                    await tell(api, 11, 20)
                    await wait_until(lambda: numbers(listener)[-1] == 20, 20)
                    assert not listening.done()
            kept = [n for n in numbers(listener) if n > 0]
            assert kept == sorted(set(kept))
            gaps = sum(e["data"]["missed"] for e in listener.events if e["type"] == "gap")
            assert len(kept) + gaps >= 20
            assert gateway.terminate() == 0
        finally:
            if gateway.process.poll() is None:
                gateway.kill()
            await store.link.close()


def auth(listener: Listener) -> dict[str, str]:
    """The header of a listener's token."""
    return {"Authorization": f"Bearer {listener.token}"}


async def test_positions_that_are_none(lonely: Api) -> None:
    """A wrong position is refused before a stream begins."""
    for position in ("yesterday", "1-", "-1", "1-2-3", "99999999999999999999-1"):
        problem(await lonely.ask("GET", "/events", params={"after": position}), 422)
        problem(await lonely.ask("GET", "/events", headers={"Last-Event-ID": position}), 422)


async def test_a_position_of_another_log(lonely: Api) -> None:
    """A client that comes from a Redis that was replaced is told so, and hears all that is kept."""
    await tell(lonely, 1, 5)
    listener = await listener_of(lonely, "")
    listener.last_id = "7-1000"
    await listener.listen_until(lambda: len(listener.events) == 6, "all that is kept is heard")
    assert listener.events[0]["type"] == "gap"
    assert numbers(listener)[1:] == [1, 2, 3, 4, 5]
