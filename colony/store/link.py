"""The way to Redis: one pipelined connection for a whole event loop.

Callers await single commands. Whatever is asked for while a round trip is under way goes out
together in the next one, so a node with a thousand agents needs one connection, few system calls,
and never waits for a pool. Each command gets its own answer or its own error.

Every script gives the same answer to the same request (see `colony.store`), so after a lost
connection the unanswered commands are simply sent again: each for `patience` after it was asked or
Redis was last heard, then `StoreUnavailable` says what was tried. `patience=None` never gives up:
a node holds its writes while Redis is away, or refuses them (`colony.store.trouble`), and says so in
its log. With patience a refusal is raised at once: it is the answer, and waiting would be a guess.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from redis import exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from colony.errors import (
    StoreDenied,
    StoreIncompatible,
    StoreReadOnly,
    StoreUnavailable,
    StoreUntrusted,
)
from colony.sizes import utf8
from colony.store.scripts import SCRIPTS, Script
from colony.store.trouble import trouble_of

log = logging.getLogger("colony.link")

MINIMUM = (6, 2)
BATCH = 256
LEAST_SECONDS = 0.25
"""What an attempt is given at least, also when patience runs out."""
COMPLAIN_SECONDS = 5.0
"""How often a link that never gives up says why it waits."""
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

T = TypeVar("T")
Reply = Any
Command = tuple[Any, ...]
Asked = tuple[float, Command, asyncio.Future[Reply]]
"""When it was asked (loop time), what, and who waits for the answer."""


def safe_url(url: str) -> str:
    """The URL without its password, fit for messages and logs."""
    parts = urlsplit(url)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit(parts._replace(netloc=host, query=""))


def user_of(url: str) -> str:
    """Whom a URL makes us in Redis' eyes."""
    return unquote(urlsplit(url).username or "") or "default"


def _named(command: Command) -> str:
    """What a command is called in messages: of a script, the transition."""
    if command[0] not in ("EVALSHA", "EVAL"):
        return f"the command {str(command[0]).lower()!r}"
    text = command[1].decode()
    name = next((s.name for s in SCRIPTS.values() if text in (s.sha, s.text)), "unknown")
    return f"a command of the script {name!r}"


@contextlib.contextmanager
def _closed_is_lost() -> Iterator[None]:
    """uvloop says RuntimeError where one writes to a connection that the other end has reset."""
    try:
        yield
    except RuntimeError as error:
        if "handler is closed" not in str(error):
            raise
        raise ConnectionError("the connection was closed by the other end") from error


