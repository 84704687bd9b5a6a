"""Members of a batch that are ended from outside, by Flower and by Celery's time limit: it joins."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from colony import ReportStatus
from colony.models import WorkerState
from colony.testing import Fleet, Node, wait_until
from tests.fleet.helpers import assert_at_rest, assert_told_once, records
from tests.fleet.tree_helpers import gates, joined, joins_told, statuses_of, until_states

pytestmark = pytest.mark.fleet

SUCCESS, STOPPED, TIMEOUT = ReportStatus.SUCCESS, ReportStatus.STOPPED, ReportStatus.TIMEOUT
TREES = "tests.fleet.tree_definitions:trees"


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def flower(fleet: Fleet, port: int, log: Path) -> Iterator[None]:
    """A Flower that watches the fleet, with its API open on loopback."""
    command = [sys.executable, "-m", "celery", "-b", fleet.redis_url, "flower"]
    command += ["--address=127.0.0.1", f"--port={port}"]
    env = {**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def ask(url: str, data: bytes | None = None) -> dict[str, object] | None:
    """Flower's answer; None while it has none."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=5) as answer:
            found: dict[str, object] = json.load(answer)
            return found
    except (urllib.error.URLError, ConnectionError):
        return None


async def test_a_member_that_is_terminated_in_flower(fleet: type[Fleet], tmp_path: Path) -> None:
    """Flower's API terminates one running member by its id: it alone is stopped, and the batch is joined."""
    with gates(tmp_path):
        async with fleet(TREES, concurrency=10) as running:
            api = f"http://127.0.0.1:{(port := free_port())}/api"
            with flower(running, port, tmp_path / "flower.log"):
                await wait_until(lambda: ask(f"{api}/workers"), 20, what="Flower knows the node")
                batch = await running.runtime.spawn_batch(["hold gate"] * 3)
                await until_states(running.runtime, batch, WorkerState.RUNNING)
                assert ask(f"{api}/task/revoke/{batch[1]}?terminate=true", b"") is not None
                report = await running.runtime.wait_for_worker(batch[1], timeout=10)
                assert report is not None
                assert report.status is STOPPED
                (tmp_path / "gate").touch()
                result = await joined(running.runtime, batch.id)
            assert statuses_of(result) == [SUCCESS, STOPPED, SUCCESS]
            assert len(await joins_told(running.runtime, batch.id)) == 1
            await assert_told_once(running.runtime, batch)
            await assert_at_rest(running.redis_url, "trees")


@pytest.mark.parametrize("pool", ["asyncio", "processes"])
async def test_a_member_past_its_hard_time_limit(
    fleet: type[Fleet], tmp_path: Path, pool: str
) -> None:
    """``celery worker --time-limit 1``: who takes longer ends as timeout, also where its process is killed
    for it; no death is counted, nothing is run again, and the batch is joined."""
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "-l", "info"]
    command += ["--time-limit", "1", "--concurrency", "4"]
    command += [] if pool == "asyncio" else ["-P", pool]
    # A child of Celery's may wait half a minute for its last result to be taken: the drain's grace ends that.
    async with fleet(TREES, nodes=0, app=TREES, drain_grace="2") as running:
        node = Node(command, running._env(), None, tmp_path / "node.log")
        try:
            await wait_until(lambda: " ready." in node.tail(200), 20, what="the node is ready")
            batch = await running.runtime.spawn_batch(["fetch", "rest", "fail"])
            result = await joined(running.runtime, batch.id, 30)
            [cut] = await records(running.runtime, [batch[1]])
            assert cut.report is not None
            assert (cut.report.error, cut.resurrections) == ("timeout", 0)
            assert statuses_of(result) == [SUCCESS, TIMEOUT, ReportStatus.FAILED]
            assert len(await joins_told(running.runtime, batch.id)) == 1
            await assert_told_once(running.runtime, batch)
            await assert_at_rest(running.redis_url, "trees")
        finally:
            node.terminate()
            node.wait()
