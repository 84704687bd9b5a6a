"""`colony up --all`: everything answers, ends in order, and nothing is left, however it ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from colony.testing import wait_until
from tests.fleet.flower_kit import free_port
from tests.fleet.helpers import beside_a_command

pytestmark = pytest.mark.fleet

ROOT = Path(__file__).parents[2]
UP = [sys.executable, "-m", "colony.cli", "up", "colony.examples.survey:colony", "--all", "--json"]
MAY_TAKE_SECONDS = 10.0
TOOK: list[float] = []
"""How long each start took here. Other tests may have the cores: the fastest is what counts."""


class Up:
    """One `colony up --all`, and what it said."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process, self.log = process, log
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"colony up ended with {process.wait()}:\n{log.read_text()[-3000:]}"
        self.said: dict[str, str] = json.loads(line)

    def ask(self, path: str, data: dict[str, Any] | None = None, *, token: str = "") -> int:
        """The gateway's answer to a request."""
        return status(
            f"{self.said['gateway_url']}{path}", data, f"Bearer {token}" if token else None
        )

    def flower(self, path: str, password: str) -> int:
        """Flower's."""
        basic = base64.b64encode(f"{self.said['flower_user']}:{password}".encode()).decode()
        return status(f"{self.said['flower_url']}{path}", None, f"Basic {basic}")

    def parts(self) -> dict[int, str]:
        """The processes that were started for it, with their commands."""
        return {
            pid: command
            for pid, command in processes().items()
            if f"colony.bound {self.process.pid} " in command
            or f" 127.0.0.1:{self.said['redis_url'].rpartition(':')[2].partition('/')[0]}"
            in command
        }


def processes() -> dict[int, str]:
    """All processes of this machine, with their commands."""
    found = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            found[int(entry.name)] = b" ".join(words).decode(errors="replace")
    return found


def status(url: str, data: dict[str, Any] | None, authorization: str | None) -> int:
    """What a server answers."""
    request = urllib.request.Request(url, None if data is None else json.dumps(data).encode())
    request.add_header("Content-Type", "application/json")
    if authorization:
        request.add_header("Authorization", authorization)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@contextmanager
def up(tmp_path: Path, *more: str) -> Iterator[Up]:
    """A running one."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("COLONY_")}
    log = tmp_path / "up.log"
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(
            [*UP, *more], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=out, text=True
        )
    try:
        it = Up(process, log)
        TOOK.append(time.monotonic() - began)
        yield it
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


needs_proc = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks for processes in /proc"
)


@needs_proc
async def test_all_of_it_is_up_and_ends_in_order(tmp_path: Path) -> None:
    """Gateway and Flower answer those who may ask, on other ports where theirs are taken; Ctrl-C ends
    everything with exit code 0, in order. No secret is in the log."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # somebody else has it: as good
            taken.bind(("127.0.0.1", 5555))
            taken.listen()
        with up(tmp_path) as it:
            said, workers = it.said, f"/v1/colonies/{it.said['colony']}/workers"
            assert it.ask(workers, {"task": "Survey"}) == 401
            assert it.ask(workers, {"task": "Survey"}, token=said["gateway_token"]) == 202
            assert it.flower("/api/workers", "wrong") == 401
            assert it.flower("/api/workers", said["flower_password"]) == 200
            assert not said["flower_url"].endswith(":5555")
            assert len(it.parts()) == 5
            it.process.send_signal(signal.SIGINT)
            assert it.process.wait(30) == 0
            assert it.parts() == {}
            log = it.log.read_text()
    order = "Ended: gateway, then beat, then node, then Flower, then Redis."
    assert log.rstrip().endswith(order), log[-2000:]
    assert "Traceback" not in log
    assert said["gateway_token"] not in log
    assert said["flower_password"] not in log


async def test_people_are_told_the_addresses_and_how_to_come_in(tmp_path: Path) -> None:
    """What is printed without --json works as it stands; the port for probes is the node's."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("COLONY_")}
    env["COLONY_HEALTH_PORT"] = str(health := free_port())
    with (tmp_path / "up.log").open("w") as log:
        process = subprocess.Popen(
            UP[:-1], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        said = ""
        while "colony spawn" not in said:
            line = process.stdout.readline()
            assert line, f"it ended:\n{(tmp_path / 'up.log').read_text()[-3000:]}"
            said += line
        found = re.search(
            r"gateway +(?P<gateway>http://\S+).*?Bearer (?P<token>\S+).*?"
            r"Flower +(?P<flower>http://\S+) \(user (?P<user>\S+), password (?P<password>\S+)\)",
            said,
            re.DOTALL,
        )
        assert found is not None, said
        assert status(found["gateway"], None, f"Bearer {found['token']}") == 200
        login = base64.b64encode(f"{found['user']}:{found['password']}".encode()).decode()
        assert status(f"{found['flower']}/api/workers", None, f"Basic {login}") == 200
        ready = partial(status, f"http://127.0.0.1:{health}/readyz", None, None)
        await wait_until(lambda: ready() == 200, what="the node says that it is ready")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@needs_proc
async def test_nothing_is_left_of_one_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL of `colony up` ends whatever it has started."""
    with up(tmp_path) as it:
        assert len(it.parts()) == 5
        it.process.kill()
        await wait_until(lambda: not it.parts(), 10, what="nothing is left")


@needs_proc
async def test_one_that_dies_ends_the_rest(tmp_path: Path, colony_redis: str) -> None:
    """The gateway is killed: that is said, the rest ends in order, the exit code is 1, the token is void."""
    with up(tmp_path, "--redis-url", colony_redis) as it:
        [gateway] = [pid for pid, words in it.parts().items() if "colony.cli gateway" in words]
        os.kill(gateway, signal.SIGKILL)
        assert it.process.wait(30) == 1
        log = it.log.read_text()
        assert "the gateway ended by itself, with exit code -9: the rest is ended, too" in log
        assert [words for words in it.parts().values() if "colony.bound" in words] == []
        with Redis.from_url(colony_redis) as client:
            assert client.hlen("colony:{survey}:tokens") == 0


@needs_proc
async def test_it_is_up_soon(tmp_path: Path) -> None:
    """From the command to the addresses, when everything answers; on a machine as fast as it should be."""
    if not TOOK or min(TOOK) > MAY_TAKE_SECONDS:
        _up_and_down(tmp_path)
    if min(TOOK) > MAY_TAKE_SECONDS:  # are the cores taken?
        _, slower = beside_a_command(lambda: _up_and_down(tmp_path))
        assert TOOK[-1] <= MAY_TAKE_SECONDS * slower, TOOK


def _up_and_down(folder: Path) -> None:
    with up(folder):
        pass
