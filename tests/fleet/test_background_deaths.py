"""Background work beside nodes that die, stops, deadlines and a queue: one report, each end told once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, Node, wait_until
from tests.fleet.background_helpers import blocks_in, dispatches_in, handles_in, units_of
from tests.fleet.helpers import assert_at_rest, assert_told_once, records
from tests.fleet.tree_helpers import children_of, gates, joins_told, total, until_states
from tests.tour.helpers import report_of

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS, PARTIAL, STOPPED = ReportStatus.SUCCESS, ReportStatus.PARTIAL, ReportStatus.STOPPED
PARKED, RUNNING = WorkerState.PARKED, WorkerState.RUNNING


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """One node with room for all; a test that kills it starts the next one."""
    with gates(tmp_path_factory.mktemp("gates")):
        async with Fleet(
            "tests.fleet.background_definitions:background",
            concurrency=12,
            lease="1.5",
            beat_interval="0.4",
            sweep_interval="0.1",
        ) as fleet:
            yield fleet
            await assert_at_rest(fleet.redis_url, "background")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


@pytest.fixture
def folder(running: Fleet) -> Path:
    """Where a test opens gates."""
    return Path(running._env()["TEST_GATES"])


def the_node(fleet: Fleet) -> Node:
    """The one that lives."""
    [alive] = [node for node in fleet.nodes if node.process.poll() is None]
    return alive


async def assert_told_of_one_unit(runtime: ColonyRuntime, parent: str, unit: str) -> None:
    """The parent reported once, after one dispatch, one join and one block."""
    report = await report_of(runtime, parent, 30)
    assert (report.status, report.left_running) == (SUCCESS, ())
    [dispatch] = dispatches_in(report)
    assert handles_in(report) == [dispatch["handle"]]
    assert "Result: Held." in blocks_in(report)[0]
    assert len(await joins_told(runtime, dispatch["handle"])) == 1
    assert await runtime.get_children(parent) == [unit]
    await assert_told_once(runtime, [parent, unit])


async def test_a_node_that_dies_while_the_parent_waits(
    running: Fleet, runtime: ColonyRuntime, folder: Path
) -> None:
    """kill -9 while the parent sleeps and its unit runs: the unit is rescued, the parent is woken and
    told once; no death is counted for the parent."""
    accepted = await total(runtime, "accepted")
    [parent] = await runtime.spawn("one hold waits")
    [unit] = await children_of(runtime, parent, 1)
    await until_states(runtime, [parent], PARKED)
    await until_states(runtime, [unit], RUNNING)
    [asleep] = await records(runtime, [parent])
    assert asleep.waits_for == "children"
    the_node(running).kill()
    (folder / "waits").touch()
    await running.add_nodes()
    await assert_told_of_one_unit(runtime, parent, unit)
    assert [r.resurrections for r in await records(runtime, [parent, unit])] == [0, 1]
    assert await total(runtime, "accepted") == accepted + 2


async def test_a_node_that_dies_while_the_parent_and_its_unit_run(
    running: Fleet, runtime: ColonyRuntime, folder: Path
) -> None:
    """kill -9 while the parent works on and its unit runs: both are rescued, the dispatch is not made
    again, and its end is told once."""
    accepted = await total(runtime, "accepted")
    [parent] = await runtime.spawn("work hold unit / both")
    [unit] = await children_of(runtime, parent, 1)
    await until_states(runtime, [parent, unit], RUNNING)
    the_node(running).kill()
    (folder / "unit").touch()
    await running.add_nodes()
    await report_of(runtime, unit, 30)
    (folder / "both").touch()
    await assert_told_of_one_unit(runtime, parent, unit)
    assert [r.resurrections for r in await records(runtime, [parent, unit])] == [1, 1]
    assert await total(runtime, "accepted") == accepted + 2


async def test_a_unit_that_ended_while_its_parent_was_dead(
    running: Fleet, runtime: ColonyRuntime, folder: Path
) -> None:
    """The unit has ended and was not told when the node dies under its working parent: told once, after
    the results of the calls that were open."""
    [parent] = await runtime.spawn("work hold early / late")
    [unit] = await children_of(runtime, parent, 1)
    await until_states(runtime, [parent, unit], RUNNING)
    (folder / "early").touch()
    await report_of(runtime, unit)
    the_node(running).kill()
    (folder / "late").touch()
    await running.add_nodes()
    await assert_told_of_one_unit(runtime, parent, unit)
    report = await report_of(runtime, parent)
    calls = ["answer", "ToolReturnPart"]
    assert report.data["order"] == ["UserPromptPart", *calls, *calls, "told"]


async def test_a_queue_of_units_runs_one_after_the_other(runtime: ColonyRuntime) -> None:
    """Capacity 1 and `queue`, and slots for all: each starts when the one before has ended, first come
    first served; the parent is told of each (17)."""
    [parent] = await runtime.spawn("each rest 0.3 / rest 0.2 / fail", agent="patient")
    report = await report_of(runtime, parent)
    handles = [dispatch["handle"] for dispatch in dispatches_in(report)]
    assert handles_in(report) == handles
    units = await units_of(runtime, parent)
    assert list(units) == handles
    found = await records(runtime, [members[0] for members in units.values()])
    assert [r.state.value for r in found] == ["COMPLETED", "COMPLETED", "FAILED"]
    for before, after in pairwise(found):
        assert before.ended_at is not None
        assert after.started_at is not None
        assert before.ended_at <= after.started_at
    await assert_told_once(runtime, [parent, *(r.worker_id for r in found)])


async def test_a_queued_unit_is_seen_waiting_and_can_be_stopped(
    runtime: ColonyRuntime, folder: Path
) -> None:
    """Its members wait for their siblings; stopped, its end is told while the first one still runs."""
    [parent] = await runtime.spawn("each hold first / hold never", agent="patient")
    await children_of(runtime, parent, 2)
    await until_states(runtime, [parent], PARKED)
    units = await units_of(runtime, parent)
    [first], [queued] = units.values()
    [record] = await records(runtime, [queued])
    assert (record.state, record.waits_for) == (PARKED, "siblings")
    assert await runtime.stop_worker(queued)
    assert (await report_of(runtime, queued)).status is STOPPED

    async def asleep_again() -> bool:
        [by] = await records(runtime, [parent])
        return by.state is PARKED and len(by.attempts) == 2

    await wait_until(asleep_again, what="the parent was woken and sleeps again")
    (folder / "first").touch()
    report = await report_of(runtime, parent)
    assert sorted(handles_in(report)) == sorted(units)
    assert handles_in(report)[0] == list(units)[1], "it was told when it ended"
    await assert_told_once(runtime, [parent, first, queued])


@pytest.mark.parametrize("agent", ["agent", "patient"])
async def test_the_stop_of_a_parent_takes_its_units_along(
    runtime: ColonyRuntime, agent: str
) -> None:
    """One that has reported and sleeps is stopped: what runs for it and what queues for it ends, too, within
    5 s; its report stands, and leaves nothing running."""
    [parent] = await runtime.spawn("each hold none / hold none", agent=agent)
    children = await children_of(runtime, parent, 2)
    await until_states(runtime, [parent], PARKED)
    assert await runtime.stop_worker(parent)
    await until_states(runtime, children, WorkerState.STOPPED, 5)
    report = await report_of(runtime, parent)
    assert (report.status, report.left_running) == (SUCCESS, ())
    for handle in await units_of(runtime, parent):
        assert await runtime.wait_for_batch(handle, timeout=5) is not None
    await assert_told_once(runtime, [parent, *children])


@pytest.mark.parametrize("how", ["stop", "deadline", "turn limit"])
async def test_a_report_filed_while_work_is_out_stands(
    running: Fleet, runtime: ColonyRuntime, folder: Path, how: str
) -> None:
    """A parent reports while its unit is out, and is ended before it can report again: by a stop after its
    node has died, by its hard deadline, by a limit. Its early report is the report."""
    agent = "brisk" if how == "turn limit" else "agent"
    deadline = timedelta(seconds=1.5) if how == "deadline" else None
    [parent] = await runtime.spawn("early hold filed", agent=agent, deadline=deadline)
    [unit] = await children_of(runtime, parent, 1)
    await until_states(runtime, [parent], PARKED)
    if how == "stop":
        the_node(running).kill()
        await running.add_nodes()
        assert await runtime.stop_worker(parent)
    elif how == "turn limit":
        (folder / "filed").touch()
    report = await report_of(runtime, parent, 30)
    assert (report.status, report.summary, report.data) == (PARTIAL, "So far.", {"rows": 2})
    await report_of(runtime, unit, 10)
    await assert_told_once(runtime, [parent, unit])


async def test_a_later_report_replaces_an_early_one(runtime: ColonyRuntime) -> None:
    """The parent reports while its unit is out, is told of its end, and reports again: that one counts."""
    [parent] = await runtime.spawn("early fetch")
    report = await report_of(runtime, parent)
    assert (report.status, report.summary) == (SUCCESS, "All told.")
    assert "Fetched 5 rows." in blocks_in(report)[0]


async def test_the_deadline_of_a_parent_takes_its_units_along(runtime: ColonyRuntime) -> None:
    """A parent that sleeps to its deadline ends with status timeout, and so does its unit."""
    [parent] = await runtime.spawn("one hold none", deadline=timedelta(seconds=1.5))
    [unit] = await children_of(runtime, parent, 1)
    assert (await report_of(runtime, parent)).status is ReportStatus.TIMEOUT
    assert (await report_of(runtime, unit)).status in (ReportStatus.TIMEOUT, STOPPED)


async def test_a_timeout_of_the_call_ends_the_unit_and_is_told(runtime: ColonyRuntime) -> None:
    """timeout_seconds passes: the unit ends with status timeout, and the parent is told so."""
    [parent] = await runtime.spawn("brief hold none")
    report = await report_of(runtime, parent)
    assert report.status is SUCCESS
    assert "Status: timeout after " in blocks_in(report)[0]


@pytest.mark.parametrize("script", ["one", "each"])
async def test_a_parent_does_not_sleep_beyond_its_soft_deadline(
    runtime: ColonyRuntime, folder: Path, script: str
) -> None:
    """It sleeps with a text (`one`) or a report (`each`) held back: at its soft deadline it ends, names
    the unit it leaves, and that goes on."""
    gate = f"soft-{script}"
    [parent] = await runtime.spawn(f"{script} hold {gate}", soft_deadline=timedelta(seconds=1))
    [unit] = await children_of(runtime, parent, 1)
    await until_states(runtime, [parent], PARKED)
    report = await report_of(runtime, parent, 5)
    assert report.status is SUCCESS
    assert report.left_running == tuple(await units_of(runtime, parent))
    assert [r.state for r in await records(runtime, [unit])] == [RUNNING]
    (folder / gate).touch()
    assert (await report_of(runtime, unit)).status is SUCCESS
    await assert_told_once(runtime, [parent, unit])
