"""One run: a fleet, a producer, a schedule of faults; then healed, waited for, and checked."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from colony.errors import StoreUnavailable
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from tests.chaos.checker import check
from tests.chaos.history import (
    Evidence,
    History,
    left_over,
    read_lines,
    read_store,
    read_trace,
    save,
)
from tests.chaos.producer import Follower, Producer
from tests.chaos.schedule import Fault
from tests.chaos.standing import Standing
from tests.chaos.world import COLONY, World

SETTLE_SECONDS = 90.0
"""How long the fleet may take to end all work once nothing goes wrong any more."""
REST_SECONDS = 15.0
"""And then, to have nothing left over."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run showed: the breaches by invariant, and what it went through."""

    breaches: Mapping[str, Sequence[str]]
    workers: int
    batches: int
    faults: Mapping[str, int]
    settled_after: float
    numbers: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        faults = ", ".join(f"{what} {count}" for what, count in sorted(self.faults.items()))
        lines = [
            f"{self.workers} workers, {self.batches} batches, all ended {self.settled_after:.1f} s "
            "after the last fault",
            f"faults: {faults}",
            "numbers: " + ", ".join(f"{name} {n}" for name, n in sorted(self.numbers.items())),
        ]
        for name, breaches in self.breaches.items():
            lines.append(f"RED {name}: {len(breaches)} breaches")
            lines += [f"    {breach}" for breach in breaches[:10]]
        return "\n".join(lines)


async def run(
    folder: Path,
    faults: Sequence[Fault],
    seconds: float,
    *,
    seed: int = 0,
    tasks: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
    concurrency: int = 40,
    settle_seconds: float = SETTLE_SECONDS,
    rest_seconds: float = REST_SECONDS,
    place: type[World] = World,
) -> Result:
    """Hurt a fleet for `seconds`. `tasks`: the kinds of one batch at the start, in place of a random
    producer and of what goes on by itself. `env` goes to the nodes; what is no ``TEST_…`` to the first ones
    alone."""
    history = History(folder / "history.jsonl")
    async with place(folder, history, seed, env or {}, concurrency=concurrency) as world:
        settings = Settings(redis_url=world.redis.url)
        async with ColonyRuntime(COLONY, settings=settings) as runtime:
            follower = Follower(runtime, history)
            following = asyncio.create_task(follower.run())
            producer = Producer(runtime, world, history, seed)
            standing = Standing(runtime, history, reachable=world.reaches_us)
            if tasks is None:
                await standing.begin()
            await _hurt(world, producer, faults, seconds, tasks)
            await standing.end()
            began = time.monotonic()
            with suppress(TimeoutError):
                async with asyncio.timeout(settle_seconds):
                    await _ended(runtime, producer, standing)
            settled_after = time.monotonic() - began
            left = await _at_rest(world, rest_seconds)
            await producer.give_up()
            codes = await world.leave()
            await _caught_up(runtime, follower, rest_seconds)
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        standing.note()
        history.close()
        evidence = await asyncio.to_thread(_gather, world, folder, left)
    breaches = dict(check(evidence))
    if bad := {pid: code for pid, code in codes.items() if code != 0}:
        breaches["nodes_leave_when_told"] = [f"node {p} ended with {c}" for p, c in bad.items()]
    result = Result(
        breaches,
        len(evidence.store.workers),
        len(evidence.store.batches),
        Counter(entry["what"] for entry in evidence.of("fault") if entry["done"] is not None),
        settled_after,
        _numbers(evidence),
    )
    (folder / "result.txt").write_text(f"{result}\n")
    return result


async def _hurt(
    world: World,
    producer: Producer,
    faults: Sequence[Fault],
    seconds: float,
    tasks: Sequence[str] | None,
) -> None:
    producing: asyncio.Task[None] | None = None
    if tasks is None:
        producing = asyncio.create_task(producer.run())
    else:
        await producer.spawn(list(tasks), None, policy="all")
    began = time.monotonic()
    for fault in faults:
        await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
        world.do(fault)
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    await world.heal()
    if producing is not None:
        # It may be in the middle of a call whose answer is not known yet: let it be answered.
        producer.closing = True
        await producing


async def _ended(runtime: ColonyRuntime, producer: Producer, standing: Standing) -> None:
    """Every waiter has its answer, all events have had their consequences, and nobody has not ended."""
    await producer.all_reported()
    while True:
        with suppress(StoreUnavailable):
            # What an event leads to may be spawned while nobody runs: look again.
            if (
                await _all_ended(runtime)
                and await standing.caught_up()
                and await _all_ended(runtime)
            ):
                return
        await asyncio.sleep(0.1)


async def _all_ended(runtime: ColonyRuntime) -> bool:
    states = (await runtime.get_stats()).states
    return not any(count for state, count in states.items() if not state.terminal)


async def _at_rest(world: World, seconds: float) -> list[str]:
    """Until nothing is left over, or what is left after so long."""
    until = time.monotonic() + seconds
    while left := await asyncio.to_thread(left_over, world.redis.url, COLONY):
        if time.monotonic() > until:
            break
        await asyncio.sleep(0.2)
    return left


async def _caught_up(runtime: ColonyRuntime, follower: Follower, seconds: float) -> None:
    """Until the follower has heard of the last event."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (await runtime.get_stats()).events == int(follower.last.rpartition("-")[2]):
            return
        await asyncio.sleep(0.1)


def _gather(world: World, folder: Path, left: Sequence[str]) -> Evidence:
    evidence = Evidence(
        history=read_lines(folder / "history.jsonl"),
        calls=read_lines(folder / "calls.jsonl"),
        effects=read_lines(folder / "effects.jsonl"),
        trace=read_trace(world.redis.url),
        store=read_store(world.redis.url, COLONY, left),
        unaware=world.unaware,
    )
    save(evidence, folder)
    return evidence


def _numbers(evidence: Evidence) -> dict[str, int]:
    """How much happened: a run in which nothing did proves nothing."""
    totals = {
        name.removeprefix("total:"): int(value)
        for name, value in evidence.store.meta.items()
        if name.startswith("total:")
    }
    gaps = sum(entry["type"] == "gap" for entry in evidence.of("event"))
    asked = Counter((call["task"], call["answers"]) for call in evidence.calls)
    return {
        **totals,
        "events": int(evidence.store.meta.get("events", 0)),
        "generation": int(evidence.store.meta.get("generation", 0)),
        "gaps": gaps,
        "exonerated": sum(entry["type"] == "node_exonerated" for entry in evidence.of("event")),
        "questions": len(evidence.calls),
        "asked again": sum(asked.values()) - len(asked),
        "transitions": len(evidence.trace),
        "nodes": len(list(evidence.of("node"))),
        "by timer": sum(name.startswith("t.") for name in evidence.names),
        "by event": sum(name.startswith("e.") for name in evidence.names),
        "delivered": len(list(evidence.of("delivered"))),
    }
