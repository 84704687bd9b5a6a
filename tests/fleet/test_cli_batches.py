"""The commands for batches and trees on a running node: what they print, and what they change."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SECONDS = 30


@dataclass(frozen=True, slots=True)
class Commands:
    """``colony …`` as processes, against one fleet."""

    redis_url: str

    def start(self, *arguments: str, stdin: str = "", stderr: int = subprocess.PIPE) -> Any:
        """A command that goes on; all of its stdin is given to it."""
        kept = {name: value for name, value in os.environ.items() if "COLONY_" not in name}
        kept.pop("COLUMNS", None)  # or a tree's lines are cut to that width, as on a screen
        env = kept | {"COLONY_REDIS_URL": self.redis_url, "TERM": "xterm"}
        process = subprocess.Popen(
            [sys.executable, "-m", "colony.cli", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=env,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        return process

    async def run(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """What a command prints that ends with this exit code."""
        process = self.start(*arguments, stdin=stdin)
        out, err = await asyncio.to_thread(process.communicate, timeout=SECONDS)
        assert process.returncode == code, f"{arguments} said:\n{out}{err}"
        return str(out)

    async def json(self, *arguments: str, stdin: str = "", code: int = 0) -> Any:
        """The same with --json."""
        return json.loads(await self.run(*arguments, "--json", stdin=stdin, code=code))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    """One node whose agents may spawn."""
    async with Fleet("tests.fleet.cli_definitions:family") as running:
        yield running


@pytest.fixture
def runtime(fleet: Fleet) -> ColonyRuntime:
    """The producer's face of the fleet."""
    return fleet.runtime


@pytest.fixture
def colony(fleet: Fleet) -> Commands:
    """The commands, against the fleet."""
    return Commands(fleet.redis_url)


async def is_told(runtime: ColonyRuntime, batch_id: str, arrived: int) -> None:
    """Wait until so many members of a batch are in."""

    async def are_in() -> bool:
        batch = await runtime.get_batch(batch_id)
        return batch is not None and batch.arrived >= arrived

    await wait_until(are_in, what=f"{arrived} members are in")


async def test_reports_are_printed_as_they_arrive(colony: Commands, runtime: ColonyRuntime) -> None:
    """With --wait the report of who is ready is there while another still works; Ctrl-C leaves the
    batch alone and says how to wait again."""
    waiting = colony.start("batch", "-", "--wait", stdin="sleep\nfetch\n")
    line = await asyncio.to_thread(waiting.stdout.readline)
    assert line.split()[0] == "success"
    assert "Fetched 5 rows" in line
    record = await runtime.get_worker(line.split()[1])
    assert record is not None
    assert record.batch_id is not None
    waiting.send_signal(signal.SIGINT)
    out, err = await asyncio.to_thread(waiting.communicate, timeout=SECONDS)
    assert (waiting.returncode, out) == (130, "")
    assert f"colony wait {record.batch_id}" in err
    batch = await runtime.get_batch(record.batch_id)
    assert batch is not None
    assert (batch.state, batch.arrived) == ("OPEN", 1)
    await runtime.stop_batch(record.batch_id)


@pytest.mark.parametrize(
    ("tasks", "options", "code", "said"),
    [
        ("fetch\ntext", [], 0, "2 success"),
        ("fetch\nfail\nfetch", [], 1, "2 success, 1 failed"),
        ("fail\nfetch\nsleep", ["--policy", "any"], 0, "1 success"),
        ("fetch\nfetch\nsleep", ["--first-n", "2"], 0, "2 success, 1 stopped"),
        ("fetch\nfail", ["--first-n", "2"], 1, "1 success, 1 failed"),
        ("fetch\nsleep", ["--deadline", "1s"], 1, "1 success, 1 timeout"),
    ],
)
async def test_the_exit_code_is_that_of_the_policy(
    colony: Commands, tasks: str, options: list[str], code: int, said: str
) -> None:
    """0 only if the batch has what its policy asks for; the last line tells how its members ended."""
    out = await colony.run("batch", "-", "--wait", *options, stdin=tasks, code=code)
    last = out.splitlines()[-1]
    assert "is joined" in last
    assert said in last


