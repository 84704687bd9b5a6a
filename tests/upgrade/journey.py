"""The upgrade itself: each process is replaced, in order, while the load goes on; and what was seen.

nodes, one by one:  the new one is ready ─▶ SIGTERM to the old one ─▶ its workers go on elsewhere
beats:              likewise, the one that stands by first
gateway, Flower:    SIGTERM, and started again; callers ask again with the same key
    the producer:       another one goes on, and asks again where the old one was not answered
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx2

from colony.models import NodeInfo, WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, Node, wait_until
from tests.fleet.flower_kit import Flower, flower
from tests.gateway.kit import Api, Gateway
from tests.upgrade.load import Load, listener_of

DEFINITION = "tests.upgrade.definition:colony"
OLD, NEW = "1", "2"
SAMPLE_SECONDS = 0.17
LEADS = "this beat leads"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the fleet."""

    at: float
    accepted: int
    ended: int
    waiting: int
    running: int
    nodes: list[NodeInfo]


@dataclass(slots=True)
class Seen:
    """What a journey leaves to be looked at. `done`: from when to when, what."""

    fleet: Fleet
    load: Load
    calls: Path
    flower: Flower
    samples: list[Sample] = field(default_factory=list)
    done: list[tuple[float, float, str]] = field(default_factory=list)
    was_running: str = ""
    """A worker that was under way when the first node was told to end."""

    def asked(self) -> Counter[tuple[str, int]]:
        """How often each task asked for each of its answers."""
        lines = [json.loads(line) for line in self.calls.read_text().splitlines()]
        return Counter((line["task"], line["answers"]) for line in lines)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """It takes as long as the block."""
        began = time.time()
        yield
        self.done.append((began, time.time(), what))


@asynccontextmanager
async def upgraded(folder: Path, steady_seconds: float) -> AsyncIterator[Seen]:
    """A fleet that has been upgraded under load, and is at rest. Before and after it the load goes on for
    `steady_seconds`."""
    calls = folder / "calls.jsonl"
    calls.touch()
    os.environ |= {"TEST_CALLS": str(calls), "TEST_RELEASE": OLD}
    async with AsyncExitStack() as stack:
        fleet = await stack.enter_async_context(Fleet(DEFINITION, nodes=2, concurrency=100))
        for _ in range(2):
            fleet.start_beat()
        gateway = Gateway(fleet.redis_url, folder / "gateway.log")
        stack.callback(gateway.kill)
        gateway.wait_ready()
        flowers = stack.enter_context(ExitStack())
        kept = ["--db", str(folder / "flower.db")]
        shown = flowers.enter_context(flower(fleet, folder, *kept))
        await shown.until_it_knows(2)
        client = await stack.enter_async_context(httpx2.AsyncClient(timeout=30))
        api = Api(gateway, fleet.runtime, client)
        first = await stack.enter_async_context(_producer(fleet))
        load = Load(first, api, await listener_of(api))
        seen = Seen(fleet, load, calls, shown)
        listening, sampling = asyncio.create_task(load.listen()), asyncio.create_task(_look(seen))
        loading = asyncio.create_task(load.run())
        try:
            await asyncio.sleep(steady_seconds)
            os.environ["TEST_RELEASE"] = NEW
            await _replace_nodes(seen)
            await _replace_beats(seen)
            await _replace_gateway(seen, gateway)
            with seen.doing("the producer"):
                load.runtime = await stack.enter_async_context(_producer(fleet))
                await first.__aexit__(None, None, None)
            with seen.doing("Flower"):
                await asyncio.to_thread(flowers.close)
                seen.flower = flowers.enter_context(flower(fleet, folder, *kept))
                await seen.flower.until_it_knows(2)
            await asyncio.sleep(steady_seconds)
            load.closing = True
            await loading
            await wait_until(partial(_is_silent, seen), 60, what="all that was accepted has ended")
            yield seen
        finally:
            for task in (loading, listening, sampling):
                task.cancel()
            await asyncio.gather(loading, listening, sampling, return_exceptions=True)


def _producer(fleet: Fleet) -> ColonyRuntime:
    return ColonyRuntime(fleet.colony_id, redis_url=fleet.redis_url)


async def _replace_nodes(seen: Seen) -> None:
    for number, old in enumerate(list(seen.fleet.nodes), 1):
        await seen.fleet.add_nodes(1)
        if not seen.was_running:
            [seen.was_running] = await _running(seen, 1)
        with seen.doing(f"node {number} ends"):
            await _end(old)


async def _running(seen: Seen, count: int) -> list[str]:
    found = await seen.fleet.runtime.list_workers(status=WorkerState.RUNNING, limit=count)
    return [record.worker_id for record in found]


async def _replace_beats(seen: Seen) -> None:
    leads = {beat.pid: _says(beat, LEADS) for beat in seen.fleet.beats}
    for old in sorted(seen.fleet.beats, key=lambda beat: leads[beat.pid]):
        new = seen.fleet.start_beat()
        await wait_until(partial(_says, new, "beat: Starting"), 30, what="a beat has begun")
        with seen.doing("the leading beat" if leads[old.pid] else "a beat"):
            await _end(old)
            beats = [beat for beat in seen.fleet.beats if beat.process.poll() is None]
            await wait_until(partial(_one_leads, beats), 30, what="one leads")


def _one_leads(beats: Sequence[Node]) -> bool:
    return any(_says(beat, LEADS) for beat in beats)


def _says(process: Node, words: str) -> bool:
    return words in process.tail(1000)


async def _replace_gateway(seen: Seen, gateway: Gateway) -> None:
    with seen.doing("the gateway"):
        code = await asyncio.to_thread(gateway.terminate)
        assert code == 0, gateway.tail()
        await asyncio.to_thread(gateway.restart)


async def _end(process: Node) -> None:
    process.terminate()
    code = await asyncio.to_thread(process.wait, 60)
    assert code == 0, process.tail()


def _is_silent(seen: Seen) -> bool:
    last, heard = seen.samples[-1], len(seen.load.listener.events)
    return last.waiting == last.running == 0 and heard >= last.accepted == last.ended


async def _look(seen: Seen) -> None:
    runtime = seen.fleet.runtime
    while True:
        stats, nodes = await asyncio.gather(runtime.get_stats(), runtime.list_nodes())
        states = stats.states
        seen.samples.append(
            Sample(
                time.time(),
                stats.totals.get("accepted", 0),
                sum(count for state, count in states.items() if state.terminal),
                states[WorkerState.PENDING],
                states[WorkerState.RUNNING],
                nodes,
            )
        )
        await asyncio.sleep(SAMPLE_SECONDS)
