"""A soak: a fleet at 70 % of its slots for half an hour; nothing of it may grow once it has settled.

    make soak
    make soak ARGS="--minutes 6"

Workers come one by one, in batches and as trees, some fail, some are stopped. Two of three minutes count:
each figure is the median of their last fifth against that of the first. Exit code 1 when one grew by 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from rich.console import Console
from rich.table import Table

from colony.models import TaskSpec, WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet
from tests.bench.fleet import open_fleet
from tests.bench.processes import resident_bytes

NODES, SLOTS, LOAD = 2, 200, 0.7
KEPT = {"result_retention_max": "2000", "max_history": "2000"}
"""Smaller than by default, so that what is kept is full before the figures count."""
SAMPLE_SECONDS = 5.0
MOST_GROWTH = 0.01


@dataclass(frozen=True)
class Sample:
    """What the fleet holds at one moment."""

    node_bytes: float
    redis_keys: float
    redis_bytes: float
    open_files: float


async def soak(minutes: float, seed: int) -> list[Sample]:
    """Keep the fleet busy for so long; a sample every few seconds."""
    samples: list[Sample] = []
    async with open_fleet(NODES, SLOTS, KEPT) as (fleet, redis):
        await _fill_pools(fleet.runtime)
        producer = asyncio.create_task(_produce(fleet.runtime, random.Random(seed)))
        with Redis.from_url(redis.url) as client:
            until = time.monotonic() + 60 * minutes
            while time.monotonic() < until and not producer.done():
                await asyncio.sleep(SAMPLE_SECONDS)
                samples.append(_sample(fleet, client))
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)
        if producer.done() and not producer.cancelled() and (error := producer.exception()):
            raise error
        await fleet.runtime.stop_all_workers()
    return samples


async def _fill_pools(runtime: ColonyRuntime) -> None:
    """As many at once as will ever be: connections and threads that are then kept do not count as growth."""
    families = await runtime.spawn("a family", agent="family", count=NODES * SLOTS)
    await runtime.wait_for_worker_reports(families, timeout=120)


async def _produce(runtime: ColonyRuntime, chance: random.Random) -> None:
    """Keep so many workers running or waiting, of all kinds."""
    wanted = int(NODES * SLOTS * LOAD)
    while True:
        states = (await runtime.get_stats()).states
        missing = wanted - states[WorkerState.RUNNING] - states[WorkerState.PENDING]
        while missing > 0:
            missing -= await _spawn(runtime, chance)
        await asyncio.sleep(0.1)


async def _spawn(runtime: ColonyRuntime, chance: random.Random) -> int:
    """Something of a random kind; how many workers it is."""
    kind = chance.random()
    if kind < 0.5:
        await runtime.spawn("three calls", agent="three-calls")
        return 1
    if kind < 0.8:
        size = chance.randint(2, 20)
        await runtime.spawn_batch([TaskSpec(task="three calls", agent="three-calls")] * size)
        return size
    if kind < 0.9:
        await runtime.spawn("a family", agent="family")
        return 4
    if kind < 0.95:
        await runtime.spawn("fails", agent="failing", count=2)
        return 2
    [worker] = await runtime.spawn("three calls", agent="three-calls")
    await runtime.stop_worker(worker)
    return 1


def _sample(fleet: Fleet, client: Redis) -> Sample:
    pids = [node.pid for node in fleet.nodes]
    memory = client.info("memory")
    return Sample(
        node_bytes=sum(map(resident_bytes, pids)),
        redis_keys=float(client.dbsize()),
        redis_bytes=float(memory["used_memory"]),
        open_files=sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
    )


def growth_of(values: Sequence[float]) -> float:
    """The median of the last fifth against that of the first: 0.01 is 1 % more."""
    fifth = max(1, len(values) // 5)
    first, last = statistics.median(values[:fifth]), statistics.median(values[-fifth:])
    return last / first - 1


def main(argv: list[str]) -> int:
    """Soak, and print what grew."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    samples = asyncio.run(soak(options.minutes, options.seed))
    counted = samples[len(samples) // 3 :]
    table = Table(
        "what", "first", "last", "growth", title=f"{options.minutes:g} minutes at {LOAD:.0%}"
    )
    worst = 0.0
    for name in Sample.__dataclass_fields__:
        values = [getattr(sample, name) for sample in counted]
        growth = growth_of(values)
        worst = max(worst, growth)
        table.add_row(name, f"{values[0]:,.0f}", f"{values[-1]:,.0f}", f"{growth:+.2%}")
    Console().print(table)
    return int(worst >= MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
