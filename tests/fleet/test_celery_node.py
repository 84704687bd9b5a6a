"""Producers that have neither Python nor anything of ours: Node.js with `celery-node`, and `redis-cli`."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.doorbell import SPAWN, SPAWN_BATCH
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once, statuses
from workers.intake import tasks

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

ROOT = Path(__file__).parents[2]
MODULES = ROOT / ".venv/celerynode/node_modules"
INTAKE = "colony.basic.intake"
PRODUCER = """
const celery = require("celery-node");
const [url, queue, calls] = process.argv.slice(1);
const client = celery.createClient(url, url, queue);
const told = error => ({ error: error.message, type: error.exc_type, reason: error.exc_message });
const sent = JSON.parse(calls).map(([task, args, kwargs, id]) =>
  client.sendTask(task, args, kwargs, id).get(15000, 50).catch(told));
Promise.all(sent).then(results => {
  console.log(JSON.stringify(results));
  process.exit();  // its disconnect() trips over its own polling
});
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """One node."""
    async with Fleet("tests.definitions:basic") as fleet:
        yield fleet


def absent(reason: str) -> NoReturn:
    """Skip on somebody's laptop; in CI there is no excuse."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI must run these tests: {reason}")
    pytest.skip(reason)


@pytest.fixture
def node() -> str:
    """Node.js with celery-node beside it."""
    found = shutil.which("node")
    if found is None:
        absent("there is no node on PATH: install Node 20 or newer, then run make celerynode")
    if not (MODULES / "celery-node").exists():
        absent(f"{MODULES.relative_to(ROOT)}/celery-node is missing: run make celerynode")
    return str(found)


async def produce(node: str, fleet: Fleet, *calls: list[Any]) -> list[Any]:
    """What a process of Node.js is told for each call: task, args, kwargs, and the task id if it matters."""
    done = await asyncio.to_thread(
        subprocess.run,
        [node, "-e", PRODUCER, fleet.redis_url, INTAKE, json.dumps(calls)],
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[Any] = json.loads(done.stdout)
    return results


async def test_node_js_spawns(running: Fleet, node: str) -> None:
    """A service in JavaScript spawns a worker and a batch, and is told the ids; each reports once."""
    one, batch = await produce(
        node,
        running,
        [SPAWN, ["fetch"], {"data": {"from": "JavaScript ✓"}, "deadline_seconds": 60}],
        [SPAWN_BATCH, [], {"tasks": ["fetch", {"task": "echo"}], "policy": "all"}],
    )
    assert (len(one["worker_ids"]), one["batch_id"]) == (1, None)
    joined = await running.runtime.wait_for_batch(batch["batch_id"], timeout=15)
    assert joined
    assert [member.worker_id for member in joined.members] == batch["worker_ids"]
    ids = [*one["worker_ids"], *batch["worker_ids"]]
    reports = await running.runtime.wait_for_worker_reports(ids, timeout=15)
    assert statuses(reports) == {ReportStatus.SUCCESS: 3}
    await assert_told_once(running.runtime, ids)
    record = await running.runtime.get_worker(one["worker_ids"][0])
    assert record
    assert record.data == {"from": "JavaScript ✓"}


async def test_node_js_is_told_what_is_wrong(running: Fleet, node: str) -> None:
    """A refused task fails with the type and the words of the error; the next call is served."""
    bad, good = await produce(node, running, [SPAWN, [], {"taks": "fetch"}], [SPAWN, ["fetch"], {}])
    assert (bad["error"], bad["type"]) == ("FAILURE", "InvalidTask")
    assert "task is missing" in str(bad["reason"])
    assert len(good["worker_ids"]) == 1


async def test_node_js_retries_with_its_own_id(running: Fleet, node: str) -> None:
    """Who is not sure sends the same task id again, from another process too: the same worker."""
    call = [SPAWN, ["fetch"], {}, "4a0b2c5e-from-node"]
    [first, second] = await produce(node, running, call, call)
    [third] = await produce(node, running, call)
    assert first == second == third
    await running.runtime.wait_for_worker_reports(first["worker_ids"], timeout=15)
    await assert_told_once(running.runtime, first["worker_ids"])


async def test_redis_cli_pushes_the_documented_message(running: Fleet) -> None:
    """A shell is enough: the JSON of the documentation, pushed with redis-cli, is a worker."""
    cli = shutil.which("redis-cli")
    if cli is None:
        absent("there is no redis-cli on PATH (test_intake pushes the same with a client)")
    assert tasks.__doc__
    message = tasks.__doc__.split("::\n\n")[1].split("\n\n")[0]
    accepted = await _accepted(running)
    push = [cli, "-u", running.redis_url, "LPUSH", INTAKE, message]
    await asyncio.to_thread(subprocess.run, push, check=True, capture_output=True)

    async def one_more() -> bool:
        return await _accepted(running) > accepted

    await wait_until(one_more, 20, what="the worker of the message is accepted")


async def _accepted(running: Fleet) -> int:
    return (await running.runtime.get_stats()).totals.get("accepted", 0)
