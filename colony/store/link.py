"""The way to Redis: one pipelined connection for a whole event loop.

Callers await single commands. Whatever is asked for while a round trip is under way goes out
together in the next one, so a node with a thousand agents needs one connection, few system calls,
and never waits for a pool. Each command gets its own answer or its own error.

Every script gives the same answer to the same request (see `colony.store`), so after a lost
connection the unanswered commands are simply sent again: for `patience` seconds, then
`StoreUnavailable` says what was tried. `patience=None` never gives up: a node holds its writes
while Redis is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from colony.errors import StoreIncompatible, StoreUnavailable
from colony.store.scripts import Script

MINIMUM = (6, 2)
BATCH = 256
CONNECTION_LOST = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    OSError,
    asyncio.TimeoutError,
)
TRANSIENT_REPLIES = (
    redis_errors.BusyLoadingError,
    redis_errors.TryAgainError,
    redis_errors.MasterDownError,
)

Reply = Any
Command = tuple[Any, ...]


def safe_url(url: str) -> str:
    """The URL without its password, fit for messages and logs."""
    parts = urlsplit(url)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit(parts._replace(netloc=host, query=""))


class Link:
    """A pipelined connection that reconnects, of the event loop that uses it first.

    `run_id` is the identity of the server process as of the last (re)connection: when it changes,
    Redis was restarted.
    """

    def __init__(
        self,
        url: str,
        *,
        patience: timedelta | None,
        socket_timeout: timedelta = timedelta(seconds=5),
        connect_timeout: timedelta = timedelta(seconds=1),
    ) -> None:
        self.url = url
        self.run_id = ""
        self.server_version: tuple[int, ...] = ()
        self._patience = patience
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=64,
            timeout=socket_timeout.total_seconds(),
            socket_timeout=socket_timeout.total_seconds(),
            socket_connect_timeout=connect_timeout.total_seconds(),
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
        self._redis = Redis(connection_pool=pool)
        self._queue: deque[tuple[Command, asyncio.Future[Reply]]] = deque()
        self._flusher: asyncio.Task[None] | None = None
        self._greeted = False

    async def call(self, *command: Any) -> Reply:
        """One command, its reply. Raises `StoreUnavailable`, or redis-py's `ResponseError`."""
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._queue.append((command, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush(), name="colony-link")
        return await future

    async def script(self, script: Script, prefix: str, args: Iterable[Any]) -> Reply:
        """Run a script for the colony whose keys start with `prefix`."""
        command = (script.sha, 1, prefix, *args)
        try:
            return await self.call("EVALSHA", *command)
        except redis_errors.NoScriptError:
            await self.call("SCRIPT LOAD", script.text)
            return await self.call("EVALSHA", *command)

    @contextlib.asynccontextmanager
    async def pubsub(self) -> AsyncIterator[PubSub]:
        """A connection of its own for listening. Its errors are the listener's business."""
        pubsub = self._redis.pubsub()
        try:
            yield pubsub
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close all connections; commands still unanswered fail with `StoreUnavailable`."""
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        self._fail(list(self._queue), StoreUnavailable("the connection to Redis was closed"))
        self._queue.clear()
        await self._redis.aclose()

    async def _flush(self) -> None:
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                replies = await self._patiently([command for command, _ in batch])
            except BaseException as error:
                failure = error if isinstance(error, Exception) else StoreUnavailable("interrupted")
                self._fail(batch, failure)
                if not isinstance(error, Exception):
                    raise
                continue
            for (_, future), reply in zip(batch, replies, strict=True):
                _answer(future, reply, self.url)

    async def _patiently(self, commands: list[Command]) -> list[Reply]:
        loop = asyncio.get_running_loop()
        started, attempt = loop.time(), 0
        while True:
            try:
                if not self._greeted:
                    await self._greet()
                return await self._round_trip(commands)
            except (*CONNECTION_LOST, *TRANSIENT_REPLIES) as error:
                self._greeted = False
                attempt += 1
                pause = min(1.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0)
                waited = loop.time() - started
                if self._patience is not None and waited + pause > self._patience.total_seconds():
                    raise StoreUnavailable(
                        f"Redis at {safe_url(self.url)} cannot be reached "
                        f"({attempt} attempts in {waited:.1f} s, last: {error}). "
                        "Start it, or set COLONY_REDIS_URL to where it is"
                    ) from error
                await asyncio.sleep(pause)

    async def _round_trip(self, commands: list[Command]) -> list[Reply]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, TRANSIENT_REPLIES):
                raise reply
        return list(replies)

    async def _greet(self) -> None:
        info = await self._redis.info("server")
        version = tuple(int(n) for n in str(info["redis_version"]).split(".")[:2])
        if version < MINIMUM:
            raise StoreIncompatible(
                f"Redis at {safe_url(self.url)} is {info['redis_version']}; "
                f"Colony needs {'.'.join(map(str, MINIMUM))} or newer, or Valkey: upgrade it"
            )
        self.server_version = version
        self.run_id = str(info["run_id"])
        self._greeted = True

    @staticmethod
    def _fail(batch: Iterable[tuple[Command, asyncio.Future[Reply]]], error: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)


def _answer(future: asyncio.Future[Reply], reply: Reply, url: str) -> None:
    if future.done():
        return
    if not isinstance(reply, Exception):
        future.set_result(reply)
    elif isinstance(reply, redis_errors.OutOfMemoryError):
        future.set_exception(
            StoreUnavailable(
                f"Redis at {safe_url(url)} is out of memory and refuses to write: raise maxmemory, "
                "or keep fewer results (result_retention_max)"
            )
        )
    elif isinstance(reply, redis_errors.ReadOnlyError):
        future.set_exception(
            StoreUnavailable(
                f"Redis at {safe_url(url)} is a read-only replica: point COLONY_REDIS_URL at the primary"
            )
        )
    else:
        future.set_exception(reply)
