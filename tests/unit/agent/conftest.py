from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.agent.harness import Harness
from workers.agent.threads import ToolThreads


@pytest.fixture
def threads() -> Iterator[ToolThreads]:
    pool = ToolThreads(4)
    yield pool
    pool.close()


@pytest.fixture
def agent(threads: ToolThreads) -> Harness:
    return Harness(threads)
