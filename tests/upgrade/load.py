"""The load of an upgrade: who spawns, by the runtime and over HTTP, a timer, and a reader of all reports."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx2

from colony.errors import StoreUnavailable
from colony.models import EventType
from colony.runtime import ColonyRuntime
from tests.gateway.kit import Api
from tests.gateway.listener import Listener

EVERY_SECONDS = {"runtime": 0.2, "http": 0.3}
AGAIN_SECONDS = 0.1
TIMER = "each-second"

Spawn = Callable[[str, str], Awaitable[list[str]]]


class Load:
    """What is spawned until it is `closing`: `spawned` by task, and how long each answer took."""

    def __init__(self, runtime: ColonyRuntime, api: Api, listener: Listener) -> None:
        self.runtime, self.api, self.listener = runtime, api, listener
        self.spawned: dict[str, str] = {}
        self.took: list[tuple[float, float]] = []
        """When a request over HTTP began (`time.time`), and how many seconds its answer took."""
        self.closing = False

    async def run(self) -> None:
        """Spawn until it is `closing`; every spawn that was begun is answered."""
        spec = {"id": TIMER, "trigger_type": "timer", "trigger_config": {"interval": 1}}
        await self.runtime.put_trigger({**spec, "task": "timer ${trigger.due}"})
        await asyncio.gather(
            self._spawn_all("runtime", self._by_runtime), self._spawn_all("http", self._by_http)
        )
        await self.runtime.pause_trigger(TIMER)

    async def listen(self) -> None:
        """Follow the reports, over as many connections as it takes."""
        while True:
            with suppress(httpx2.TransportError):
                await self.listener.listen()
            await asyncio.sleep(AGAIN_SECONDS)

    async def _spawn_all(self, way: str, spawn: Spawn) -> None:
        number = 0
        while not self.closing:
            number += 1
            task = f"{way} {number}"
            [self.spawned[task]] = await spawn(task, f"upgrade {task}")
            await asyncio.sleep(EVERY_SECONDS[way])

    async def _by_runtime(self, task: str, key: str) -> list[str]:
        while True:
            with suppress(StoreUnavailable):
                return await self.runtime.spawn(task, idempotency_key=key)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _by_http(self, task: str, key: str) -> list[str]:
        """As a client of a gateway that is replaced: again with the same key until there is an answer."""
        began = time.time()
        while True:
            with suppress(httpx2.TransportError):
                answer = await self.api.ask(
                    "POST", "/workers", json={"task": task}, headers={"Idempotency-Key": key}
                )
                if answer.status_code == 202:
                    self.took.append((began, time.time() - began))
                    ids: list[str] = answer.json()["worker_ids"]
                    return ids
                assert answer.status_code == 503, answer.text
            await asyncio.sleep(AGAIN_SECONDS)


async def listener_of(api: Api) -> Listener:
    """One for the reports, from the first on."""
    query = f"after=0&type={EventType.SUBAGENT_REPORT.value}"
    return Listener(f"{api.base}/events?{query}", await api.token("read"))
