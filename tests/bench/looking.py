"""The measurements of who looks on: events over HTTP, and pages of many workers."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2

from colony.models import Event, EventType, to_ms
from tests.bench.fleet import Row, open_fleet
from tests.bench.front_door import open_gateway
from tests.gateway.kit import Api

PAGE = 100
PAGES = 50
"""How many pages of each kind are timed."""


async def stream(samples: int) -> list[Row]:
    """(q) from the moment of a worker's report, by Redis' clock, to a reader of the gateway's stream.

    That clock tells whole milliseconds downwards: what is measured is up to one too much.
    """
    delays: list[float] = []
    async with _api() as api:
        query = f"type={EventType.SUBAGENT_REPORT.value}"
        async with _stream(api, f"{api.base}/events?{query}") as reports:
            for _ in range(samples + 10):
                await api.runtime.spawn("now", agent="at-once")
                told = await asyncio.wait_for(anext(reports), 10)
                delays.append(1000 * time.time() - to_ms(told.at))
    delays = delays[10:]
    return [Row("(q) settled → heard over SSE", _spread(delays), f"{samples} workers, one by one")]


@asynccontextmanager
async def _api(concurrency: int = 1000) -> AsyncIterator[Api]:
    """A fleet, and a gateway that does not bound how often it is asked."""
    async with (
        open_fleet(1, concurrency) as (fleet, redis),
        httpx2.AsyncClient(timeout=60) as client,
    ):
        with open_gateway(redis.url, gateway_rate="100000", gateway_burst="100000") as gateway:
            yield Api(gateway, fleet.runtime, client)


@asynccontextmanager
async def _stream(api: Api, url: str) -> AsyncIterator[AsyncIterator[Event]]:
    """The events of a stream."""
    headers = {"Authorization": f"Bearer {await api.token('admin')}"}

    async def events(response: httpx2.Response) -> AsyncIterator[Event]:
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                yield Event.model_validate_json(line.removeprefix("data:"))

    async with api.client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200
        yield events(response)


async def listing(workers: int) -> list[Row]:
    """(r) the first page of `workers`, pages from the middle of them, and pages of one state."""
    async with _api(concurrency=1) as api:
        await api.runtime.spawn("wait", count=workers, agent="waiting")
        cursor = ""
        for _ in range(workers // PAGE // 2):
            cursor = (await _page(api, {"cursor": cursor} if cursor else {}))["next_cursor"]
        kinds: dict[str, dict[str, str]] = {
            "the first": {},
            "from the middle": {"cursor": cursor},
            "of one state": {"status": "PENDING"},
        }
        return [
            Row(
                f"(r) a page of {workers:,} over HTTP, {kind}",
                _spread(await _timed(partial(_page, api, given))),
                f"{PAGES} pages of {PAGE} workers",
            )
            for kind, given in kinds.items()
        ]


async def _page(api: Api, given: dict[str, str]) -> Any:
    page = await api.json("GET", "/workers", params={"limit": str(PAGE), **given})
    assert len(page["items"]) == PAGE
    return page


async def _timed(work: Callable[[], Awaitable[Any]]) -> list[float]:
    """Milliseconds of each time."""
    took = []
    for _ in range(PAGES + 1):
        began = time.perf_counter()
        await work()
        took.append(1000 * (time.perf_counter() - began))
    return took[1:]


def _spread(millis: Sequence[float]) -> str:
    return f"p50 {statistics.median(millis):.1f} ms, p99 {statistics.quantiles(millis, n=100)[98]:.1f} ms"
