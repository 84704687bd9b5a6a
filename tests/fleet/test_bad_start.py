"""What a user may get wrong when starting nodes is said in one line; what is right starts and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from colony import ReportStatus
from colony.client import ColonyClient
from colony.errors import UnknownColony
from colony.models import NodeInfo
from colony.testing import Node, redis_for_tests
from tests.fleet.helpers import beside_a_command

pytestmark = pytest.mark.fleet

NOWHERE = "redis://127.0.0.1:1/0"
BASIC = "tests.definitions:basic"
HERE = "tests.fleet.definitions"

BAD_STARTS: dict[str, tuple[str, list[str]]] = {
    "no colon": ("tests.definitions", ["tests.definitions", "module:attribute"]),
    "unknown module": ("no_such_module:colony", ["no_such_module"]),
    "unknown attribute": ("tests.definitions:bsaic", ["bsaic", "basic"]),
    "not a colony": ("tests.definitions:SCRIPTS", ["expected a Colony", "dict"]),
    "import error in it": (
        "tests.fleet.broken_import:colony",
        ["broken_import", "ValueError", "the file of prompts is empty"],
    ),
    "unknown provider": (f"{HERE}:unknown_model", ["openaii:gpt", "openai:gpt-5-mini"]),
    "missing key": (f"{HERE}:no_key", ["openai:gpt-5-mini", "OPENAI_API_KEY", "set"]),
    "unreachable Redis": (BASIC, ["127.0.0.1:1", "COLONY_REDIS_URL"]),
}


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    """A Redis for this module."""
    with redis_for_tests() as url:
        yield url


def environment(redis_url: str, **more: str) -> dict[str, str]:
    """This process's, without keys and settings of whoever runs the tests."""
    hidden = ("OPENAI_", "ANTHROPIC_", "COLONY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**kept, "COLONY_REDIS_URL": redis_url, **more}


def run(command: list[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command that should not take long."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=env,
        capture_output=True,
        check=False,
        text=True,
        timeout=60,
    )


T = TypeVar("T")


def wait_for(condition: Callable[[], T], what: str, seconds: float = 20.0) -> T:
    """Wait until `condition` gives something, and return it."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return found


def two_live(client: ColonyClient, without: int | None = None) -> list[NodeInfo]:
    """The nodes that hold a lease, once there are two of them."""
    try:
        live = [node for node in client.list_nodes() if node.lease_seconds > 0]
    except UnknownColony:
        return []
    live = [node for node in live if node.pid != without]
    return live if len(live) == 2 else []


def parent_of(pid: int) -> int:
    """The process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def end(node: Node) -> None:
    """Leave nothing behind, however the test ended."""
    if node.process.poll() is None:
        node.kill()


MAY_TAKE_SECONDS = 10.0
NODE, CLI, BEAT = ["workers"], ["colony.cli", "worker"], ["colony.cli", "beat"]
BY_CLI = ("unknown attribute", "missing key", "unreachable Redis")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *((NODE, name) for name in BAD_STARTS),
        *((CLI, name) for name in BY_CLI),
        (BEAT, "unreachable Redis"),
    ],
)
def test_a_bad_start_says_in_one_line_what_to_do(
    redis_url: str, command: list[str], name: str
) -> None:
    """Starting a node or a beat with a mistake exits 1 within seconds: one line, the remedy, no traceback."""
    definition, words = BAD_STARTS[name]
    url = NOWHERE if name == "unreachable Redis" else redis_url
    began = time.monotonic()
    ended = run([*command, definition], environment(url))
    if time.monotonic() - began > MAY_TAKE_SECONDS:  # are the cores taken?
        took, slower = beside_a_command(lambda: run([*command, definition], environment(url)))
        assert took < MAY_TAKE_SECONDS * slower
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert lines
    if command == NODE:  # the CLI wraps its line to the width of the terminal
        assert len(lines) == 1
    said = " ".join(ended.stderr.split())
    assert [word for word in words if word not in said] == [], said


def test_plain_celery_without_a_definition_says_so(redis_url: str) -> None:
    """`celery -A workers.app worker` without COLONY_APP: one clear line, exit code not 0."""
    ended = run(["celery", "-A", "workers.app", "worker"], environment(redis_url))
    assert ended.returncode != 0
    said = ended.stderr + ended.stdout
    assert "Traceback" not in said
    [line] = [line for line in said.splitlines() if line.strip()]
    assert "COLONY_APP" in line


def test_plain_celery_serves_a_definition(redis_url: str, tmp_path: Path) -> None:
    """`celery -A workers.app worker` with COLONY_APP runs workers, and leaves in order."""
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-l", "info"]
    node = Node(command, environment(redis_url, COLONY_APP=BASIC), None, tmp_path / "log")
    try:
        wait_for(lambda: " ready." in node.tail(200), "the node is ready")
        with ColonyClient("basic", redis_url=redis_url) as client:
            [worker] = client.spawn("echo")
            report = client.wait_for_worker(worker, timeout=10)
            assert report is not None
            assert (report.status, report.data) == (ReportStatus.SUCCESS, {"last": 2})
            told = client.events(worker_id=worker, after="0", follow=False)
            assert [event.type for event in told].count("subagent_report") == 1
            [info] = client.list_nodes()
            assert info.pid == node.pid
        node.terminate()
        assert node.wait() == 0
    finally:
        end(node)


def test_a_supervisor_keeps_its_nodes_and_ends_them(redis_url: str, tmp_path: Path) -> None:
    """--processes 2 starts two nodes, restarts one that is killed, and ends both on SIGTERM. It logs as they
    do, with what an operator looks for: the exit code."""
    command = [sys.executable, "-m", "workers", BASIC, "--processes", "2", "--concurrency", "5"]
    env = {**environment(redis_url), "COLONY_LOG_FORMAT": "json"}
    supervisor = Node(command, env, None, tmp_path / "log")
    try:
        with ColonyClient("basic", redis_url=redis_url) as client:
            first, second = wait_for(lambda: two_live(client), "two nodes")
            assert {parent_of(first.pid), parent_of(second.pid)} == {supervisor.pid}
            os.kill(first.pid, signal.SIGKILL)
            third, fourth = wait_for(
                lambda: two_live(client, without=first.pid), "the killed node is replaced"
            )
            assert second.pid in (third.pid, fourth.pid)
            ids = client.spawn("nap", count=10)
            assert {r.status for r in client.wait_for_worker_reports(ids, timeout=10)} == {
                ReportStatus.SUCCESS
            }
            assert len({client.get_worker(w).attempts[0].node for w in ids}) == 2  # type: ignore[union-attr]
            supervisor.terminate()
            assert supervisor.wait() == 0
            assert [n for n in client.list_nodes() if n.lease_seconds > 0] == []
        assert not any(Path(f"/proc/{node.pid}").exists() for node in (third, fourth))
        told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
        ended = f"node process {first.pid} ended with exit code -9, another is started"
        assert [line["level"] for line in told if line["event"] == ended] == ["warning"]
    finally:
        end(supervisor)
