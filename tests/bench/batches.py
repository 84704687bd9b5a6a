"""The measurements of batches and trees. Each is one function that returns rows."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from pathlib import Path

from redis import Redis

from colony import ColonyRuntime, ReportStatus
from colony.models import TaskSpec, WorkerState
from colony.testing import wait_until
from tests.bench.definition import BRANCHES, LEAVES, MODEL_SECONDS, TREE
from tests.bench.fleet import Row, calls_file, open_fleet

SILENT_SECONDS = 1.0
"""How long after its stop a tree may still begin model calls."""
NAMES = re.compile(r"[0-9A-Za-z_-]+")


async def fan_in(sizes: dict[int, int]) -> list[Row]:
    """(f) from the last member's settle (Redis' clock) to the return of wait_for_batch."""
    rows = []
    async with open_fleet(nodes=1) as (fleet, redis):
        with Redis.from_url(redis.url) as client:
            await _fan_in_round(fleet.runtime, client, 50)
            for size, rounds in sizes.items():
                delays = sorted(
                    [await _fan_in_round(fleet.runtime, client, size) for _ in range(rounds)]
                )
                p95 = delays[int(0.95 * (rounds - 1) + 0.5)]
                rows.append(
                    Row(
                        f"(f) last report → waiter, batch of {size:,}",
                        f"p50 {statistics.median(delays):.1f} ms, p95 {p95:.1f} ms",
                        f"{rounds} rounds, worst {delays[-1]:.1f} ms",
                    )
                )
    return rows


async def _fan_in_round(runtime: ColonyRuntime, client: Redis, size: int) -> float:
    """Milliseconds of one batch. The store keeps whole ones: what is returned is up to 1 too much."""
    ahead = _clock_ahead(client)
    batch = await runtime.spawn_batch([TaskSpec(task="now", agent="at-once")] * size)
    result = await runtime.wait_for_batch(batch.id, timeout=300)
    returned = time.time() + ahead
    assert result is not None, "the batch was not joined"
    assert result.counts == {ReportStatus.SUCCESS: size}, f"not all succeeded: {result.counts}"
    [last] = await runtime.list_workers(status=WorkerState.COMPLETED, limit=1)
    assert last.ended_at is not None
    return 1000 * (returned - last.ended_at.timestamp())


def _clock_ahead(client: Redis) -> float:
    """How many seconds Redis' clock is ahead of ours."""
    before = time.time()
    seconds, micros = client.time()
    return float(seconds) + float(micros) / 1e6 - (before + time.time()) / 2


async def spawn_batches(sizes: tuple[int, ...], rounds: int) -> list[Row]:
    """(g) records and doorbells of one spawn_batch, nobody running them."""
    rows = []
    async with open_fleet(nodes=1, concurrency=1) as (fleet, _):
        fleet.nodes[0].terminate()
        fleet.nodes[0].wait()
        for size in sizes:
            walls = []
            for _ in range(rounds):
                began = time.perf_counter()
                await fleet.runtime.spawn_batch([TaskSpec(task="wait", agent="waiting")] * size)
                walls.append(time.perf_counter() - began)
            took = statistics.median(walls)
            rows.append(
                Row(
                    f"(g) spawn_batch {size:,}",
                    f"{took:.2f} s = {size / took:,.0f}/s",
                    "accepted and announced; rounds: " + ", ".join(f"{w:.2f}" for w in walls),
                )
            )
    return rows


async def parked_parents(parents: int) -> list[Row]:
    """(h) parents that wait for a child each, on a node with slots for the children alone."""
    async with open_fleet(nodes=1, concurrency=parents) as (fleet, redis):
        runtime = fleet.runtime
        ids = await runtime.spawn("wait for a child", count=parents, agent="parent")

        async def all_parked() -> bool:
            states = (await runtime.get_stats()).states
            parked, running = states[WorkerState.PARKED], states[WorkerState.RUNNING]
            return parked == parents and running == parents

        await wait_until(all_parked, 120, what=f"{parents} parents are parked, all children run")
        children = [await runtime.get_children(worker_id) for worker_id in ids]
        records = await asyncio.gather(*(runtime.get_worker(each[0]) for each in children))
        batches = [record.batch_id or "" for record in records if record is not None]
        with Redis.from_url(redis.url, decode_responses=True) as client:
            each = _bytes_of(client, {*ids, *batches}) / parents
        await runtime.stop_all_workers()
    return [
        Row(
            f"(h) {parents:,} parked parents",
            f"no slot, {each / 1024:.1f} KB of Redis each",
            f"{parents:,} children run in {parents:,} slots; all keys of a parent and its batch",
        )
    ]


def _bytes_of(client: Redis, ids: set[str]) -> int:
    """What Redis spends on the keys that name one of these."""
    keys = [key for key in client.scan_iter(count=1000) if ids & set(NAMES.findall(key))]
    return sum(int(client.memory_usage(key, samples=0) or 0) for key in keys)


async def stop_tree() -> list[Row]:
    """(i) stop of a root while its leaves call the model: the last call, and the last end."""
    with calls_file() as calls:
        return await _stop_tree(calls)


async def _stop_tree(calls: Path) -> list[Row]:
    async with open_fleet(nodes=1) as (fleet, _):
        runtime = fleet.runtime
        [root] = await runtime.spawn("work", agent="root")
        leaves = BRANCHES * LEAVES
        await wait_until(lambda: _running(runtime, leaves), 60, what=f"{leaves} leaves run")
        await wait_until(lambda: _lines(calls) > 2 * leaves, 60, what="every leaf calls the model")
        before, began = _lines(calls), time.perf_counter()
        ending = asyncio.create_task(_seconds_until_all_ended(runtime))
        await runtime.stop_worker(root)
        told = time.perf_counter() - began
        await asyncio.sleep(max(0.0, began + SILENT_SECONDS - time.perf_counter()))
        silent = _lines(calls)
        ended = await ending
        await asyncio.sleep(MODEL_SECONDS)
        late = _lines(calls) - silent
    return [
        Row(
            f"(i) stop of a tree of {TREE:,}",
            f"all terminal after {ended:.2f} s, {late} new model calls after {SILENT_SECONDS:g} s",
            f"told in {told:.2f} s, {silent - before} calls until {SILENT_SECONDS:g} s",
        )
    ]


async def _running(runtime: ColonyRuntime, workers: int) -> bool:
    return (await runtime.get_stats()).states[WorkerState.RUNNING] == workers


async def _seconds_until_all_ended(runtime: ColonyRuntime) -> float:
    began = time.perf_counter()

    async def ended() -> bool:
        states = (await runtime.get_stats()).states
        return not any(count for state, count in states.items() if not state.terminal)

    await wait_until(ended, 60, what="the whole tree has ended")
    return time.perf_counter() - began


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n")
