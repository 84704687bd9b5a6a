"""The link: each caller its own answer, across restarts, refusals and lost connections."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest
import pytest_asyncio
from redis import Redis
from redis.exceptions import ResponseError

from colony.errors import StoreIncompatible, StoreUnavailable
from colony.redis_server import EmbeddedRedis
from colony.store import Link
from colony.store.keys import prefix
from colony.store.scripts import SCRIPTS
from colony.testing import wait_until
from tests.store.kit import new_colony_id

PATIENCE = timedelta(seconds=1.5)
WITHIN = 2.0
"""Seconds within which a producer is told that Redis is away."""
SLACK = 1.0
"""What a busy machine may add to it."""

OpenLink = Callable[..., Link]


@pytest_asyncio.fixture
async def open_link() -> AsyncIterator[OpenLink]:
    """Opens links that are closed when the test ends."""
    links: list[Link] = []

    def open_one(url: str, patience: timedelta | None = PATIENCE) -> Link:
        links.append(Link(url, patience=patience))
        return links[-1]

    yield open_one
    await asyncio.gather(*(link.close() for link in links))


async def _unavailable(link: Link, *command: str) -> tuple[str, float]:
    """What a call that fails says, and how long it took to say so."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await link.call(*(command or ("PING",)))
    return str(caught.value), time.monotonic() - began


async def test_each_caller_gets_its_own_answer(redis_url: str, open_link: OpenLink) -> None:
    """A thousand calls at once on one connection: each its own value, and errors only to their own."""
    link = open_link(redis_url)
    key = new_colony_id()
    await link.call("SET", key, "text")
    calls = [
        link.call("INCR", key) if n % 10 == 0 else link.call("ECHO", str(n)) for n in range(1000)
    ]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await link.call("DEL", key)
    for n, answer in enumerate(answers):
        if n % 10 == 0:
            assert isinstance(answer, ResponseError), n
        else:
            assert answer == str(n)


@pytest.mark.parametrize("bad", ["\ud800", None, {"a": 1}, True])
async def test_what_cannot_be_sent_fails_alone(
    redis_url: str, open_link: OpenLink, bad: object
) -> None:
    """An argument that Redis cannot be sent is its caller's ValueError and disturbs nobody else."""
    link = open_link(redis_url)
    answers = await asyncio.gather(
        link.call("ECHO", "before"),
        link.call("ECHO", bad),
        link.call("ECHO", "after"),
        return_exceptions=True,
    )
    assert (answers[0], answers[2]) == ("before", "after")
    assert isinstance(answers[1], ValueError)


async def test_a_forgotten_script_is_loaded_again(
    own_redis: EmbeddedRedis, open_link: OpenLink
) -> None:
    """SCRIPT FLUSH between two calls is not noticed by any of many callers."""
    link = open_link(own_redis.url)
    register, key = SCRIPTS["register"], prefix("c")
    for _ in range(2):
        await link.call("SCRIPT FLUSH")
        answers = await asyncio.gather(
            *(link.script(register, key, ("id", "c", "schema", 1)) for _ in range(20))
        )
        assert answers == ["ok"] * 20


async def test_a_patient_link_outlasts_an_outage(
    own_redis: EmbeddedRedis, open_link: OpenLink
) -> None:
    """Without a limit to patience, what was asked while Redis was away is answered when it is back."""
    link = open_link(own_redis.url, None)
    await link.call("SET", "kept", "1")
    before = link.run_id
    own_redis.kill()
    asked = [asyncio.create_task(link.call("INCRBY", "kept", n)) for n in (1, 10, 100)]
    done, _ = await asyncio.wait(asked, timeout=0.5)
    assert not done
    await asyncio.to_thread(own_redis.restart)
    await asyncio.wait_for(asyncio.gather(*asked), 15)
    assert link.run_id != before


async def test_an_impatient_link_says_so_in_time(
    own_redis: EmbeddedRedis, open_link: OpenLink
) -> None:
    """Redis is gone: every caller knows within 2 s, however many ask and whenever they began."""
    password_url = own_redis.url.replace("redis://", "redis://user:secret@")
    link, other = open_link(own_redis.url), open_link(password_url)
    await link.call("PING")
    own_redis.kill()
    late = asyncio.create_task(_later(link, 0.7))
    results = await asyncio.gather(*(_unavailable(link) for _ in range(1000)), _unavailable(other))
    results.append(await late)
    assert max(took for _, took in results) < WITHIN + SLACK
    message = results[-2][0]
    assert f"redis://127.0.0.1:{own_redis.port}/0" in message
    assert "secret" not in message
    assert "COLONY_REDIS_URL" in message


async def _later(link: Link, seconds: float) -> tuple[str, float]:
    await asyncio.sleep(seconds)
    return await _unavailable(link)


