"""How many agents one node process can hold while they wait for their models."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from colony.models import WorkerState
from colony.testing import Fleet, Node, start_process
from tests.fleet.helpers import assert_at_rest, wait_for_state

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

MANY = 10_000
MOST_MB = 400


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


async def test_ten_thousand_agents_wait_in_one_node_within_400_mb(
    fleet: type[Fleet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 agents that wait for their models fit in one node process of 400 MB, and all stop."""
    monkeypatch.setattr(Node, "start", staticmethod(start_process))  # with memory of its own
    async with fleet("tests.fleet.definitions:quiet", concurrency=MANY) as running:
        runtime, [node] = running.runtime, running.nodes
        before, began = rss_mb(node.pid), time.monotonic()
        await runtime.spawn("wait for the model", count=MANY)
        await wait_for_state(runtime, WorkerState.RUNNING, MANY, timeout=60)
        claimed, used = time.monotonic() - began, rss_mb(node.pid)
        stopped = await runtime.stop_all_workers()
        await wait_for_state(runtime, WorkerState.STOPPED, MANY, timeout=30)
        print(
            f"{MANY} waiting: {used:.0f} MB ({before:.0f} MB before), all run after {claimed:.1f} s, "
            f"all stopped after {time.monotonic() - began - claimed:.1f} s more"
        )
        assert used < MOST_MB
        assert stopped == MANY
        await assert_at_rest(running.redis_url, "quiet", 30)
