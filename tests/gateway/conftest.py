"""One fleet and one gateway for all tests of a run that need no other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from colony.testing import Fleet
from tests.gateway.kit import Api, Gateway

GENEROUS = {"gateway_rate": "10000", "gateway_burst": "10000", "gateway_max_wait": "5"}


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served() -> AsyncIterator[Fleet]:
    """A fleet with one node."""
    async with Fleet("tests.definitions:basic") as fleet:
        yield fleet


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def api(served: Fleet, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """The gateway before that fleet."""
    log: Path = tmp_path_factory.mktemp("gateway") / "log"
    gateway = Gateway(served.redis_url, log, **GENEROUS)
    try:
        gateway.wait_ready()
        async with httpx2.AsyncClient(timeout=30) as client:
            yield Api(gateway, served.runtime, client)
        assert gateway.terminate() == 0, gateway.tail()
        assert "Traceback" not in gateway.log.read_text(), gateway.log.read_text()
    finally:
        if gateway.process.poll() is None:
            gateway.kill()
