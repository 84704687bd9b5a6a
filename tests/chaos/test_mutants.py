"""The chaos suite bites: with one promise broken, a short fixed schedule goes red by its own invariant.

With ``CHAOS_CONTROLS=1`` (as `make chaos` does) each schedule is also run unbroken, and is green then:
what goes red is the broken promise, and nothing else.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.mutants import MUTANTS, change
from tests.chaos.run import REST_SECONDS, SETTLE_SECONDS, Result, run

pytestmark = [pytest.mark.chaos, pytest.mark.fleet]

CONCURRENCY = 8
BROKEN_SECONDS = 3.0
"""So long a fleet with a broken promise is waited for."""


async def _run(folder: Path, name: str, *, broken: bool) -> Result:
    mutant = MUTANTS[name]
    env = {
        **mutant.env,
        "TEST_CLOCK": "",
        "TEST_VERSION": "1",
        **({"TEST_MUTANT": name} if broken else {}),
    }
    return await run(
        folder,
        mutant.faults,
        mutant.seconds,
        tasks=mutant.tasks,
        env=env,
        concurrency=CONCURRENCY,
        settle_seconds=BROKEN_SECONDS if broken else SETTLE_SECONDS,
        rest_seconds=1.0 if broken else REST_SECONDS,
    )


@pytest.mark.parametrize("name", MUTANTS)
async def test_each_mutant_is_red_by_its_own_invariant(name: str, tmp_path: Path) -> None:
    """The promise that the switch breaks is the one that the checker says is broken."""
    result = await _run(tmp_path, name, broken=True)
    print(f"{name}: {result}")
    assert MUTANTS[name].invariant in result.breaches


@pytest.mark.skipif("CHAOS_CONTROLS" not in os.environ, reason="the long form: make chaos")
@pytest.mark.parametrize("name", MUTANTS)
async def test_the_same_schedules_are_green_without_the_switch(name: str, tmp_path: Path) -> None:
    """Nothing but the broken promise makes them red."""
    result = await _run(tmp_path, name, broken=False)
    assert result.breaches == {}, str(result)


def test_a_mutant_whose_text_is_gone_is_refused() -> None:
    """A switch that no longer switches anything would prove nothing."""
    with pytest.raises(ValueError, match=r"expected .* once in settle, found it 0 times"):
        change("settle-twice", "settle", "return 1")
