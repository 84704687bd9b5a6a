"""Background work on one node with one slot: its agent goes on, sleeps without the slot, is told once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.runtime import ColonyRuntime
from colony.testing import Fleet
from tests.fleet.background_helpers import blocks_in, dispatches_in, handles_in, units_of
from tests.fleet.helpers import assert_at_rest, assert_told_once, records
from tests.fleet.tree_helpers import joins_told, total
from tests.tour.helpers import report_of

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS = ReportStatus.SUCCESS


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """ONE node with ONE slot; at the end nothing is left of all this work."""
    async with Fleet(
        "tests.fleet.background_definitions:background", concurrency=1, sweep_interval="0.1"
    ) as fleet:
        yield fleet
        await assert_at_rest(fleet.redis_url, "background")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


async def test_the_way_of_a_unit_on_one_slot(runtime: ColonyRuntime) -> None:
    """Dispatched, a text held back, the parent asleep while its unit has the only slot, told in a
    message of its own, asked again, reported: each once."""
    accepted = await total(runtime, "accepted")
    [parent] = await runtime.spawn("one rest 0.3", correlation_id="way")
    report = await report_of(runtime, parent)
    assert (report.status, report.summary, report.left_running) == (SUCCESS, "All told.", ())
    [dispatch] = dispatches_in(report)
    assert dispatch["status"] == "dispatched"
    assert handles_in(report) == [dispatch["handle"]]
    prompt, calls = "UserPromptPart", ["answer", "ToolReturnPart"]
    assert report.data["order"] == [prompt, *calls, "answer", "told"]
    [unit] = await runtime.get_children(parent)
    [by, child] = await records(runtime, [parent, unit])
    assert (child.parent_id, child.correlation_id) == (parent, "way")
    assert child.task == "rest 0.3\n\nContext:\nIt is winter."
    assert len(by.attempts) == 2, "it sleeps once, and wakes once"
    assert await total(runtime, "accepted") == accepted + 2
    await assert_told_once(runtime, [parent, unit])
    assert len(await joins_told(runtime, str(dispatch["handle"]))) == 1
    asked = [part for part in await runtime.get_conversation(parent) if part["kind"] == "answer"]
    assert len(asked) == by.requests == 3


async def test_a_block_can_be_read_without_the_history(runtime: ColonyRuntime) -> None:
    """Nothing is told while one of two is out; then one block with all of both (16). A member that
    failed is told beside the other."""
    [parent] = await runtime.spawn("batch rest 0.3 / fail")
    report = await report_of(runtime, parent)
    assert report.status is SUCCESS
    [block] = blocks_in(report)
    assert ": 1 success, 1 failed\n" in block or ": 1 failed, 1 success\n" in block
    first, second = block.split("--- TASK ")[1:]
    for number, text in enumerate((first, second), 1):
        assert text.startswith(f"{number} of 2 ---\nGoal: ")
        assert "Context:\nIt is winter." in text
        assert f'Data: {{"number": {number}}}' in text
        assert "Agent: scout; model: scripted; tools: rest\n" in text
    assert first.startswith("1 of 2 ---\nGoal: rest 0.3\n")
    assert "Status: success after " in first
    assert "Result: Rested." in first
    assert "Status: failed after " in second
    assert "Result: Could not fetch." in second
    [record] = await records(runtime, [parent])
    assert len(record.attempts) == 2, "it was woken before both were in"


async def test_several_units_are_each_told_once(runtime: ColonyRuntime) -> None:
    """Three in one answer: three blocks, no message mixed, and the report after the last."""
    [parent] = await runtime.spawn("each fetch / rest 0.2 / fail")
    report = await report_of(runtime, parent)
    handles = [dispatch["handle"] for dispatch in dispatches_in(report)]
    assert sorted(handles_in(report)) == sorted(str(handle) for handle in handles)
    assert len(handles) == 3
    assert set(report.data["order"]) <= {"UserPromptPart", "answer", "ToolReturnPart", "told"}  # type: ignore[arg-type]


async def test_a_unit_of_a_unit(runtime: ColonyRuntime) -> None:
    """Its worker has work done in the background itself: three levels on one slot, each told of its own."""
    [root] = await runtime.spawn("nested rest 0.2")
    report = await report_of(runtime, root, 20)
    [block] = blocks_in(report)
    assert "Result: All told." in block
    assert "Result: Rested." in block, "the middle one was told by its own"
    [middle] = await runtime.get_children(root)
    [leaf] = await runtime.get_children(middle)
    assert [r.depth for r in await records(runtime, [root, middle, leaf])] == [0, 1, 2]
    await assert_told_once(runtime, [root, middle, leaf])


async def test_one_that_leaves_names_what_it_leaves(runtime: ColonyRuntime) -> None:
    """at_end="leave": its report comes first and names the unit, which runs and ends after it."""
    [parent] = await runtime.spawn("one rest 0.3", agent="leaver")
    report = await report_of(runtime, parent)
    assert (report.status, report.summary) == (SUCCESS, "That is all, I think.")
    [child] = await runtime.get_children(parent)
    [handle] = await units_of(runtime, parent)
    assert report.left_running == (handle,)
    assert (await report_of(runtime, child)).summary == "Rested."
    [by, unit] = await records(runtime, [parent, child])
    assert by.ended_at is not None
    assert unit.ended_at is not None
    assert by.ended_at < unit.ended_at
    assert await runtime.wait_for_batch(handle, timeout=5) is not None
    await assert_told_once(runtime, [parent, child])


async def test_beyond_its_capacity_a_dispatch_is_refused(runtime: ColonyRuntime) -> None:
    """Capacity 1 and `reject`: one is accepted, the other is told the capacity and spawns nothing (17)."""
    accepted = await total(runtime, "accepted")
    [parent] = await runtime.spawn("each fetch / fetch", agent="strict")
    report = await report_of(runtime, parent)
    taken, refused = dispatches_in(report)
    assert taken["status"] == "dispatched"
    assert "at most 1 may be (max_async_children)" in str(refused)
    assert len(handles_in(report)) == 1
    assert await total(runtime, "accepted") == accepted + 2
