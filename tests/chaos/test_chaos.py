"""The short form of the chaos suite: one seed, less than a minute. ``make chaos`` is the long one.

``CHAOS_SEED`` chooses another seed; the one that was used stands in the failure.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.chaos.checker import INVARIANTS, check
from tests.chaos.history import Evidence, load
from tests.chaos.run import Result, run
from tests.chaos.schedule import WEIGHTS, schedule
from tests.chaos.spoils import SPOILS
from tests.chaos.world import World

pytestmark = [pytest.mark.chaos, pytest.mark.fleet, pytest.mark.timeout(180)]

SEED = int(os.environ.get("CHAOS_SEED", "108"))
SECONDS = 20.0
LEAST_WORKERS = 50


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Evidence]:
    """One run, and its evidence."""
    folder = tmp_path_factory.mktemp("chaos")
    result = asyncio.run(run(folder, schedule(SEED, SECONDS), SECONDS, seed=SEED))
    print(result)
    return result, load(folder)


def test_a_fleet_that_is_hurt_all_the_time_keeps_its_promises(
    hurt: tuple[Result, Evidence],
) -> None:
    """Nodes, Redis and the ways between them fail four times a second: every invariant holds."""
    result, _ = hurt
    assert result.breaches == {}, f"seed {SEED}: {result}"
    assert result.workers >= LEAST_WORKERS, f"too little was going on: {result}"
    assert all(result.numbers[name] for name in ("by timer", "by event", "delivered")), str(result)


@pytest.mark.parametrize("invariant", [invariant.__name__ for invariant in INVARIANTS])
def test_each_invariant_notices_what_it_is_for(
    hurt: tuple[Result, Evidence], invariant: str
) -> None:
    """The evidence of that run, spoilt in one place: the invariant for that place says so."""
    _, evidence = hurt
    assert invariant not in check(evidence)
    assert invariant in check(SPOILS[invariant](evidence))


def test_a_seed_is_a_schedule() -> None:
    """The same seed gives the same faults, another seed others; all kinds come, each can be done."""
    assert schedule(7, 60) == schedule(7, 60) != schedule(8, 60)
    assert {fault.what for fault in schedule(7, 300)} == set(WEIGHTS)
    assert all(callable(getattr(World, what)) for what in WEIGHTS)
