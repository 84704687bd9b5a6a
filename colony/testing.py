"""A fleet inside your tests: real Redis, real nodes as processes, a model that follows a script.

In ``conftest.py``: ``pytest_plugins = ["colony.testing"]``. Then::

    async def test_two_rows(fleet):
        async with fleet("my_colony:colony") as running:
            [worker] = await running.runtime.spawn("Fetch the rows")
            report = await running.runtime.wait_for_worker(worker, timeout=10)
            assert report.data == {"rows": 2}

The server is the embedded one, a fresh one for each fleet; ``COLONY_TEST_REDIS_URL`` names another,
whose database **is emptied** each time. `ScriptedModel` is in `colony.testing_model`.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

import pytest
from redis import Redis
from redis.exceptions import RedisError

from colony.errors import ColonyError
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.store.keys import COLONIES

START_SECONDS = 30.0
END_SECONDS = 20.0


async def wait_until(
    condition: Callable[[], Any | Awaitable[Any]], timeout: float = 10.0, *, what: str = "condition"
) -> Any:
    """Wait until `condition` (sync or async) is true and return its value; else fail, naming `what`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if loop.time() > until:
            raise AssertionError(
                f"{what} did not come true within {timeout:g} s (last value: {value!r})"
            )
        await asyncio.sleep(0.02)


@contextlib.contextmanager
def redis_for_tests() -> Iterator[str]:
    """The URL of an empty Redis: COLONY_TEST_REDIS_URL (emptied!), or a fresh embedded server."""
    named = os.environ.get("COLONY_TEST_REDIS_URL")
    if named:
        with Redis.from_url(named) as client:
            client.flushdb()
        yield named
    else:
        with EmbeddedRedis() as server:
            yield server.url


class Process(Protocol):
    """What a `Node` asks of its process; `subprocess.Popen` is one."""

    pid: int

    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...
    def terminate(self) -> None: ...


def start_process(
    command: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: Path
) -> Process:
    """A process in a session of its own, that writes to `log`."""
    with log.open("wb") as out:
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdout=out, stderr=out, start_new_session=True
        )


class Node:
    """One node as a process of its own, and the signals that can hit it. Its log is in `log`."""

    start: ClassVar[Callable[..., Process]] = staticmethod(start_process)
    """How nodes become processes; a test suite may know a faster way."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: Path
    ) -> None:
        self.log = log
        self.process = self.start(command, env, cwd, log)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL, the node and whatever children its pool has: as when the host dies."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP: alive but silent."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.killpg(self.process.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: take nothing more, end what runs, leave."""
        self.process.terminate()

    def wait(self, timeout: float = END_SECONDS) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(timeout)

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


_COLONY_IDS: dict[tuple[str, Path | None, frozenset[tuple[str, str]]], str] = {}
"""What a child process, which takes a second to import Colony, has said already."""