async def test_a_frozen_redis_is_away_too(own_redis: EmbeddedRedis, open_link: OpenLink) -> None:
    """A server that takes connections and never answers is an error within 2 s; thawed, it is used."""
    link = open_link(own_redis.url)
    await link.call("PING")
    os.kill(own_redis.pid, signal.SIGSTOP)
    try:
        message, took = await _unavailable(link)
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)
    assert took < WITHIN + SLACK
    assert "cannot be reached" in message
    assert await link.call("ECHO", "thawed") == "thawed"


async def test_a_killed_connection_is_replaced(redis_url: str, open_link: OpenLink) -> None:
    """Calls go on being answered, each its own, while their connection is killed again and again."""
    link = open_link(redis_url)
    await link.call("CLIENT SETNAME", "victim")
    killed = 0

    async def kill() -> None:
        nonlocal killed
        with Redis.from_url(redis_url, decode_responses=True) as operator:
            for _ in range(10):
                for client in operator.client_list():
                    if client["name"] == "victim":
                        killed += operator.client_kill_filter(_id=client["id"])
                await link.call("CLIENT SETNAME", "victim")

    async def ask(n: int) -> None:
        for m in range(20):
            assert await link.call("ECHO", f"{n}-{m}") == f"{n}-{m}"

    await asyncio.gather(kill(), *(ask(n) for n in range(50)))
    assert killed >= 5


OLD = {
    "before 6.0": (b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n", "too old"),
    "before 6.2": (b"%1\r\n+proto\r\n:3\r\n", r"6\.0\.16"),
}


@pytest.mark.parametrize("age", OLD)
async def test_a_redis_that_is_too_old_is_refused(open_link: OpenLink, age: str) -> None:
    """A server before 6.2 is refused at once, with what is needed instead.

    No such server is at hand: a socket says what they say.
    """
    hello, said = OLD[age]
    open_here = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_here.add(writer)
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2].upper())
            body = b"redis_version:6.0.16\r\nrun_id:x\r\n"
            info = b"$%d\r\n%s\r\n" % (len(body), body)
            writer.write({b"INFO": info, b"HELLO": hello}.get(words[0], b"+OK\r\n"))
        writer.close()
        open_here.discard(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    link = open_link(f"redis://127.0.0.1:{port}/0", None)
    with pytest.raises(StoreIncompatible, match=f"is {said}.*; Colony needs 6.2 or newer"):
        await link.call("PING")
    await link.close()
    await wait_until(lambda: not open_here)
    server.close()


async def test_a_redis_that_refuses_to_write_says_why(
    own_redis: EmbeddedRedis, open_link: OpenLink
) -> None:
    """Out of memory and read-only are told apart, with the remedy, from a command and from a script."""
    link = open_link(own_redis.url)
    with Redis.from_url(own_redis.url) as operator:
        operator.config_set("maxmemory-policy", "noeviction")
        operator.config_set("maxmemory", "1")
        for message in await _refusals(link):
            assert "raise maxmemory" in message
        operator.config_set("maxmemory", "0")
        operator.execute_command("REPLICAOF", "127.0.0.1", "1")
        for message in await _refusals(link):
            assert "read-only replica" in message
        operator.execute_command("REPLICAOF", "NO", "ONE")
    assert await link.call("SET", "k", "v") is True


async def _refusals(link: Link) -> list[str]:
    said = [(await _unavailable(link, "SET", "k", "v"))[0]]
    with pytest.raises(StoreUnavailable) as caught:
        await link.script(SCRIPTS["tell"], prefix("c"), ("intake_paused", "", "{}"))
    return [*said, str(caught.value)]


async def test_closing_fails_those_who_wait(own_redis: EmbeddedRedis, open_link: OpenLink) -> None:
    """Nobody hangs on a link that was closed under them."""
    link = open_link(own_redis.url, None)
    own_redis.kill()
    asked = [asyncio.create_task(link.call("PING")) for _ in range(300)]
    await asyncio.sleep(0)
    await link.close()
    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    assert {type(a) for a in answers} == {StoreUnavailable}


async def test_a_database_that_does_not_exist_is_told_at_once(
    own_redis: EmbeddedRedis, open_link: OpenLink
) -> None:
    """Not as a login that is wrong, and not after all patience."""
    link = open_link(own_redis.url.rpartition("/")[0] + "/99", timedelta(minutes=1))
    message, took = await _unavailable(link)
    assert "no database of the number in the URL" in message
    assert took < WITHIN


async def test_a_redis_without_a_free_connection_is_told_apart(
    own_redis: EmbeddedRedis, open_link: OpenLink
) -> None:
    """It is there: nobody is told to start it. With a connection free, the link goes on."""
    with Redis.from_url(own_redis.url) as operator:
        before = operator.config_get("maxclients")["maxclients"]
        operator.config_set("maxclients", "1")
        link = open_link(own_redis.url)
        message, took = await _unavailable(link)
        assert "raise maxclients" in message
        assert "Start it" not in message
        assert took < WITHIN + SLACK
        operator.config_set("maxclients", before)
    assert await link.call("PING")
