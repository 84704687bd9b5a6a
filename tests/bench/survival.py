"""The measurements of deaths, drains and idling. Each is one function that returns rows."""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from colony import ReportStatus
from colony.models import TaskSpec, WorkerState
from colony.runtime import ColonyRuntime
from colony.spawning import Batch
from colony.testing import Fleet, Node, wait_until
from tests.bench.definition import STEADY_SECONDS
from tests.bench.fleet import Goal, Row, calls_file, open_fleet
from tests.bench.processes import cpu_seconds, threads_cpu_seconds

TUNED = {"beat_interval": "0.3", "lease": "1", "sweep_interval": "0.1"}
"""Settings for those who want rescues within 2 s; a beat costs little (see (m))."""
IDLE_SECONDS = 20.0
RESCUE_SECONDS, TUNED_RESCUE_SECONDS, DRAIN_SECONDS, KEEPERS_PERCENT = 5, 2, 5, 1
"""What is promised on two cores."""


async def rescue(workers: int, named: str, settings: Mapping[str, str], most: float) -> list[Row]:
    """(j) from kill -9 of a node to the next model request of each worker that ran on it; p95 in at most so
    many seconds."""
    with calls_file() as calls:
        async with open_fleet(nodes=1, settings=settings) as (fleet, _):
            [node] = fleet.nodes
            batch = await _steady(fleet.runtime, workers)
            await fleet.add_nodes(1)
            node.kill()
            killed = time.time()
            await _success(fleet.runtime, batch)
        following = _first_after(calls, killed)
    delays = sorted(following[task] - killed for task in following)
    assert len(delays) == workers, f"only {len(delays)} of {workers} went on"
    p50, p95 = statistics.median(delays), delays[int(0.95 * (workers - 1) + 0.5)]
    return [
        Row(
            f"(j) kill -9 → next model request, {named}",
            f"p50 {p50:.2f} s, p95 {p95:.2f} s, max {delays[-1]:.2f} s",
            ", ".join([f"{workers} workers", *(f"{k} {v} s" for k, v in settings.items())]),
            Goal.at_most(most, p95, "s (p95)"),
        )
    ]


async def drain(workers: int) -> list[Row]:
    """(k) SIGTERM of a node with so many workers in calls of 1 s, another one there to go on."""
    with calls_file() as calls:
        async with open_fleet(nodes=1, concurrency=workers) as (fleet, _):
            [node] = fleet.nodes
            batch = await _steady(fleet.runtime, workers)
            await fleet.add_nodes(1)
            began = time.perf_counter()
            node.terminate()
            code = await asyncio.to_thread(node.wait, 60)
            took = time.perf_counter() - began
            await _success(fleet.runtime, batch)
            deaths = await _deaths(fleet.runtime, batch)
        repeated = _repeated(calls)
    return [
        Row(
            f"(k) drain of {workers:,} running workers",
            f"{took:.2f} s, {took - STEADY_SECONDS:+.2f} s beyond the calls in flight",
            f"exit code {code}, {repeated} calls repeated, {deaths} deaths counted",
            Goal.at_most(DRAIN_SECONDS, took - STEADY_SECONDS, "s beyond"),
        )
    ]


async def rolling_restart(workers: int) -> list[Row]:
    """(l) two nodes, one after the other: a new one is started, then the old one is told to end."""
    with calls_file() as calls:
        async with open_fleet(nodes=2, concurrency=workers) as (fleet, _):
            old = list(fleet.nodes)
            batch = await _steady(fleet.runtime, workers)
            began = time.perf_counter()
            for node in old:
                await _replace(fleet, node)
            took = time.perf_counter() - began
            reports = await _success(fleet.runtime, batch)
            deaths = await _deaths(fleet.runtime, batch)
        repeated = _repeated(calls)
    return [
        Row(
            f"(l) rolling restart of 2 nodes, {workers:,} workers",
            f"{workers - reports} reports lost, {repeated} calls repeated",
            f"{took:.1f} s for both, {deaths} deaths counted",
            Goal.at_most(0, workers - reports + repeated, "of either"),
        )
    ]


