"""`colony top` over a live fleet: what it shows is what there is, on 80 columns and 24 lines."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from colony.models import WorkerState
from colony.testing import Fleet, wait_until
from tests.fleet.tree_helpers import children_of, gates, until_states

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

CHILDREN = 30
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A node with room for 20 of 30 children; their parent waits for them."""
    with gates(tmp_path_factory.mktemp("top")):
        async with Fleet("tests.fleet.tree_definitions:trees", concurrency=20) as fleet:
            [parent] = await fleet.runtime.spawn(f"fan {CHILDREN} hold never")
            await children_of(fleet.runtime, parent, CHILDREN)
            await until_states(fleet.runtime, [parent], WorkerState.PARKED)

            async def full() -> bool:
                stats = await fleet.runtime.get_stats()
                return stats.states[WorkerState.RUNNING] == 20

            await wait_until(full, 15, what="every slot is taken")
            yield fleet


def command(fleet: Fleet, *options: str) -> list[str]:
    """`colony top`."""
    return [sys.executable, "-m", "colony.cli", "top", "--redis-url", fleet.redis_url, *options]


def once(fleet: Fleet, *options: str) -> str:
    """One frame."""
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    top = command(fleet, "--once", *options)
    done = subprocess.run(top, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_one_frame_fits_a_small_terminal(running: Fleet) -> None:
    """Node with slots, queue with the oldest wait, who waits for what, tokens: on 24 lines of 80."""
    lines = once(running).splitlines()
    text = "\n".join(lines)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "1 nodes · 20 of 20 slots" in text
    assert re.search(r"RUNNING 20  PARKED 1  PENDING 10", text)
    assert re.search(r"queue \d+ · oldest waits \d", text)
    assert re.search(r"· 3[01]\d tokens/min · \$0\.0000/min", text), text  # 15 each, of 21 answers
    assert re.search(r"PARKED +agent +children +\d", text)
    assert re.search(r"PENDING +agent +a free slot +\d", text)
    assert re.search(r"more workers: colony list", text)


async def test_what_machines_read(running: Fleet) -> None:
    """The same as JSON; the workers of each state that have been in it for the longest come first."""
    found: dict[str, Any] = json.loads(once(running, "--json"))
    assert (found["stats"]["slots"], found["nodes"][0]["running"]) == (20, 20)
    assert 300 <= found["tokens_per_minute"] <= 320
    waits = [worker for worker in found["workers"] if worker["state"] == "PENDING"]
    assert len(waits) == 10
    assert waits == sorted(waits, key=lambda worker: worker["since"])


async def test_it_is_live_until_ctrl_c(running: Fleet, tmp_path: Path) -> None:
    """In a terminal of 80 × 24 frames follow one another; Ctrl-C ends it with exit code 0."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(
        command(running, "--interval", "0.2"), env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = bytearray()

    def frames() -> list[str]:
        try:
            seen.extend(os.read(ours, 65536))
        except (BlockingIOError, OSError):
            pass
        text = ESCAPES.sub(lambda m: "\f" if m[0] == "\x1b[H" else "", seen.decode(errors="ignore"))
        return [frame for frame in text.split("\f") if "tokens/min" in frame]

    try:
        await wait_until(lambda: len(frames()) >= 3, 20, what="three frames")
        [worker, *_] = await running.runtime.longest_in(WorkerState.RUNNING, 1)
        await running.runtime.stop_worker(worker.worker_id)
        await until_states(running.runtime, [worker.worker_id], WorkerState.STOPPED)
        await wait_until(lambda: "STOPPED 1" in frames()[-2], 10, what="the stop is shown")
        process.send_signal(signal.SIGINT)
        await wait_until(lambda: frames() and process.poll() is not None, 10, what="it has ended")
        assert process.returncode == 0, seen.decode(errors="replace")[-2000:]
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    lines = frames()[1].splitlines()
    assert len(lines) <= 24
    assert max(len(line.rstrip()) for line in lines) <= 80
