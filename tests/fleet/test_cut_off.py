"""A node that is rescued although it lives: cut off it counts as no death, standing still as one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from colony import EventType
from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, Node, wait_until
from tests.fleet.helpers import node_name, records, wait_for_state
from tests.proxy import Proxy

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

WORKERS = 8


def fleet_of_two() -> Fleet:
    """For one node on either side of a proxy."""
    return Fleet(
        "tests.definitions:snail", nodes=0, lease="2", beat_interval="0.4", drain_grace="0.5"
    )


async def deaths(runtime: ColonyRuntime, ids: list[str]) -> set[int]:
    """How many deaths these workers are counted for."""
    return {record.resurrections for record in await records(runtime, ids)}


async def wait_for_deaths(runtime: ColonyRuntime, ids: list[str], count: int) -> None:
    """Wait until each is counted for so many."""

    async def counted() -> bool:
        return await deaths(runtime, ids) == {count}

    await wait_until(counted, 15, what=f"each is counted for {count} deaths")


async def two_sides(fleet: Fleet, proxy: Proxy, disk: Path) -> tuple[Node, str, list[str]]:
    """A node that reaches Redis through the proxy, its name, its workers; another one shares the work."""
    [node] = await fleet.add_nodes(redis_url=proxy.url, state_dir=str(disk))
    ids = await fleet.runtime.spawn("fetch", count=WORKERS)
    await wait_for_state(fleet.runtime, WorkerState.RUNNING, WORKERS)
    await fleet.add_nodes()
    name = await node_name(fleet.runtime, node)
    assert {record.node for record in await records(fleet.runtime, ids)} == {name}
    return node, name, ids


@contextmanager
def trouble_of(kind: str, node: Node, proxy: Proxy) -> Iterator[None]:
    """What keeps the node from its lease until the end of the block."""
    verbs = {
        "silent": (proxy.black_hole, proxy.open),
        "refused": (proxy.refuse, proxy.open),
        "frozen": (node.freeze, node.thaw),
    }
    begin, end = verbs[kind]
    begin()
    yield
    end()


@pytest.mark.parametrize("kind", ["silent", "refused", "frozen"])
async def test_who_was_only_cut_off_has_not_died(kind: str, tmp_path: Path) -> None:
    """Another node has rescued its workers, and they are counted. When it comes back the deaths are taken
    back, and that is told; of one that stood still they stand."""
    async with fleet_of_two() as fleet:
        runtime = fleet.runtime
        with Proxy(fleet.redis_url) as proxy:
            node, name, ids = await two_sides(fleet, proxy, tmp_path)
            with trouble_of(kind, node, proxy):
                await wait_for_deaths(runtime, ids, 1)
            await wait_until(lambda: "starting anew" in node.tail(200), 10, what="it is back")

            async def has_lease() -> bool:
                return name in {info.node for info in await runtime.list_nodes()}

            await wait_until(has_lease, 10, what="it has a lease again")
            died = kind == "frozen"
            assert await deaths(runtime, ids) == ({1} if died else {0})
            outcomes = {record.attempts[0].outcome for record in await records(runtime, ids)}
            assert outcomes == {f"node {name} died" if died else f"node {name} was cut off"}
            kept = runtime.events(types=[EventType.NODE_EXONERATED], after="0", follow=False)
            told = [event.data["workers"] async for event in kept]
            assert told == ([] if died else [WORKERS])


async def test_a_drain_on_a_host_that_is_cut_off_is_no_death(tmp_path: Path) -> None:
    """Told to end while another node, which has Redis, takes it for dead. The next node on its disk says how
    it ended."""
    async with fleet_of_two() as fleet:
        runtime = fleet.runtime
        with Proxy(fleet.redis_url) as proxy:
            node, name, ids = await two_sides(fleet, proxy, tmp_path)
            proxy.refuse()
            node.terminate()
            assert await asyncio.to_thread(node.wait, 40) == 0
            await wait_for_deaths(runtime, ids, 1)
            [next_one] = await fleet.add_nodes(state_dir=str(tmp_path))
            await wait_for_deaths(runtime, ids, 0)
            outcomes = {record.attempts[0].outcome for record in await records(runtime, ids)}
            assert outcomes == {f"node {name} ended in its drain"}
            assert f"node {name} was told to end" in next_one.tail(200)
            assert len([*tmp_path.iterdir()]) == 1  # the next one lives


async def test_who_stood_still_has_died_also_if_told_to_end(tmp_path: Path) -> None:
    """A tool that stops node after node must not be saved by whoever ends them for it (a liveness probe)."""
    async with fleet_of_two() as fleet:
        with Proxy(fleet.redis_url) as proxy:
            node, name, ids = await two_sides(fleet, proxy, tmp_path)
            node.freeze()
            await wait_for_deaths(fleet.runtime, ids, 1)
            node.terminate()
            node.thaw()
            assert await asyncio.to_thread(node.wait, 40) == 0
            assert await deaths(fleet.runtime, ids) == {1}
            outcomes = {record.attempts[0].outcome for record in await records(fleet.runtime, ids)}
            assert outcomes == {f"node {name} died"}
            assert [*tmp_path.iterdir()] == []