class Fleet:
    """Redis, nodes and a runtime for one definition. Use it as ``async with``.

    `settings` are environment variables for the nodes without their ``COLONY_`` (``lease="2"``).
    """

    def __init__(
        self,
        definition: str,
        *,
        nodes: int = 1,
        concurrency: int | None = None,
        pool: str = "asyncio",
        redis_url: str | None = None,
        cwd: Path | None = None,
        **settings: str,
    ) -> None:
        self.definition = definition
        self.nodes: list[Node] = []
        self.beats: list[Node] = []
        self.redis_url = redis_url or ""
        self._wanted, self._concurrency, self._pool, self._cwd = nodes, concurrency, pool, cwd
        self._settings = _variables(settings)
        self._stack = contextlib.AsyncExitStack()
        self._runtime: ColonyRuntime | None = None

    @property
    def runtime(self) -> ColonyRuntime:
        """The producer's face of the fleet."""
        if self._runtime is None:
            raise ColonyError("the fleet is not open: use it as 'async with'")
        return self._runtime

    @property
    def colony_id(self) -> str:
        """The colony's name, as its nodes have registered it."""
        return self._colony_id

    async def __aenter__(self) -> Self:
        try:
            if not self.redis_url:
                self.redis_url = self._stack.enter_context(redis_for_tests())
            self._logs = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self._stack.push_async_callback(self._end_nodes)
            await self._until_ready([self.start_node() for _ in range(self._wanted)])
            self._colony_id = await asyncio.to_thread(self._find_colony_id)
            self._runtime = await self._stack.enter_async_context(
                ColonyRuntime(self._colony_id, settings=self._producer_settings())
            )
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for node in self.nodes:
                sys.stderr.write(f"--- log of node {node.pid}\n{node.tail()}\n")
        await self._stack.aclose()

    async def add_nodes(self, count: int = 1, **settings: str) -> list[Node]:
        """Start nodes and wait until they are ready to claim. `settings` are for these nodes alone."""
        made = [self.start_node(**settings) for _ in range(count)]
        await self._until_ready(made)
        return made

    async def _until_ready(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            await wait_until(
                partial(self._is_ready, node), START_SECONDS, what=f"node {node.pid} is ready"
            )

    def start_node(self, **settings: str) -> Node:
        """Start one node, with settings of its own, and do not wait for it."""
        command = [sys.executable, "-m", "workers", self.definition, "--pool", self._pool]
        if self._concurrency is not None:
            command += ["--concurrency", str(self._concurrency)]
        env = self._env() | _variables(settings)
        node = Node(command, env, self._cwd, self._logs / f"node-{len(self.nodes)}.log")
        self.nodes.append(node)
        return node

    def start_beat(self, module: str = "colony.cli", *arguments: str) -> Node:
        """Start a beat; with `module`, that is run in place of ``colony beat``."""
        command = [sys.executable, "-m", module, *(arguments or ("beat", self.definition))]
        env = self._env() | {"COLONY_APP": self.definition}
        if "COLONY_HEALTH_PORT" in self._settings:
            del env["COLONY_HEALTH_PORT"]  # the node's
        beat = Node(command, env, self._cwd, self._logs / f"beat-{len(self.beats)}.log")
        self.beats.append(beat)
        return beat

    def _is_ready(self, node: Node) -> bool:
        if node.process.poll() is not None:
            raise AssertionError(
                f"node {node.pid} ended with {node.process.returncode}:\n{node.tail()}"
            )
        return " ready." in node.tail(200)

    async def _end_nodes(self) -> None:
        processes = [*self.beats, *self.nodes]
        for node in processes:
            if node.process.poll() is None:
                node.thaw()
                node.terminate()
        await asyncio.gather(*(asyncio.to_thread(self._end_node, node) for node in processes))

    @staticmethod
    def _end_node(node: Node) -> None:
        try:
            node.wait()
        except subprocess.TimeoutExpired:
            node.kill()

    def _env(self) -> dict[str, str]:
        path = os.pathsep.join(p for p in [str(self._cwd or Path.cwd()), *sys.path] if p)
        return {
            **os.environ,
            "COLONY_REDIS_URL": self.redis_url,
            "COLONY_STATE_DIR": str(self._logs),
            "PYTHONPATH": path,
            **self._settings,
        }

    def _producer_settings(self) -> Settings:
        given = {
            name.removeprefix("COLONY_").lower(): value for name, value in self._settings.items()
        }
        return Settings(**{"redis_url": self.redis_url, **given})  # type: ignore[arg-type]

    def _find_colony_id(self) -> str:
        """What the first nodes have registered, if that is all that Redis knows; else a child is asked."""
        names: set[str] = set()
        if self._wanted:
            with contextlib.suppress(RedisError), _client(self.redis_url) as redis:
                names = redis.smembers(COLONIES)
        return names.pop() if len(names) == 1 else self._ask_colony_id()

    def _ask_colony_id(self) -> str:
        """Asked once for all fleets of one definition and one environment of theirs."""
        asker = self.definition, self._cwd, frozenset(self._settings.items())
        if asker not in _COLONY_IDS:
            _COLONY_IDS[asker] = self._load_colony_id()
        return _COLONY_IDS[asker]

    def _load_colony_id(self) -> str:
        code = "import sys; from colony.definition import load_colony; print(load_colony(sys.argv[1]).name)"
        asked = subprocess.run(
            [sys.executable, "-c", code, self.definition],
            env=self._env(),
            cwd=self._cwd,
            capture_output=True,
            check=False,
            text=True,
        )
        if asked.returncode:
            raise ColonyError(f"{self.definition!r} does not load:\n{asked.stderr}")
        return asked.stdout.strip()


def _client(url: str) -> Redis:
    return Redis.from_url(url, decode_responses=True, socket_timeout=2)


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"COLONY_{name.upper()}": value for name, value in settings.items()}


@pytest.fixture
def colony_redis() -> Iterator[str]:
    """The URL of an empty Redis for one test."""
    with redis_for_tests() as url:
        yield url


@pytest.fixture
def fleet() -> type[Fleet]:
    """The `Fleet` class: ``async with fleet("module:colony") as running``."""
    return Fleet
