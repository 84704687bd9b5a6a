"""One Redis for all tests that need no other; a fresh colony for each, and the guard at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio

from colony.redis_server import EmbeddedRedis
from colony.store import Store
from colony.store.keys import COLONIES
from colony.testing import redis_for_tests
from tests.store.kit import check_keys, new_colony_id, open_store


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis that no test restarts, fills or reconfigures."""
    with redis_for_tests() as url:
        yield url


@pytest.fixture
def own_redis() -> Iterator[EmbeddedRedis]:
    """A Redis for one test alone, to be restarted, frozen and reconfigured."""
    with EmbeddedRedis() as server:
        yield server


OpenColony = Callable[..., Awaitable[Store]]


@pytest_asyncio.fixture
async def open_colony(redis_url: str) -> AsyncIterator[OpenColony]:
    """Opens the store of a fresh colony with the limits it is given; when the test ends, the keys
    of each are checked and removed."""
    opened: list[Store] = []

    async def open_one(**face: str | int) -> Store:
        opened.append(await open_store(redis_url, new_colony_id(), **face))
        return opened[-1]

    yield open_one
    try:
        for store in opened:
            check_keys(redis_url, store)
    finally:
        for store in opened:
            await _remove(store)


@pytest_asyncio.fixture
async def store(open_colony: OpenColony) -> Store:
    """The store of a fresh colony with default limits."""
    return await open_colony()


async def _remove(store: Store) -> None:
    names = await store.link.call("KEYS", store.keys.prefix + "*")
    for start in range(0, len(names), 1000):
        await store.link.call("UNLINK", *names[start : start + 1000])
    await store.link.call("SREM", COLONIES, store.colony_id)
    await store.link.close()