async def test_json_lines_name_the_task_of_each_report(colony: Commands) -> None:
    """With --wait --json each report is a line with its index; a time-out of the wait stops nobody."""
    arguments = ("batch", "-", "--wait", "--json", "--timeout", "2s")
    out = await colony.run(*arguments, stdin='"sleep"\n{"task": "fetch"}\n"fail"', code=1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert sorted((line["index"], line["status"]) for line in lines) == [
        (1, "success"),
        (2, "failed"),
    ]
    [batch_id] = {line["batch_id"] for line in lines}
    shown = await colony.json("show", batch_id)
    assert shown["members"][0]["state"] == "RUNNING"
    await colony.run("stop", batch_id)


async def test_the_bar_is_on_stderr_and_the_reports_on_stdout(colony: Commands) -> None:
    """Where only stderr is a terminal, it has the bar, and stdout every report without a trace of it."""
    screen, terminal = pty.openpty()
    waiting = colony.start("batch", "-", "--wait", stdin="nap\nfetch", stderr=terminal)
    os.close(terminal)

    def drawn() -> str:
        text = b""
        try:
            while piece := os.read(screen, 65536):
                text += piece
        except OSError:
            pass  # the other end is closed
        return text.decode()

    bar, (out, _) = await asyncio.gather(
        asyncio.to_thread(drawn), asyncio.to_thread(waiting.communicate, timeout=SECONDS)
    )
    os.close(screen)
    assert waiting.returncode == 0
    assert "2/2" in bar
    assert "\x1b" not in out
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["success", "success"]


async def test_stopped_waited_for_shown_and_retried(
    colony: Commands, runtime: ColonyRuntime
) -> None:
    """An open batch shows who is in; stopped, it is waited for and shown as joined; its retry is a new
    batch of what did not succeed, and only of that."""
    batch_id = (await colony.run("batch", "-", stdin="fetch\nsleep now\nfail it")).strip()
    await is_told(runtime, batch_id, 2)
    shown = await colony.json("show", batch_id)
    assert [m["state"] for m in shown["members"]] == ["COMPLETED", "RUNNING", "FAILED"]
    assert (shown["batch"]["state"], shown["batch"]["arrived"]) == ("OPEN", 2)
    assert "1 of its workers" in await colony.run("stop", batch_id)
    harvest = await colony.json("wait", batch_id, code=1)
    assert [r["status"] for r in harvest["reports"]] == ["success", "stopped", "failed"]
    assert harvest["batches"][0]["state"] == "JOINED"
    text = await colony.run("show", batch_id)
    assert "1 success, 1 failed, 1 stopped" in text
    again = await colony.json("retry", batch_id)
    tasks = [await runtime.get_worker(worker_id) for worker_id in again["workers"]]
    assert [record and record.task for record in tasks] == ["sleep now", "fail it"]
    await colony.run("stop", again["batch"])
    met = await colony.json("batch", "-", "--policy", "any", stdin="sleep\nfetch")
    assert "1 success" in await colony.run("wait", met["batch"])


async def test_the_tree_shows_what_each_waits_for_and_is_stopped_whole(
    colony: Commands, runtime: ColonyRuntime
) -> None:
    """`tree` has every descendant under its parent, nested as they are; `stop --tree` ends them all."""
    [root] = await runtime.spawn("hand-out fetch / sleep / hand-out sleep [x]")

    async def is_grown() -> bool:
        found = await colony.json("tree", root)
        below = [c["worker"]["state"] for c in found["children"]]
        deepest = [c["worker"]["state"] for c in found["children"][-1:] for c in c["children"]]
        return (below, deepest) == (["COMPLETED", "RUNNING", "PARKED"], ["RUNNING"])

    await wait_until(is_grown, SECONDS, what="the tree has grown")
    nested = await colony.json("tree", root)
    assert nested["worker"]["state"] == "PARKED"
    assert "2 of 3 children" in nested["waiting"]
    *_, third = nested["children"]
    assert "1 of 1 children" in third["waiting"]
    lines = (await colony.run("tree", root)).splitlines()
    tasks = ["hand-out fetch / sleep", "fetch", "sleep", "hand-out sleep [x]", "sleep [x]"]
    assert [task in line for task, line in zip(tasks, lines, strict=False)] == [True] * 5
    assert lines[1].startswith("├── ")
    assert lines[4].startswith("    └── ")
    assert "waits for 2 of 3 children" in lines[0]
    assert "15 tokens" in lines[1]
    assert "5 workers: 2 running, 2 parked, 1 completed; 75 tokens" in lines[5]
    below = await colony.run("tree", third["worker_id"])
    assert f"a part of the tree of {root}" in below
    batch_id = third["worker"]["batch_id"]
    of_batch = await colony.json("tree", batch_id)
    assert [c["worker_id"] for c in of_batch["children"]] == [
        c["worker_id"] for c in nested["children"]
    ]
    assert of_batch["batch"]["parent_id"] == root

    told = await colony.json("stop", "--tree", root)
    assert told["workers"] == [{"worker_id": root, "stopped": True, "descendants": 3}]

    async def is_over() -> bool:
        stats = await runtime.get_stats()
        return not any(n for state, n in stats.states.items() if not WorkerState(state).terminal)

    await wait_until(is_over, SECONDS, what="nobody of the tree is left")
    assert "1 completed, 4 stopped" in (await colony.run("tree", root)).splitlines()[5]


async def test_a_limit_is_shown_set_and_reset(colony: Commands, runtime: ColonyRuntime) -> None:
    """`colony limit` shows the definition's caps and what holds now; a set one holds until --reset."""
    limit = "max_concurrent_workers"
    assert {"name": limit, "defined": None, "most": 2} in await colony.json("limit", limit, "2")
    assert "agent:agent" in await colony.run("limit")
    key = ("--concurrency-key", "k", "--soft-deadline", "1m")
    batch = await colony.json("batch", "-", *key, stdin="fetch\nfetch\nfetch\nfetch\n")
    assert await runtime.wait_for_batch(batch["batch"], 20) is not None
    shown = await colony.json("limit", limit, "--reset")
    assert {"name": limit, "defined": None, "most": None} in shown
    await colony.run("limit", "agents", "2", code=1)
    await colony.run("limit", limit, code=2)