async def idle_cost(workers: int) -> list[Row]:
    """(m) CPU of heart and janitor, and of all of a node that has nothing to do, with and without so many
    that wait."""
    async with open_fleet(1, 1, {"max_pending": str(2 * workers)}) as (fleet, redis):
        [node], runtime = fleet.nodes, fleet.runtime
        await runtime.spawn("wait", agent="waiting")
        await wait_until(
            lambda: _state_is(runtime, WorkerState.RUNNING, 1), what="the slot is taken"
        )
        empty = await _idle(node.pid, redis.pid)
        await runtime.spawn("later", count=workers, not_before=timedelta(hours=1))
        await runtime.spawn("wait", count=workers, agent="waiting")
        await asyncio.sleep(2 * IDLE_SECONDS / 4)  # the burst of their acceptance is over
        full = await _idle(node.pid, redis.pid)
        states = (await runtime.get_stats()).states
        await runtime.stop_all_workers()
    parked, pending = states[WorkerState.PARKED], states[WorkerState.PENDING]
    assert parked == pending == workers, f"{parked} parked, {pending} waiting"
    return [
        Row(
            f"(m) idle node, {workers:,} parked, {workers:,} waiting",
            f"heart and janitor {full.keepers:.2f} % of a core, the whole node {full.node:.2f} %",
            f"Redis {full.redis:.2f} %; with nobody {empty.keepers:.2f}, {empty.node:.2f}, "
            f"{empty.redis:.2f} %",
            Goal.at_most(KEEPERS_PERCENT, full.keepers, "% of a core"),
        )
    ]


async def _steady(runtime: ColonyRuntime, workers: int) -> Batch:
    """So many workers with calls of 1 s, all of them running; each has a task of its own."""
    batch = await runtime.spawn_batch(
        [TaskSpec(task=f"task {number}", agent="steady") for number in range(workers)]
    )
    await wait_until(
        lambda: _state_is(runtime, WorkerState.RUNNING, workers), 60, what=f"{workers} run"
    )
    await asyncio.sleep(1.5 * STEADY_SECONDS)  # into their second call
    return batch


async def _success(runtime: ColonyRuntime, batch: Batch) -> int:
    result = await runtime.wait_for_batch(batch.id, timeout=120)
    assert result is not None, "the batch was not joined"
    return result.counts.get(ReportStatus.SUCCESS, 0)


async def _deaths(runtime: ColonyRuntime, batch: Batch) -> int:
    records = await asyncio.gather(*map(runtime.get_worker, batch))
    return sum(record.resurrections for record in records if record is not None)


async def _replace(fleet: Fleet, node: Node) -> None:
    await fleet.add_nodes(1)
    node.process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(node.wait, 60)
    assert code == 0, f"node {node.pid} ended with {code}"


async def _state_is(runtime: ColonyRuntime, state: WorkerState, workers: int) -> bool:
    return (await runtime.get_stats()).states[state] == workers


class _Used(NamedTuple):
    """Of the threads of heart and janitor, of their whole node, of Redis."""

    keepers: float
    node: float
    redis: float


async def _idle(node: int, redis: int) -> _Used:
    """Per cent of a core."""
    before, began = _used(node, redis), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    took = time.perf_counter() - began
    now = _used(node, redis)
    return _Used(*(100 * (n - b) / took for n, b in zip(now, before, strict=True)))


def _used(node: int, redis: int) -> _Used:
    """Seconds of each so far."""
    keepers = [threads_cpu_seconds(node, name) for name in ("colony-heart", "colony-janitor")]
    return _Used(sum(keepers), cpu_seconds(node), cpu_seconds(redis))


def _first_after(calls: Path, moment: float) -> dict[str, float]:
    """Of each task, when its first model call after a moment began."""
    first: dict[str, float] = {}
    for call in map(json.loads, calls.read_text().splitlines()):
        if call["at"] > moment:
            first.setdefault(call["task"], call["at"])
    return first


def _repeated(calls: Path) -> int:
    """How many model calls were made more than once: same task, same number of answers before it."""
    made = Counter(
        (call["task"], call["answers"]) for call in map(json.loads, calls.read_text().splitlines())
    )
    return sum(times - 1 for times in made.values())
