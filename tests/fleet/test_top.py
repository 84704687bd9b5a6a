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
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from colony.errors import UnknownColony
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
        async with Fleet(
            "tests.fleet.tree_definitions:trees", concurrency=20, drain_grace="0.5"
        ) as fleet:
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


@dataclass
class Screen:
    """`colony top` in a terminal of 80 × 24, and what it has shown."""

    process: subprocess.Popen[bytes]
    terminal: int
    seen: bytearray = field(default_factory=bytearray)

    def frames(self) -> list[str]:
        """All until now, the last of them maybe in part."""
        try:
            self.seen.extend(os.read(self.terminal, 65536))
        except (BlockingIOError, OSError):
            pass
        text = self.seen.decode(errors="ignore")
        text = ESCAPES.sub(lambda m: "\f" if m[0] == "\x1b[H" else "", text)
        return [frame for frame in text.split("\f") if frame.strip()]


@contextmanager
def live(fleet: Fleet) -> Iterator[Screen]:
    """One that looks five times a second."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen(
        command(fleet, "--interval", "0.2"), env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        yield Screen(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


async def test_it_is_live_until_ctrl_c(running: Fleet) -> None:
    """In a terminal of 80 × 24 frames follow one another; Ctrl-C ends it with exit code 0."""
    with live(running) as screen:

        def frames() -> list[str]:
            return [frame for frame in screen.frames() if "tokens/min" in frame]

        await wait_until(lambda: len(frames()) >= 3, 20, what="three frames")
        [worker, *_] = await running.runtime.longest_in(WorkerState.RUNNING, 1)
        await running.runtime.stop_worker(worker.worker_id)
        await until_states(running.runtime, [worker.worker_id], WorkerState.STOPPED)
        await wait_until(lambda: "STOPPED 1" in frames()[-2], 10, what="the stop is shown")
        process = screen.process
        process.send_signal(signal.SIGINT)
        await wait_until(lambda: frames() and process.poll() is not None, 10, what="it has ended")
        assert process.returncode == 0, screen.seen.decode(errors="replace")[-2000:]
    lines = frames()[1].splitlines()
    assert len(lines) <= 24
    assert max(len(line.rstrip()) for line in lines) <= 80


async def test_it_outlives_a_loss_of_data() -> None:
    """Redis is emptied, and the log of events begins anew: it shows what is done from then on."""
    async with Fleet("tests.definitions:basic", beat_interval="0.2", lease="2") as fleet:
        runtime = fleet.runtime
        before = await runtime.spawn("echo", count=20)
        await runtime.wait_for_worker_reports(before, 20)
        with live(fleet) as screen:

            def shows(*words: str) -> bool:
                last = "".join(screen.frames()[-1:])
                return all(word in last for word in words)

            await wait_until(lambda: shows("· 900 tokens/min"), 20, what="what was done")
            with Redis.from_url(fleet.redis_url) as redis:
                redis.flushall()

            async def accepted() -> list[str]:
                with suppress(UnknownColony):
                    return await runtime.spawn("echo", count=3)
                return []

            ids = await wait_until(accepted, 8, what="the colony is known again")
            await runtime.wait_for_worker_reports(ids, 20)

            what = ("COMPLETED 3 ", "· 1,035 tokens/min")
            await wait_until(lambda: shows(*what), 10, what="what was done since")
            assert screen.process.poll() is None
