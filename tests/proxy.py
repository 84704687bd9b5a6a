"""A small TCP proxy on loopback, to stand between a node or a producer and its Redis.

    with Proxy(redis_url) as proxy:          # proxy.url is redis_url, through the proxy
        proxy.black_hole()                   # what a partition looks like from both ends
        proxy.open()                         # it heals: what was on its way arrives, late

=============  ================================================================================
open           bytes go through
delay(ms)      each way takes so long, however much is under way
black_hole     connections stay and new ones are accepted, no byte comes out at either end. What
               was sent meanwhile arrives when it heals, as TCP would send it again
mute           requests arrive, answers do not (until it heals): done, but nobody heard of it
reset          present connections and new ones end at once with a reset (RST)
refuse         present connections are reset, new ones refused; the port stays ours
cut            present connections are reset once; the mode stays
forget         present connections stay and never carry a byte again, as behind a firewall that has
               forgotten them; new ones are as the mode says
=============  ================================================================================

`lead_to` names another server for the connections to come.

It has a thread and an event loop of its own; every verb may be called from any thread, also from
a test that is a coroutine, and has taken effect when it returns. As a process (`at_a_distance`) it
takes nothing from who measures.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from subprocess import PIPE
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65536
CHUNKS_UNDER_WAY = 64
VERB_SECONDS = 10.0
RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class Mode(StrEnum):
    """What the proxy does with bytes."""

    OPEN = "open"
    BLACK_HOLE = "black hole"
    MUTE = "mute"
    RESET = "reset"
    REFUSE = "refuse"


class Proxy:
    """One listening port before one server. Use it as ``with``, or call `start` and `close`."""

    def __init__(self, upstream_url: str) -> None:
        parts = urlsplit(upstream_url)
        if parts.hostname is None or parts.port is None:
            raise ValueError(f"expected a URL with host and port, got {upstream_url!r}")
        self.mode = Mode.OPEN
        self.accepted = 0
        """How many connections were accepted so far."""
        self._parts = parts
        self._upstream = parts.hostname, parts.port
        self._delay = 0.0
        self._port = 0
        self._listening: asyncio.Server | None = None
        self._reserved: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._forgotten: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def port(self) -> int:
        """The port on 127.0.0.1, the same from `start` to `close`."""
        return self._port

    @property
    def url(self) -> str:
        """The server's URL, through the proxy."""
        user, at, _ = self._parts.netloc.rpartition("@")
        return urlunsplit(self._parts._replace(netloc=f"{user}{at}127.0.0.1:{self._port}"))

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    def start(self) -> Self:
        """Listen on a free port."""
        self._thread.start()
        self._do(self._listen)
        return self

    def close(self) -> None:
        """End all connections and the thread."""
        if self._loop.is_closed():
            return
        self._do(self._unlisten)
        self._do(self._cut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(VERB_SECONDS)
        if self._reserved is not None:
            self._reserved.close()
        self._loop.close()

    __enter__ = start

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # ---- the verbs

    def open(self) -> None:
        """Let bytes through, without delay; ends whatever mode there was."""
        self._set(Mode.OPEN, 0.0)

    def delay(self, milliseconds: float) -> None:
        """Let bytes through, each way at least so much later."""
        self._set(Mode.OPEN, milliseconds / 1000)

    def black_hole(self) -> None:
        """Let nothing through, and say nothing."""
        self._set(Mode.BLACK_HOLE, 0.0)

    def mute(self) -> None:
        """Let requests through and no answers."""
        self._set(Mode.MUTE, 0.0)

    def reset(self) -> None:
        """Reset what is connected and whatever connects."""
        self._set(Mode.RESET, 0.0)

    def refuse(self) -> None:
        """Reset what is connected, and refuse new connections."""
        self._set(Mode.REFUSE, 0.0)

    def cut(self) -> None:
        """Reset what is connected now."""
        self._do(self._cut)

    def forget(self) -> None:
        """Let what is connected now hang for ever."""
        self._do(self._forget)

    def lead_to(self, upstream_url: str) -> None:
        """Lead new connections to another server, as a name does after a failover."""
        parts = urlsplit(upstream_url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._upstream = parts.hostname, parts.port

    # ---- on the proxy's loop

    def _do(self, verb: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(verb(), self._loop).result(VERB_SECONDS)

    def _set(self, mode: Mode, delay: float) -> None:
        async def change() -> None:
            self.mode, self._delay = mode, delay
            self._changed.set()
            self._changed = asyncio.Event()
            if mode in (Mode.RESET, Mode.REFUSE):
                await self._cut()
            if mode is Mode.REFUSE:
                await self._unlisten()
            elif self._listening is None:
                await self._listen()

        self._do(change)

    async def _listen(self) -> None:
        server = self._reserved or self._bound()
        self._reserved = None
        self._listening = await asyncio.start_server(self._accept, sock=server)
        self._port = server.getsockname()[1]

    async def _unlisten(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            self._reserved = self._bound()  # bound and not listening: refuses, and keeps the port

    def _bound(self) -> socket.socket:
        bound = socket.socket(proto=socket.IPPROTO_TCP)  # or asyncio leaves Nagle's algorithm on
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", self._port))
        return bound

    async def _cut(self) -> None:
        ended = list(self._connections)
        for task in ended:
            for writer in self._connections[task]:
                _reset(writer)
            task.cancel()
        await asyncio.gather(*ended, return_exceptions=True)

    async def _forget(self) -> None:
        self._forgotten |= set(self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.mode is Mode.RESET:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = [writer]

        def unheard() -> bool:
            return self.mode is Mode.BLACK_HOLE or task in self._forgotten

        try:
            await self._through(unheard)
            server_reader, server_writer = await asyncio.open_connection(*self._upstream)
            self._connections[task].append(server_writer)
            await self._join(
                self._pump(reader, server_writer, unheard),
                self._pump(server_reader, writer, lambda: self.mode is Mode.MUTE or unheard()),
            )
        except (OSError, asyncio.CancelledError):
            pass  # either end is gone, or the connection was cut: the other end is closed below
        finally:
            self._forgotten.discard(task)
            for each in self._connections.pop(task):
                each.transport.abort()

    @staticmethod
    async def _join(*pumps: Coroutine[Any, Any, None]) -> None:
        """Until either direction has ended: Redis and its clients never close only one."""
        tasks = [asyncio.create_task(pump) for pump in pumps]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        held: Callable[[], bool],
    ) -> None:
        """In order, each chunk so long after it came. The end of a connection does not pass a black hole
        either."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_UNDER_WAY)

        async def take_in() -> None:
            data = b"not yet the end"
            while data:
                try:
                    data = await reader.read(CHUNK)
                except OSError:  # a reset is an end, too
                    data = b""
                await under_way.put((self._loop.time() + self._delay, data))

        taking = asyncio.create_task(take_in())
        try:
            while True:
                due, data = await under_way.get()
                if (left := due - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                await self._through(held)
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            taking.cancel()

    async def _through(self, held: Callable[[], bool]) -> None:
        while held():
            await self._changed.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):  # it was closed in this very moment
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    writer.transport.abort()


@contextmanager
def at_a_distance(url: str, milliseconds: float) -> Iterator[str]:
    """The URL of a server, so far away each way, by a proxy in a process of its own."""
    command = [sys.executable, "-m", "tests.proxy", url, str(milliseconds)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def main(arguments: list[str]) -> None:
    """``python -m tests.proxy URL MILLISECONDS``: print the URL, and stand there until stdin ends."""
    url, milliseconds = arguments
    with Proxy(url) as proxy:
        proxy.delay(float(milliseconds))
        print(proxy.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
