"""The colonies that a gateway has open: a runtime and a feed of events each, made when first asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from colony.gateway.feed import Feed
from colony.gateway.problems import Refused
from colony.gateway.settings import GatewaySettings
from colony.operations import unknown_colony
from colony.pipeline.stage import Stage
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.store import Link, Store


@dataclass(slots=True)
class Open:
    """One colony, and how many use it now."""

    runtime: ColonyRuntime
    feed: Feed
    users: int = 0


class Colonies:
    """Use it as ``async with``. At most `max_colonies` are open; the longest idle one makes room."""

    def __init__(
        self, settings: Settings, gateway: GatewaySettings, pipelines: Mapping[str, Sequence[Stage]]
    ) -> None:
        self._settings = settings
        self._gateway = gateway
        self._pipelines = pipelines
        self._link = Link(settings.store_url, patience=settings.connect_timeout)
        self._open: dict[str, Open] = {}  # the longest idle first
        self._opening: dict[str, asyncio.Task[None]] = {}

    def store(self, colony_id: str) -> Store:
        """The keys of a colony, open or not: for tokens and counters."""
        return Store(self._link, colony_id)

    async def ping(self) -> None:
        """Raises `StoreUnavailable` while Redis does not answer."""
        await self._link.call("PING")

    @asynccontextmanager
    async def using(self, colony_id: str) -> AsyncIterator[Open]:
        """A colony, kept open at least until the block ends. Raises `UnknownColony`."""
        while (found := self._open.get(colony_id)) is None:
            await asyncio.shield(self._opened(colony_id))
        found.users += 1
        try:
            yield found
        finally:
            found.users -= 1
            if colony_id in self._open:
                self._open[colony_id] = self._open.pop(colony_id)

    def streams(self) -> int:
        """How many readers of events there are."""
        return sum(each.feed.readers for each in self._open.values())

    def end_streams(self) -> None:
        """The gateway ends: nobody waits for another event."""
        for each in self._open.values():
            each.feed.end("the gateway ends; connect again")

    async def close(self) -> None:
        """Close all of them."""
        while self._open:
            await self._close(self._open.popitem()[1])
        await self._link.close()

    def _opened(self, colony_id: str) -> asyncio.Task[None]:
        """The one attempt to open it, for all who want it now: when it fails they hear so together."""
        if colony_id not in self._opening:
            attempt = asyncio.create_task(self._make(colony_id), name="gateway-colony")
            attempt.add_done_callback(lambda task: self._attempted(colony_id, task))
            self._opening[colony_id] = attempt
        return self._opening[colony_id]

    def _attempted(self, colony_id: str, task: asyncio.Task[None]) -> None:
        del self._opening[colony_id]
        if not task.cancelled():
            task.exception()  # also where nobody waits for it any more

    async def _make(self, colony_id: str) -> None:
        if "id" not in await self.store(colony_id).face():
            raise unknown_colony(colony_id)
        if all(each.users for each in self._open.values()) and self._is_full():
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "this gateway has as many colonies open as it may",
                retry_after=5,
            )
        stages = self._pipelines.get(colony_id, ())
        runtime = ColonyRuntime(colony_id, settings=self._settings, pipeline=stages)
        await runtime.__aenter__()
        self._open[colony_id] = Open(
            runtime, Feed(self.store(colony_id), self._gateway.stream_buffer)
        )
        idle = [name for name, each in self._open.items() if not each.users and name != colony_id]
        over = max(0, len(self._open) - self._gateway.max_colonies)
        for each in [self._open.pop(name) for name in idle[:over]]:
            await self._close(each)

    def _is_full(self) -> bool:
        return len(self._open) >= self._gateway.max_colonies

    @staticmethod
    async def _close(each: Open) -> None:
        await each.feed.close()
        await each.runtime.__aexit__(None, None, None)
