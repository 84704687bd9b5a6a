"""The short form of the chaos suite: one seed, less than a minute. ``make chaos`` is the long one.

``CHAOS_SEED`` chooses another seed; the one that was used stands in the failure.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.run import run
from tests.chaos.schedule import WEIGHTS, schedule
from tests.chaos.world import World

pytestmark = [pytest.mark.chaos, pytest.mark.fleet]

SEED = int(os.environ.get("CHAOS_SEED", "4"))
SECONDS = 20.0
LEAST_WORKERS = 50


async def test_a_fleet_that_is_hurt_all_the_time_keeps_its_promises(tmp_path: Path) -> None:
    """Nodes, Redis and the ways between them fail four times a second: every invariant holds."""
    result = await run(tmp_path, schedule(SEED, SECONDS), SECONDS, seed=SEED)
    print(result)
    assert result.breaches == {}, f"seed {SEED}: {result}"
    assert result.workers >= LEAST_WORKERS, f"too little was going on: {result}"


def test_a_seed_is_a_schedule() -> None:
    """The same seed gives the same faults, another seed others; all kinds come, each can be done."""
    assert schedule(7, 60) == schedule(7, 60) != schedule(8, 60)
    assert {fault.what for fault in schedule(7, 300)} == set(WEIGHTS)
    assert all(callable(getattr(World, what)) for what in WEIGHTS)
