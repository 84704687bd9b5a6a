"""docket (PyPI: pydocket): one task per agent, three calls of 1 s in it, no durable steps."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from datetime import timedelta

from docket import Docket, Worker
from redis.asyncio import BlockingConnectionPool, Redis

from colony.redis_server import EmbeddedRedis
from tests.bench.processes import cpu_seconds

DONE = "bench-done"
ADD_AT_ONCE = 50


async def agent(number: int, url: str) -> None:
    """Three calls, then tell."""
    for _ in range(3):
        await asyncio.sleep(1.0)
    await _redis(url).rpush(DONE, number)


_clients: dict[str, Redis] = {}


def _redis(url: str) -> Redis:
    if url not in _clients:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=32, timeout=60, socket_timeout=None
        )
        _clients[url] = Redis(connection_pool=pool)
    return _clients[url]


def work(url: str, agents: int) -> None:
    """The worker process."""

    async def run() -> None:
        async with Docket("bench", url=f"{url}?max_connections=4000") as docket:
            docket.register(agent)
            async with Worker(
                docket, concurrency=agents, minimum_check_interval=timedelta(milliseconds=10)
            ) as worker:
                await worker.run_forever()

    asyncio.run(run())


async def measure(url: str, agents: int, pid: int) -> dict[str, float]:
    """Wall time and CPU per agent."""
    client = _redis(url)
    async with Docket("bench", url=f"{url}?max_connections=4000") as docket:
        await docket.add(agent)(0, url)
        await client.blpop([DONE], timeout=60)
        before, began = cpu_seconds(pid), time.perf_counter()
        for start in range(0, agents, ADD_AT_ONCE):  # its own pool has 100 connections
            numbers = range(start, min(start + ADD_AT_ONCE, agents))
            await asyncio.gather(*(docket.add(agent)(number, url) for number in numbers))
        for _ in range(agents):
            await client.blpop([DONE], timeout=120)
        wall = time.perf_counter() - began
    return {"wall_seconds": wall, "cpu_ms_per_agent": 1000 * (cpu_seconds(pid) - before) / agents}


def main(agents: int) -> dict[str, float]:
    """Run the worker in a process of its own, and measure."""
    with EmbeddedRedis() as redis:
        worker = multiprocessing.get_context("spawn").Process(target=work, args=(redis.url, agents))
        worker.start()
        try:
            assert worker.pid is not None
            return asyncio.run(measure(redis.url, agents, worker.pid))
        finally:
            worker.terminate()
            worker.join()


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]))))
