"""Whom a stop reaches on a running fleet, and that what it tells is what it did."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from colony.models import WorkerState
from colony.operations import StoppedTree
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_at_rest, records
from tests.fleet.test_cli_batches import Commands
from tests.fleet.tree_helpers import children_of, until_states

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

STOPPED, RUNNING = WorkerState.STOPPED, WorkerState.RUNNING


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """ONE node with ONE slot; at the end nobody is left."""
    async with Fleet(
        "tests.fleet.background_definitions:background", concurrency=1, sweep_interval="0.1"
    ) as fleet:
        yield fleet
        await assert_at_rest(fleet.redis_url, "background")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


async def _started(runtime: ColonyRuntime) -> int:
    """How many workers have ever been run."""
    return sum(r.started_at is not None for r in await runtime.list_workers(limit=1000))


async def test_all_are_stopped_whatever_state_they_go_through(runtime: ColonyRuntime) -> None:
    """A cap lets those in line move up while others are stopped: none of them is missed, each is counted
    once, and nobody is started any more."""
    await runtime.set_limit("max_concurrent_workers", 4)
    batch = await runtime.spawn_batch(["rest 60"] * 14)
    await until_states(runtime, batch[:1], RUNNING)
    before = await _started(runtime)
    assert await runtime.stop_all_workers() == 14
    await until_states(runtime, batch, STOPPED)
    assert await _started(runtime) == before
    assert await runtime.stop_all_workers() == 0
    await runtime.set_limit("max_concurrent_workers", None)


async def test_who_is_spawned_while_all_are_stopped_lives(
    runtime: ColonyRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endless producer is not chased: meant are those that lived when the stop began."""
    [old] = await runtime.spawn("rest 60")
    new: list[str] = []
    living = runtime._store.living

    async def living_then_more() -> list[str]:
        found = await living()
        new.extend(await runtime.spawn("rest 60"))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(runtime._store, "living", living_then_more)
        assert await runtime.stop_all_workers() == 1
    await until_states(runtime, [old], STOPPED)
    await until_states(runtime, new, RUNNING)
    assert await runtime.stop_all_workers() == 1
    await until_states(runtime, new, STOPPED)


async def _left_behind(runtime: ColonyRuntime, lead: str) -> list[str]:
    """The lead has ended; its child sleeps until the child's own child has run."""
    await until_states(runtime, [lead], WorkerState.COMPLETED)
    [child] = await children_of(runtime, lead, 1)
    [below] = await children_of(runtime, child, 1)
    await until_states(runtime, [below], RUNNING)
    await until_states(runtime, [child], WorkerState.PARKED)
    return [child, below]


async def test_through_one_that_has_ended_its_descendants_are_stopped(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """A lead that left its work running: each stop that names it reaches them, and says how many."""
    [lead] = await runtime.spawn("nested rest 60", agent="leaver")
    left = await _left_behind(runtime, lead)
    assert await runtime.stop_tree(lead, "enough") == StoppedTree(itself=False, descendants=2)
    await until_states(runtime, left, STOPPED)
    assert await runtime.stop_worker(lead) is False, "nobody is left"

    batch = await runtime.spawn_batch([{"task": "nested rest 60", "agent": "leaver"}])
    left = await _left_behind(runtime, batch[0])
    assert await runtime.stop_batch(batch.id) == 2
    await until_states(runtime, left, STOPPED)
    assert await runtime.stop_batch(batch.id) == 0

    [lead] = await runtime.spawn("nested rest 60", agent="leaver")
    left = await _left_behind(runtime, lead)
    colony = Commands(running.redis_url)
    told = await colony.run("stop", lead, "--tree")
    assert "had ended already: its report is as it was. Stopped: 2 of its descendants" in told
    await until_states(runtime, left, STOPPED)
    told = await colony.json("stop", lead)
    assert told["workers"] == [{"worker_id": lead, "stopped": False, "descendants": 0}]


async def test_descendants_count_once_when_all_are_stopped(runtime: ColonyRuntime) -> None:
    """A parent that sleeps, its child, and its child's child: three."""
    [parent] = await runtime.spawn("nested rest 60")
    await wait_until(lambda: _is_grown(runtime, parent), what="the tree has grown")
    assert await runtime.stop_all_workers() == 3
    found = await records(runtime, await runtime.get_children(parent))
    assert [record.stopping or record.state for record in found] == [STOPPED]


async def _is_grown(runtime: ColonyRuntime, parent: str) -> bool:
    for child in await runtime.get_children(parent):
        below = await records(runtime, await runtime.get_children(child))
        [record] = await records(runtime, [child])
        return record.state is WorkerState.PARKED and [r.state for r in below] == [RUNNING]
    return False
