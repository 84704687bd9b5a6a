"""The measurements of Colony itself. Each is one function that returns rows: what, figure, note."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from colony import ColonyRuntime, ReportStatus
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, wait_until
from tests.bench.processes import cpu_seconds, resident_bytes
from tests.proxy import at_a_distance

BENCH = "tests.bench.definition:colony"
IDEAL_SECONDS = 3.0
DISTANCE_MS = 2
STEPS = 5
"""Checkpoints of a three-call agent: three answers, two tool results."""


@dataclass(frozen=True)
class Goal:
    """What a figure is held to, at full size on two cores."""

    words: str
    is_met: bool

    @classmethod
    def at_most(cls, most: float, value: float, unit: str) -> Goal:
        """Met up to so much."""
        return cls(f"≤ {most:g} {unit}", value <= most)

    @classmethod
    def at_least(cls, least: float, value: float, unit: str) -> Goal:
        """Met from so much on."""
        return cls(f"≥ {least:,g} {unit}", value >= least)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    figure: str
    note: str = ""
    goal: Goal | None = None


@contextlib.asynccontextmanager
async def open_fleet(
    nodes: int, concurrency: int = 1000, settings: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Fleet, EmbeddedRedis]]:
    """A fleet with production defaults, or these settings, on an embedded Redis with its append-only file."""
    with EmbeddedRedis() as redis:
        fleet = Fleet(
            BENCH,
            nodes=nodes,
            concurrency=concurrency,
            redis_url=redis.url,
            **(settings or {}),  # type: ignore[arg-type]  # settings of nodes, none of its own options
        )
        async with fleet:
            yield fleet, redis


@contextlib.contextmanager
def calls_file() -> Iterator[Path]:
    """A file to which the nodes that are started meanwhile write a line for each model call."""
    with tempfile.NamedTemporaryFile() as calls:
        os.environ["BENCH_CALLS"] = calls.name
        try:
            yield Path(calls.name)
        finally:
            del os.environ["BENCH_CALLS"]


async def three_calls(nodes: int, agents: int, rounds: int) -> list[Row]:
    """(a) wall time of `agents` × 3 calls × 1 s with one live reader of all events; (b) CPU of it."""
    async with open_fleet(nodes) as (fleet, redis), _live_reader(fleet.runtime):
        await _round(fleet.runtime, agents=50)
        pids = [node.pid for node in fleet.nodes]
        before = sum(map(cpu_seconds, pids)), cpu_seconds(redis.pid)
        walls = [await _round(fleet.runtime, agents) for _ in range(rounds)]
        node_cpu = (sum(map(cpu_seconds, pids)) - before[0]) / (agents * rounds)
        redis_cpu = (cpu_seconds(redis.pid) - before[1]) / (agents * rounds)
    wall = statistics.median(walls)
    each = ", ".join(f"{w:.2f}" for w in walls)
    return [
        Row(
            f"(a) Colony, {nodes} node(s)",
            f"{wall:.2f} s = {wall / IDEAL_SECONDS:.2f} × ideal",
            f"rounds: {each}",
        ),
        Row(
            f"(b) node CPU, {nodes} node(s)",
            f"{1000 * node_cpu:.2f} ms per agent, {1000 * node_cpu / STEPS:.2f} per step",
            f"Redis: {1000 * redis_cpu:.2f} ms per agent",
        ),
    ]


async def distance(agents: int, rounds: int) -> list[Row]:
    """(p) the same with Redis `DISTANCE_MS` away each way, of node and producer, beside it on loopback: in
    turns, so that both meet the same machine."""
    walls: dict[str, list[float]] = {"near": [], "far": []}
    with EmbeddedRedis() as redis, at_a_distance(redis.url, DISTANCE_MS) as far_url:
        for _ in range(rounds):
            for name, url in (("near", redis.url), ("far", far_url)):
                fleet = Fleet(BENCH, concurrency=1000, redis_url=url)
                async with fleet, _live_reader(fleet.runtime):
                    await _round(fleet.runtime, agents=50)
                    walls[name].append(await _round(fleet.runtime, agents))
    near, far = statistics.median(walls["near"]), statistics.median(walls["far"])
    each = ", ".join(f"{near:.2f} and {far:.2f}" for near, far in zip(*walls.values(), strict=True))
    return [
        Row(
            f"(p) Redis {DISTANCE_MS} ms away each way",
            f"{far / near:.2f} × loopback",
            f"{near:.2f} s and {far:.2f} s; rounds: {each}",
            Goal.at_most(1.25, far / near, "×"),
        )
    ]


async def _round(runtime: ColonyRuntime, agents: int) -> float:
    began = time.perf_counter()
    ids = await runtime.spawn("three calls", count=agents, agent="three-calls")
    reports = await runtime.wait_for_worker_reports(ids, timeout=120)
    wall = time.perf_counter() - began
    assert all(report.status is ReportStatus.SUCCESS for report in reports), "a report is missing"
    return wall


@contextlib.asynccontextmanager
async def _live_reader(runtime: ColonyRuntime) -> AsyncIterator[None]:
    async def read() -> None:
        async for _ in runtime.events():
            pass

    reader = asyncio.create_task(read())
    try:
        yield
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def spawn_rate(agents: int) -> list[Row]:
    """(c) records and doorbells of one spawn call, nobody running them."""
    async with open_fleet(nodes=1, concurrency=1) as (fleet, _):
        fleet.nodes[0].terminate()
        fleet.nodes[0].wait()
        rows = []
        for count in (agents, 10 * agents):
            began = time.perf_counter()
            await fleet.runtime.spawn("wait", count=count, agent="waiting")
            took = time.perf_counter() - began
            rows.append(
                Row(
                    f"(c) spawn {count:,}",
                    f"{took:.2f} s = {count / took:,.0f}/s",
                    "accepted and announced",
                )
            )
        return rows


async def memory(agents: int) -> list[Row]:
    """(d) memory of a node with so many agents in a model call."""
    async with open_fleet(nodes=1, concurrency=agents) as (fleet, redis):
        [node] = fleet.nodes
        runtime = fleet.runtime
        await _round(runtime, agents=10)
        empty, redis_empty = resident_bytes(node.pid), resident_bytes(redis.pid)
        await runtime.spawn("wait", count=agents, agent="waiting")
        await wait_until(
            lambda: _all_running(runtime, agents), 120, what=f"{agents} agents are waiting"
        )
        full, redis_full = resident_bytes(node.pid), resident_bytes(redis.pid)
        await runtime.stop_all_workers()
        await wait_until(lambda: _all_running(runtime, 0), 60, what="all agents are stopped")
    return [
        Row(
            f"(d) memory, {agents:,} waiting agents",
            f"{(full - empty) / agents / 1024:.1f} KB each, {full / 2**20:.0f} MB in all",
            f"Redis: {(redis_full - redis_empty) / agents / 1024:.1f} KB each",
        )
    ]


async def _all_running(runtime: ColonyRuntime, agents: int) -> bool:
    return (await runtime.get_stats()).states[WorkerState.RUNNING] == agents


async def latency(samples: int) -> list[Row]:
    """(e) from the producer's call to the first model request, one worker at a time."""
    async with open_fleet(nodes=1) as (fleet, _):
        delays = []
        for _ in range(samples + 10):
            began = time.time()
            [worker] = await fleet.runtime.spawn("now", agent="at-once")
            report = await fleet.runtime.wait_for_worker(worker, timeout=10)
            assert report is not None
            delays.append(1000 * (float(str(report.data["asked_at"])) - began))
    delays = sorted(delays[10:])
    p50, p99 = delays[len(delays) // 2], delays[int(len(delays) * 0.99)]
    return [
        Row(
            "(e) enqueue → first model request",
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms",
            f"{samples} samples, idle",
        )
    ]
