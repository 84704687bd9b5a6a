"""The colonies that a gateway has open: few at once, each opened once, whatever Redis does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from colony.errors import StoreUnavailable, UnknownColony
from colony.gateway.colonies import Colonies
from colony.gateway.problems import Refused
from colony.gateway.settings import GatewaySettings
from colony.redis_server import EmbeddedRedis
from colony.settings import Settings
from tests.store.kit import open_store

NAMES = ("one", "two", "three")


@pytest_asyncio.fixture
async def redis() -> AsyncIterator[EmbeddedRedis]:
    """A Redis that knows three colonies."""
    with EmbeddedRedis() as server:
        for name in NAMES:
            await (await open_store(server.url, name)).link.close()
        yield server


@pytest_asyncio.fixture
async def colonies(redis: EmbeddedRedis) -> AsyncIterator[Colonies]:
    """At most two of them open."""
    made = Colonies(Settings(redis_url=redis.url), GatewaySettings(max_colonies=2), {})
    yield made
    await made.close()


async def test_one_runtime_for_all_who_ask(colonies: Colonies) -> None:
    """Any number that come at once share what the first of them opens."""
    async with AsyncExitStack() as users:
        opened = await asyncio.gather(
            *(users.enter_async_context(colonies.using("one")) for _ in range(20))
        )
        assert len({id(each.runtime) for each in opened}) == 1
        assert opened[0].users == 20
    assert opened[0].users == 0


async def test_the_longest_idle_makes_room(colonies: Colonies) -> None:
    """A colony that is used stays; with all in use there is no room, and the caller is told so."""
    async with colonies.using("one") as one:
        async with colonies.using("two") as two:
            with pytest.raises(Refused, match="as many colonies open"):
                async with colonies.using("three"):
                    pass
        async with colonies.using("three"), colonies.using("one") as again:
            assert again is one
        async with colonies.using("two") as again:
            assert again is not two


async def test_a_colony_that_is_not(colonies: Colonies) -> None:
    """Nothing is opened for a name that nobody registered."""
    with pytest.raises(UnknownColony):
        async with colonies.using("four"):
            pass


async def test_while_redis_is_away_all_hear_so_within_two_seconds(
    colonies: Colonies, redis: EmbeddedRedis
) -> None:
    """Thirty who come at once wait for one attempt, not for thirty; afterwards it opens."""
    await asyncio.to_thread(redis.kill)

    async def use() -> None:
        async with colonies.using("one"):
            pass

    async with asyncio.timeout(2.5):
        found = await asyncio.gather(*(use() for _ in range(30)), return_exceptions=True)
    assert all(isinstance(each, StoreUnavailable) for each in found)
    await asyncio.to_thread(redis.restart)
    await (await open_store(redis.url, "one")).link.close()
    await use()
