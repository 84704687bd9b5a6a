"""A real Redis, real `celery worker` processes, and waiting on conditions."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.states import READY_STATES
from redis import Redis

from colony.redis_server import EmbeddedRedis

Send = Callable[..., "Sent"]
HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def until(condition: Callable[[], Any], seconds: float = 20.0, what: str = "") -> Any:
    """The first true value of `condition`, which is asked every few milliseconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)
    return value


class Sent:
    """A sent task. Reads its result key; Celery's AsyncResult subscribes, and fails in `__del__`
    when the server has gone by then."""

    def __init__(self, client: Celery, id: str) -> None:
        self.client, self.id = client, id

    def meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = self.client.backend.get_task_meta(self.id)
        return meta

    @property
    def state(self) -> str:
        return str(self.meta()["status"])

    def get(self, seconds: float = 20.0) -> Any:
        """The result, raised if it is an error."""
        meta = until(lambda: (m := self.meta())["status"] in READY_STATES and m, seconds, self.id)
        if isinstance(meta["result"], BaseException):
            raise meta["result"]
        return meta["result"]


class Node:
    """One `celery worker` process."""

    def __init__(self, client: Celery, name: str, log: Path, command: list[str], conf: str) -> None:
        self.client, self.name, self.log = client, name, log
        environment = os.environ | {
            "POOL_REDIS": client.conf.broker_url,
            "POOL_CONF": conf,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdout=output, stderr=subprocess.STDOUT
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ready(self) -> "Node":
        until(lambda: self._gone() or " ready." in self.text(), what=f"{self.name} ready")
        assert self.process.poll() is None, self.text()
        return self

    def _gone(self) -> bool:
        return self.process.poll() is not None

    def ask(self, question: str) -> Any:
        """What `celery inspect <question>` answers."""
        inspect = self.client.control.inspect(destination=[self.name], timeout=5.0, limit=1)
        answer = until(getattr(inspect, question), what=question)
        return answer[self.name]

    def pool(self) -> dict[str, Any]:
        pool: dict[str, Any] = self.ask("stats")["pool"]
        return pool

    def running(self, count: int) -> None:
        until(lambda: self.pool()["running"] == count, 60, f"{count} running")

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, seconds: float = 20.0) -> int:
        return self.process.wait(seconds)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(append_only=False) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: EmbeddedRedis) -> Iterator[Celery]:
    """Sends tasks by name, as a producer does; knows none of them."""
    app = Celery("client", broker=server.url, backend=server.url, set_as_current=False)
    app.backend.on_task_call = app.backend.remove_pending_result = lambda *_: None  # see Sent
    yield app
    app.close()


@pytest.fixture(scope="module")
def store(server: EmbeddedRedis) -> Iterator["Redis"]:
    with Redis.from_url(server.url, decode_responses=True) as connection:
        yield connection


@pytest.fixture
def send(client: Celery) -> Send:
    """`send("echo", 1, soft_time_limit=2)` sends the task pool.echo."""

    def send(name: str, *args: Any, **options: Any) -> Sent:
        return Sent(client, client.send_task(f"pool.{name}", args, **options).id)

    return send


@pytest.fixture(scope="module")
def nodes(
    client: Celery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Node]]:
    """`nodes(concurrency=50, pool="solo", some_setting=…)` starts a node; all end with the module.

    Waiting messages of earlier nodes are dropped first: those nodes are ended.
    """
    started: list[Node] = []
    numbers = itertools.count(1)

    def start(concurrency: int = 200, pool: str = "", **settings: Any) -> Node:
        end(started)
        client.control.purge()
        name, log = f"n{next(numbers)}@test", tmp_path_factory.mktemp("node") / "node.log"
        command = [sys.executable, "-m", "celery", "-A", "pool_app", "worker", "-n", name]
        command += ["--without-mingle", "--without-gossip", "-l", "INFO", "-c", str(concurrency)]
        command += ["-P", pool] if pool else []
        node = Node(client, name, log, command, json.dumps(settings))
        started.append(node)
        return node.ready()

    yield start
    end(started)


def end(started: Iterable[Node]) -> None:
    for node in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            node.end()
