"""The tour's fleet: one node, anew for each file, and a file that counts what models were asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from colony import ColonyRuntime
from colony.testing import Fleet
from tests.tour.helpers import Calls


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calls]:
    """What the models of this file's nodes are asked."""
    file: Path = tmp_path_factory.mktemp("calls") / "calls.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_CALLS", str(file))
        yield Calls(file)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tour(calls: Calls) -> AsyncIterator[Fleet]:
    """One node that serves `tests.tour.definitions`, with only two threads for tools."""
    async with Fleet("tests.tour.definitions:tour", tool_threads="2") as running:
        yield running


@pytest.fixture
def runtime(tour: Fleet) -> ColonyRuntime:
    """The producer's face of the tour's fleet."""
    return tour.runtime
