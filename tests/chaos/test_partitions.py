"""Two hosts, each a network namespace; the link of one or the other goes down, for longer than a lease."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.hosts import Hosts, why_not
from tests.chaos.run import run
from tests.chaos.schedule import Fault

pytestmark = [pytest.mark.chaos, pytest.mark.fleet]

PARTITIONS = [
    Fault(1.0, "partition", 0.0, 3.5),
    Fault(5.5, "partition", 0.9, 3.5),
    Fault(9.5, "partition", 0.0, 1.0),
    Fault(9.7, "partition", 0.9, 1.0),
]
SECONDS = 12.0
LEAST_WORKERS = 20


async def test_partitions_between_hosts_break_no_promise(tmp_path: Path) -> None:
    """One host is cut off past its lease, then the other, then both: every invariant holds."""
    missing = why_not()
    if missing and "CI" not in os.environ:
        pytest.skip(missing)
    assert missing is None, missing
    env = {"TEST_VERSION": "1", "TEST_CLOCK": ""}
    result = await run(tmp_path, PARTITIONS, SECONDS, seed=1, env=env, place=Hosts)
    print(result)
    assert result.breaches == {}, str(result)
    assert result.workers >= LEAST_WORKERS, f"too little was going on: {result}"
    assert result.faults["partition"] == len(PARTITIONS)
    assert result.numbers.get("rescued", 0) > 0, f"no partition outlasted a lease: {result}"
