"""The measurements of who looks on: events over HTTP, and pages of many workers, by both ways."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx2

from colony.models import Event, EventType, WorkerState, to_ms
from tests.bench.fleet import Goal, Row, open_fleet
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
    goal = Goal.at_most(15, statistics.median(delays), "ms (p50)")
    note = f"{samples} workers, one by one"
    return [Row("(q) settled → heard over SSE", _spread(delays), note, goal)]


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
    """(r) the first page of `workers`, pages from the middle of them, and pages of one state: as a producer
    asks for them (`page_workers`), and over HTTP."""
    async with _api(concurrency=1) as api:
        await api.runtime.spawn("wait", count=workers, agent="waiting")
        cursor: str | None = None
        for _ in range(workers // PAGE // 2):
            cursor = (await api.runtime.page_workers(cursor=cursor, limit=PAGE)).next_cursor
        kinds: dict[str, tuple[str | None, WorkerState | None]] = {
            "the first": (None, None),
            "from the middle": (cursor, None),
            "of one state": (None, WorkerState.PENDING),
        }
        rows = []
        for kind, (after, state) in kinds.items():
            for way, page in (("by the runtime", _page), ("over HTTP", _page_over_http)):
                took = await _timed(partial(page, api, after, state))
                rows.append(
                    Row(
                        f"(r) a page of {workers:,} {way}, {kind}",
                        _spread(took),
                        f"{PAGES} pages of {PAGE} workers",
                        Goal.at_most(50, _p99(took), "ms (p99)"),
                    )
                )
        return rows


async def _page(api: Api, cursor: str | None, state: WorkerState | None) -> None:
    page = await api.runtime.page_workers(status=state, cursor=cursor, limit=PAGE)
    assert len(page.items) == PAGE


async def _page_over_http(api: Api, cursor: str | None, state: WorkerState | None) -> None:
    given = {"limit": str(PAGE), "cursor": cursor, "status": state}
    params = {name: value for name, value in given.items() if value is not None}
    page = await api.json("GET", "/workers", params=params)
    assert len(page["items"]) == PAGE


async def _timed(work: Callable[[], Awaitable[Any]]) -> list[float]:
    """Milliseconds of each time."""
    took = []
    for _ in range(PAGES + 1):
        began = time.perf_counter()
        await work()
        took.append(1000 * (time.perf_counter() - began))
    return took[1:]


def _spread(millis: Sequence[float]) -> str:
    return f"p50 {statistics.median(millis):.1f} ms, p99 {_p99(millis):.1f} ms"


def _p99(millis: Sequence[float]) -> float:
    return statistics.quantiles(millis, n=100)[98]
