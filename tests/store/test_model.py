"""The laws of the store in any order: random transitions, compared with a model step by step.

Some 25 colonies of 40 steps in CI; ``COLONY_LONG=1`` makes many more and longer ones.
"""

from __future__ import annotations

import asyncio
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.store.machine import Colony

LONG = os.environ.get("COLONY_LONG") == "1"
SETTINGS = settings(
    max_examples=300 if LONG else 25,
    stateful_step_count=80 if LONG else 40,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(3600 if LONG else 600)
def test_the_store_keeps_its_laws_in_any_order(redis_url: str) -> None:
    """Whatever happens in whatever order: each worker ends once with one report, each batch is joined
    once and wakes its parent, stale claims write nothing, no counter drifts and no key is left."""
    with asyncio.Runner() as runner:

        class OnThisServer(Colony):
            def __init__(self) -> None:
                super().__init__(redis_url, runner)

        run_state_machine_as_test(OnThisServer, settings=SETTINGS)