async def heeding(sending: Awaitable[T]) -> T:
    """Await something that redis-py sends, and be cancelled if that was asked for meanwhile. It sends in
    `asyncio.wait_for`, which before Python 3.12 loses a cancellation that comes as it returns
    (python/cpython#96764): who listened would do so for ever, and who closes would wait for that."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    sent = await sending
    if task and task.cancelling() > before:
        raise asyncio.CancelledError
    return sent


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
        self._queue: deque[Asked] = deque()
        self._heard = 0.0
        self._flusher: asyncio.Task[None] | None = None
        self._greeted = False
        self._was_read_only = False
        self._troubled_at: float | None = None
        self._complained_at = -COMPLAIN_SECONDS

    async def call(self, *command: Any) -> Reply:
        """One command, its reply. Raises `StoreUnavailable`, or redis-py's `ResponseError`; what
        cannot be sent is a `ValueError` here (`InvalidTask` for half of a surrogate pair) and disturbs
        nobody else."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._queue.append((loop.time(), _sendable(command), future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush(), name="colony-link")
        return await future

    async def script(self, script: Script, prefix: str, args: Iterable[Any]) -> Reply:
        """Run a script for the colony whose keys start with `prefix`.

        A server that does not know it is sent its text and runs it in one command: between two, another
        server may have taken its place.
        """
        command = (1, prefix, *args)
        try:
            return await self.call("EVALSHA", script.sha, *command)
        except redis_errors.NoScriptError:
            return await self.call("EVAL", script.text, *command)

    @contextlib.asynccontextmanager
    async def pubsub(self) -> AsyncIterator[PubSub]:
        """A connection of its own for listening. Its errors are the listener's business."""
        pubsub = self._redis.pubsub()
        try:
            with _closed_is_lost():
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
        await self._redis.connection_pool.disconnect()  # ours: redis-py leaves a given pool open

    async def _flush(self) -> None:
        loop, attempt = asyncio.get_running_loop(), 0
        trouble: StoreUnavailable | None = None  # what it last said of itself; silence says less
        while self._queue:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            try:
                until = self._until(batch[0], loop.time() + LEAST_SECONDS)
                async with asyncio.timeout_at(until):
                    if not self._greeted:
                        await self._greet()
                    replies = await self._round_trip([command for _, command, _ in batch])
            except StoreIncompatible as error:  # a ConnectionError too, but waiting cannot mend it
                self._fail(batch, error)
            except (*CONNECTION_LOST, *TRANSIENT_REPLIES) as error:
                self._greeted = False
                attempt += 1
                trouble = self._trouble(error) or trouble
                if trouble is not None and _is_final(trouble) and self._patience is not None:
                    self._fail(batch, trouble)
                    continue
                self._queue.extendleft(reversed(batch))
                await self._wait(attempt, trouble, error)
            except BaseException as error:
                failure = error if isinstance(error, Exception) else StoreUnavailable("interrupted")
                self._fail(batch, failure)
                if not isinstance(error, Exception):
                    raise
            else:
                refused = self._answer(batch, replies)
                self._heard = loop.time()
                await self._follow(refused)
                trouble = None
                if refused is None or self._patience is not None:
                    attempt = 0
                    self._complain_no_more()
                else:
                    attempt += 1
                    await self._wait(attempt, refused, refused)

    async def _wait(
        self, attempt: int, trouble: StoreUnavailable | None, error: BaseException
    ) -> None:
        """The pause before the next attempt. Those whose patience ends before it are told now."""
        now = asyncio.get_running_loop().time()
        pause = min(1.0, 0.05 * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.0)
        if attempt > 1:  # the first may have failed for our own busy loop
            self._give_up_overdue(now + pause, attempt, trouble, error)
        if self._patience is None:
            self._complain(now, trouble, error)
        await asyncio.sleep(pause)

    async def _follow(self, refused: StoreUnavailable | None) -> None:
        """The name of a server that takes no writes may lead to another by now: connect anew. Once
        writes are taken, the listeners' connections, which may be with the old one, are made anew."""
        if isinstance(refused, StoreReadOnly):
            self._greeted, self._was_read_only = False, True
            await self._redis.connection_pool.disconnect(inuse_connections=False)
        elif self._was_read_only:
            self._was_read_only = False
            await self._redis.connection_pool.disconnect()

    def _complain(self, now: float, trouble: StoreUnavailable | None, error: BaseException) -> None:
        if self._troubled_at is None:
            self._troubled_at = now
        elif now - max(self._troubled_at, self._complained_at) > COMPLAIN_SECONDS:
            self._complained_at = now
            what = trouble or f"Redis at {safe_url(self.url)} is away ({error or 'no answer'})"
            log.warning(
                "%s; %d commands are held, for %.0f s so far",
                what,
                len(self._queue),
                now - self._troubled_at,
            )

    def _complain_no_more(self) -> None:
        if self._troubled_at is not None and self._complained_at > self._troubled_at:
            log.warning("Redis at %s answers again: what was held is sent", safe_url(self.url))
        self._troubled_at = None

    def _answer(self, batch: list[Asked], replies: list[Reply]) -> StoreUnavailable | None:
        """Hand out the replies; returns the trouble that may pass, if there was any. Where nobody's
        patience ends, what was refused for it is queued again."""
        held: list[Asked] = []
        met: StoreUnavailable | None = None
        for asked, reply in zip(batch, replies, strict=True):
            future = asked[2]
            if future.done():
                continue
            trouble = (
                self._trouble(reply, _named(asked[1])) if isinstance(reply, Exception) else None
            )
            if _may_pass(trouble):
                met = trouble
                if self._patience is None:
                    held.append(asked)
                    continue
            if isinstance(reply, Exception):
                future.set_exception(trouble or reply)
            else:
                future.set_result(reply)
        self._queue.extendleft(reversed(held))
        return met

    def _until(self, asked: Asked, least: float = 0.0) -> float | None:
        """When patience for a command runs out: it begins anew whenever Redis was heard."""
        if self._patience is None:
            return None
        return max(least, max(asked[0], self._heard) + self._patience.total_seconds())

    def _give_up_overdue(
        self,
        now: float,
        attempt: int,
        trouble: StoreUnavailable | None,
        error: BaseException,
    ) -> None:
        """Fail those whose patience would be over at the next attempt; the queue is in order."""
        while self._queue:
            until = self._until(self._queue[0])
            if until is None or until >= now:
                return
            asked = self._queue.popleft()
            if trouble is not None:
                self._fail([asked], trouble)
                continue
            waited = asyncio.get_running_loop().time() - asked[0]
            failure = StoreUnavailable(
                f"Redis at {safe_url(self.url)} cannot be reached "
                f"({attempt} attempts in {waited:.1f} s, last: {str(error) or 'no answer'}). "
                f"{self._remedy(error)}"
            )
            failure.__cause__ = error
            self._fail([asked], failure)

    def _trouble(self, error: BaseException, command: str = "") -> StoreUnavailable | None:
        """What kind of refusal an error is; None when it is something else."""
        if isinstance(error, StoreUnavailable):
            return error
        return trouble_of(error, safe_url(self.url), user=user_of(self.url), command=command)

    def _remedy(self, error: BaseException) -> str:
        """What may help. One side that speaks TLS to one that does not is cut off, or hears nothing."""
        secure = self.url.startswith("rediss:")
        if "reset by peer" in str(error) or "closed by server" in str(error):
            if secure:
                return "It may want a certificate of its clients: COLONY_REDIS_TLS_CERT and …_KEY"
            return "It may speak TLS alone: rediss:// in COLONY_REDIS_URL"
        plain = " (redis:// if it does not speak TLS)" if secure else ""
        return f"Start it, or set COLONY_REDIS_URL to where it is{plain}"

    async def _round_trip(self, commands: list[Command]) -> list[Reply]:
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with _closed_is_lost():
            replies = await heeding(pipeline.execute(raise_on_error=False))
        for reply in replies:
            if isinstance(reply, TRANSIENT_REPLIES):
                raise reply
        return list(replies)

    async def _greet(self) -> None:
        try:
            with _closed_is_lost():
                info = await heeding(self._redis.info("server"))
        except redis_errors.ResponseError as error:
            if "HELLO" not in str(error):
                raise self._trouble(error, "the command 'info'") or error from error
            raise self._too_old("too old to know HELLO") from error  # before 6.0
        version = tuple(int(n) for n in str(info["redis_version"]).split(".")[:2])
        if version < MINIMUM:
            raise self._too_old(str(info["redis_version"]))
        self.server_version = version
        self.run_id = str(info["run_id"])
        self._greeted = True

    def _too_old(self, found: str) -> StoreIncompatible:
        return StoreIncompatible(
            f"Redis at {safe_url(self.url)} is {found}; "
            f"Colony needs {'.'.join(map(str, MINIMUM))} or newer, or Valkey: upgrade it"
        )

    @staticmethod
    def _fail(batch: Iterable[Asked], error: Exception) -> None:
        for _, _, future in batch:
            if not future.done():
                future.set_exception(error)


def _sendable(command: Command) -> Command:
    """Text as UTF-8 here, at its asker's; the command's name stays text, redis-py reads it."""
    for argument in command:
        if isinstance(argument, bool) or not isinstance(argument, str | bytes | int | float):
            raise ValueError(f"{command[0]}: {argument!r} cannot be sent to Redis")
    name, *arguments = command
    try:
        return (name, *(a.encode() if isinstance(a, str) else a for a in arguments))
    except UnicodeEncodeError as error:
        utf8(f"{error.object[:200]!r} for Redis", error.object)
        raise


def _is_final(trouble: StoreUnavailable) -> bool:
    """Nothing that time mends: another try would end the same."""
    return isinstance(trouble, StoreDenied | StoreUntrusted)


def _may_pass(trouble: StoreUnavailable | None) -> bool:
    """A command that this user may not give is not given later either."""
    return trouble is not None and not _is_final(trouble)
