"""The nursery: one process that has imported what a node, a beat and a gateway import, and forks one
whenever a test wants it.

Importing takes them a second or two of a core, and the tests start hundreds: as forks they start in a tenth
of that. What a fork runs is what ``python -m workers …`` or ``colony …`` runs, with the environment, the
directory and the log it was given, in a session of its own. Tests of the command line, of the pools and of
chaos start their processes the long way.

    pytest ──{argv, env, cwd, log}──▶ nursery ──fork──▶ node
           ◀──{pid} … {pid, code}────
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from colony.testing import Node, Process, start_process

FORKED = ("workers", "colony.cli")
"""The modules that forks run."""
IMPORTED = (
    "workers.serve",
    *("celery.bin.celery", "flower.command", "kombu.matcher", "genai_prices.data"),
    *("colony.cli.app", "colony.gateway.app"),
)
"""What they are likely to need; none of it may read the environment or start a thread when it is
imported."""


class Nursery:
    """The side of the tests: starts the process when it is first asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Condition()
        self._codes: dict[int, int] = {}
        self._born: list[int] = []
        self._socket: socket.socket | None = None

    def start(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: Path
    ) -> Forked:
        """A node, once it is a process. Its log is there at once, as its readers expect."""
        log.touch()
        order = {
            "argv": list(argv),
            "env": dict(env),
            "cwd": str(cwd or Path.cwd()),
            "log": str(log),
        }
        with self._lock:
            if self._socket is None:
                self._open()
            assert self._socket is not None
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            with self._news:
                self._news.wait_for(lambda: self._born)
                return Forked(self, self._born.pop())

    def code(self, pid: int, timeout: float | None) -> int | None:
        """The exit code of a node; None while it runs."""
        with self._news:
            self._news.wait_for(lambda: pid in self._codes, timeout)
            return self._codes.get(pid)

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", "tests.nursery", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd=Path(__file__).parents[1],
                start_new_session=True,
            )
        self._socket = ours
        threading.Thread(target=self._listen, args=(ours,), daemon=True).start()

    def _listen(self, ours: socket.socket) -> None:
        with ours.makefile("r") as lines:
            for line in lines:
                told = json.loads(line)
                with self._news:
                    if "code" in told:
                        self._codes[told["pid"]] = told["code"]
                    else:
                        self._born.append(told["pid"])
                    self._news.notify_all()


class Forked:
    """A node of the nursery, with as much of `subprocess.Popen` as its tests use."""

    def __init__(self, nursery: Nursery, pid: int) -> None:
        self._nursery = nursery
        self.pid = pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self.poll()

    def poll(self) -> int | None:
        """Its exit code if it has ended."""
        return self._nursery.code(self.pid, 0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        code = self._nursery.code(self.pid, timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"node {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


NURSERY = Nursery()


def start(command: Sequence[str], env: Mapping[str, str], cwd: Path | None, log: Path) -> Process:
    """Nodes, beats and gateways as forks of the nursery, anything else, or with TEST_EXEC set, as a process
    that is new."""
    known = list(command[:2]) == [sys.executable, "-m"] and command[2] in FORKED
    if known and not os.environ.get("TEST_EXEC"):
        return NURSERY.start(command[2:], env, cwd, log)
    return start_process(command, env, cwd, log)


def pytest_configure() -> None:
    """Have the fleets of this run start their nodes here."""
    Node.start = staticmethod(start)


def serve(theirs: socket.socket) -> None:
    """The nursery itself: fork what is asked for, tell who has ended, end with the tests."""
    for module in IMPORTED:
        with contextlib.suppress(ImportError):
            __import__(module)
    gc.collect()
    gc.freeze()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    pending = b""
    while True:
        ready, _, _ = select.select([theirs.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_of_ends(theirs, children)
        if theirs.fileno() in ready:
            data = theirs.recv(1 << 20)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                pid = _fork(json.loads(line), theirs, (woken, wake))
                children.add(pid)
                theirs.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _tell_of_ends(theirs: socket.socket, children: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        children.discard(pid)
        told = {"pid": pid, "code": os.waitstatus_to_exitcode(status)}
        theirs.sendall(json.dumps(told).encode() + b"\n")


def _fork(order: dict[str, Any], theirs: socket.socket, ours: Sequence[int]) -> int:
    """The child's pid, once it leads a session of its own."""
    led, lead = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(led)
        _become(order, [theirs.detach(), *ours, lead], lead)
    os.close(lead)
    os.read(led, 1)
    os.close(led)
    return pid


def _become(order: dict[str, Any], unwanted: Sequence[int], lead: int) -> NoReturn:
    """Be the node that was ordered, to its end."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    os.write(lead, b"x")
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for each in (*unwanted, log, nothing):
        os.close(each)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    paths = order["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in (order["cwd"], *paths) if path]
    random.seed()
    module, *arguments = order["argv"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    raise SystemExit(0)  # out of `serve`: it ends as any interpreter does


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
