"""Nodes die under batches and trees: no child twice, each batch joins once, each parent wakes.

Store and broker are two servers here: while the broker's writes are paused, an agent has accepted
its children and has not parked, for as long as a test wants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from redis import Redis

from colony import ReportStatus
from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, Node
from tests.fleet.helpers import assert_at_rest, assert_told_once, records
from tests.fleet.tree_helpers import (
    batch_of,
    children_of,
    gates,
    joined,
    joins_told,
    statuses_of,
    total,
    until_states,
)
from tests.tour.helpers import report_of

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS, STOPPED = ReportStatus.SUCCESS, ReportStatus.STOPPED
QUEUE = "colony.trees"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """A store, a broker of its own, and one node; a test that kills it starts the next one."""
    with gates(tmp_path_factory.mktemp("gates")), EmbeddedRedis() as broker:
        async with Fleet(
            "tests.fleet.tree_definitions:trees",
            concurrency=20,
            broker_url=broker.url,
            lease="1.5",
            beat_interval="0.4",
            sweep_interval="0.1",
        ) as fleet:
            yield fleet
            await assert_at_rest(fleet.redis_url, "trees")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


@pytest.fixture
def folder(running: Fleet) -> Path:
    """Where a test opens gates."""
    return Path(running._env()["TEST_GATES"])


@pytest.fixture
def broker(running: Fleet) -> Iterator[Redis]:
    """The server that holds the queue."""
    with Redis.from_url(running.runtime.settings.queue_url) as redis:
        yield redis


@contextmanager
def silent(broker: Redis) -> Iterator[None]:
    """Nothing is written to the broker meanwhile: who rings waits."""
    broker.client_pause(60_000, all=False)
    try:
        yield
    finally:
        broker.client_unpause()


def the_node(fleet: Fleet) -> Node:
    """The one that lives."""
    [alive] = [node for node in fleet.nodes if node.process.poll() is None]
    return alive


async def assert_one_family(runtime: ColonyRuntime, root: str, size: int, accepted: int) -> None:
    """One root with `size` children in one batch, all accepted, told and joined once."""
    children = await runtime.get_children(root)
    assert len(children) == size
    assert await total(runtime, "accepted") == accepted + 1 + size
    batch = await batch_of(runtime, children[0])
    assert sorted(batch) == children
    assert len(await joins_told(runtime, batch.id)) == 1
    await assert_told_once(runtime, [root, *children])


async def test_a_parent_that_dies_between_spawning_and_parking_has_each_child_once(
    running: Fleet, runtime: ColonyRuntime, broker: Redis
) -> None:
    """kill -9 after the children were accepted, before any was rung and before the parent parked: the
    same call is made again and finds the same children; they run and wake it."""
    accepted = await total(runtime, "accepted")
    [root] = await runtime.spawn("rest-fan 3 fetch")
    await until_states(runtime, [root], WorkerState.RUNNING)
    with silent(broker):
        first = await children_of(runtime, root, 3)
        [record] = await records(runtime, [root])
        assert record.state is WorkerState.RUNNING, "it parked before it was killed"
        the_node(running).kill()
    await running.add_nodes()
    report = await report_of(runtime, root, 30)
    assert (report.status, report.summary) == (SUCCESS, "3 children.")
    assert await runtime.get_children(root) == first
    [record] = await records(runtime, [root])
    assert record.resurrections == 1
    await assert_one_family(runtime, root, 3, accepted)


async def test_children_that_have_all_ended_before_the_parent_parks_wake_it(
    runtime: ColonyRuntime, broker: Redis
) -> None:
    """All children end while their parent has not yet parked: it does not sleep for ever."""
    accepted = await total(runtime, "accepted")
    [root] = await runtime.spawn("rest-fan 3 rest")
    await until_states(runtime, [root], WorkerState.RUNNING)
    with silent(broker):
        children = await children_of(runtime, root, 3)
        for child in children:
            assert await runtime.stop_worker(child)
        await until_states(runtime, children, WorkerState.STOPPED)
        await until_states(runtime, [root], WorkerState.RUNNING)
    report = await report_of(runtime, root, 20)
    assert str(report.data).count("'status': 'stopped'") == 3
    await assert_one_family(runtime, root, 3, accepted)


async def test_a_node_that_dies_with_parked_parents_and_running_children(
    running: Fleet, runtime: ColonyRuntime, folder: Path
) -> None:
    """kill -9 while parents are parked and children run: the children are rescued, one death each is
    counted for them and none for the parents, and each parent is woken once."""
    accepted = await total(runtime, "accepted")
    [root] = await runtime.spawn("fan 3 fan 2 hold parked")
    middle = await children_of(runtime, root, 3)
    leaves = [leaf for parent in middle for leaf in await children_of(runtime, parent, 2)]
    await until_states(runtime, leaves, WorkerState.RUNNING)
    await until_states(runtime, [root, *middle], WorkerState.PARKED)
    the_node(running).kill()
    (folder / "parked").touch()
    await running.add_nodes()
    report = await report_of(runtime, root, 30)
    assert (report.status, report.summary) == (SUCCESS, "3 children.")
    assert await total(runtime, "accepted") == accepted + 1 + 3 + 6
    assert [r.resurrections for r in await records(runtime, leaves)] == [1] * 6
    parents = await records(runtime, [root, *middle])
    assert [(r.resurrections, len(r.attempts)) for r in parents] == [(0, 2)] * 4
    await assert_told_once(runtime, [root, *middle, *leaves])
    for members in ([middle[0]], leaves[0::2]):
        for member in members:
            batch = await batch_of(runtime, member)
            assert len(await joins_told(runtime, batch.id)) == 1


async def test_a_batch_whose_node_dies_and_one_whose_doorbells_are_all_lost(
    running: Fleet, runtime: ColonyRuntime, broker: Redis, folder: Path
) -> None:
    """kill -9 with some members in and others running, and a second batch of which every doorbell is
    lost while no node lives: the next node runs what is left, and both join once."""
    first = await runtime.spawn_batch(["fetch", "hold lost", "fetch", "hold lost"])
    done, held = [first[0], first[2]], [first[1], first[3]]
    await until_states(runtime, held, WorkerState.RUNNING)
    await until_states(runtime, done, WorkerState.COMPLETED)
    the_node(running).kill()
    second = await runtime.spawn_batch(["fetch"] * 10)
    assert broker.llen(QUEUE) == 10
    broker.delete(QUEUE)
    (folder / "lost").touch()
    await running.add_nodes()
    assert statuses_of(await joined(runtime, first.id, 30)) == [SUCCESS] * 4
    assert statuses_of(await joined(runtime, second.id, 30)) == [SUCCESS] * 10
    found = await records(runtime, [*done, *held])
    assert [r.resurrections for r in found] == [0, 0, 1, 1]
    assert all(r.rings > 0 for r in await records(runtime, second))
    await assert_told_once(runtime, [*first, *second])
    for batch in (first, second):
        assert len(await joins_told(runtime, batch.id)) == 1
