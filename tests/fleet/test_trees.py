"""Agents that spawn: trees that finish on a node with one slot, their limits, and their end."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, cast

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.models import Report, WorkerRecord, WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_at_rest, assert_told_once, records
from tests.fleet.tree_helpers import batch_of, children_of, joins_told, total, until_states
from tests.tour.helpers import report_of

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS, FAILED = ReportStatus.SUCCESS, ReportStatus.FAILED
STOPPED, TIMEOUT = ReportStatus.STOPPED, ReportStatus.TIMEOUT


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """ONE node with ONE slot; at the end nothing is left of all these trees."""
    async with Fleet(
        "tests.fleet.tree_definitions:trees", concurrency=1, sweep_interval="0.1"
    ) as fleet:
        yield fleet
        await assert_at_rest(fleet.redis_url, "trees")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


def told_in(report: Report) -> list[dict[str, Any]]:
    """The children's reports as their parent was told them."""
    return cast(list[dict[str, Any]], report.data["reports"])


async def family(runtime: ColonyRuntime, worker_id: str) -> list[str]:
    """A worker and all its descendants, level by level."""
    found, level = [worker_id], [worker_id]
    while level:
        below = await asyncio.gather(*(runtime.get_children(each) for each in level))
        level = [child for children in below for child in children]
        found += level
    return found


async def test_a_tree_of_depth_3_and_breadth_5_finishes_on_one_slot(runtime: ColonyRuntime) -> None:
    """31 workers on three levels and one slot: parents sleep without it, each batch joins once, and at
    the deepest level the spawning tool is neither offered nor obeyed."""
    accepted = await total(runtime, "accepted")
    [root] = await runtime.spawn("fan 5 fan 5 probe", correlation_id="tree")
    report = await report_of(runtime, root, 40)
    assert (report.status, report.summary) == (SUCCESS, "5 children.")
    middle = told_in(report)
    assert [m["summary"] for m in middle] == ["5 children."] * 5
    leaves = [leaf["data"] for m in middle for leaf in m["data"]["reports"]]
    assert [leaf["offered"] for leaf in leaves] == [False] * 25
    assert all("there is no tool 'run_parallel_workers'" in leaf["answer"] for leaf in leaves), (
        leaves
    )

    ids = await family(runtime, root)
    assert len(ids) == 31
    assert await total(runtime, "accepted") == accepted + 31
    found = await records(runtime, ids)
    _assert_lineage(found, root)
    await assert_told_once(runtime, ids)
    for batch in {r.batch_id for r in found if r.batch_id}:
        assert len(await joins_told(runtime, batch)) == 1
    assert [len(r.attempts) for r in found] == [2] * 6 + [1] * 25, (
        "a parent sleeps once, and wakes once"
    )


def _assert_lineage(found: list[WorkerRecord], root: str) -> None:
    """Root, depth and correlation of 31 records."""
    assert Counter(record.depth for record in found) == {0: 1, 1: 5, 2: 25}
    assert {record.root_id for record in found} == {root}
    assert {record.correlation_id for record in found} == {"tree"}
    depth = {record.worker_id: record.depth for record in found}
    assert all(depth[r.parent_id] == r.depth - 1 for r in found if r.parent_id)


async def test_reports_of_children_come_in_the_order_of_the_tasks(runtime: ColonyRuntime) -> None:
    """The first child ends last: all are told in input order, each with its status and data."""
    [root] = await runtime.spawn("each rest-fan 1 fetch / fail / fetch / far")
    reports = told_in(await report_of(runtime, root))
    assert [r["status"] for r in reports] == ["success", "failed", "success", "success"]
    assert reports[3]["data"] == {"n": 2**53 + 1, "empty": [], "text": "ü\u0000 {}"}
    ids = [r["worker_id"] for r in reports]
    ended = {r.worker_id: r.since for r in await records(runtime, ids)}
    assert max(ended, key=lambda worker: ended[worker]) == ids[0], "it did not end last"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": [{"task": "fetch"}, {"task": "  "}]}, "tasks[1].task is blank"),
        ({"tasks": [{"task": "fetch"}, {"task": "fetch", "data": [1]}]}, "tasks.1.data"),
        ({"tasks": [{"task": "fetch"}] * 65}, "65 tasks in one call, at most 64"),
        ({"tasks": [{"task": "fetch"}, {"task": "fetch", "agent": "queen"}]}, "tasks[1].agent"),
        ({"tasks": [{"task": "fetch"}], "timeout_seconds": 0}, "timeout_seconds must be positive"),
        ({"tasks": [{"task": "fetch"}], "timeout_seconds": 3e11}, "at most 315360000 (ten years)"),
    ],
)
async def test_a_bad_call_is_told_to_the_model_and_spawns_nothing(
    runtime: ColonyRuntime, arguments: dict[str, object], named: str
) -> None:
    """Empty list, blank task, data that are no object, 65 tasks: the model reads which, no child (12)."""
    accepted = await total(runtime, "accepted")
    [root] = await runtime.spawn(f"raw {json.dumps(arguments)}")
    report = await report_of(runtime, root)
    assert report.status is FAILED
    assert named in str(report.data["refused"])
    assert await runtime.get_children(root) == []
    assert await total(runtime, "accepted") == accepted + 1


async def test_a_timeout_of_the_call_ends_stragglers_and_wakes_the_parent(
    runtime: ColonyRuntime,
) -> None:
    """timeout_seconds passes: the child that has ended keeps its report, the others are timeout."""
    tasks = [{"task": task} for task in ("fetch", "rest", "rest")]
    [root] = await runtime.spawn(f"raw {json.dumps({'tasks': tasks, 'timeout_seconds': 1.5})}")
    report = await report_of(runtime, root)
    reports = told_in(report)
    assert [r["status"] for r in reports] == ["success", "timeout", "timeout"]


async def test_children_that_are_stopped_wake_their_parent(runtime: ColonyRuntime) -> None:
    """A child that runs and one that waits for the slot are stopped: the parent goes on with that."""
    [root] = await runtime.spawn("fan 2 rest")
    children = await children_of(runtime, root, 2)
    await until_states(runtime, [root], WorkerState.PARKED)
    for child in await batch_of(runtime, children[0]):
        assert await runtime.stop_worker(child)
    report = await report_of(runtime, root)
    reports = told_in(report)
    assert [r["status"] for r in reports] == ["stopped", "stopped"]


async def test_stopping_a_root_stops_its_tree(runtime: ColonyRuntime) -> None:
    """Running, queued and parked descendants are all terminal within 5 s, and nothing new is accepted."""
    [root] = await runtime.spawn("each rest-fan 3 rest / fan 4 rest / fan 4 rest")

    async def in_full() -> bool:
        found = await records(runtime, await family(runtime, root))
        states = Counter(record.state for record in found)
        return (states[WorkerState.PARKED], states[WorkerState.RUNNING], len(found)) == (4, 1, 15)

    await wait_until(in_full, 20, what="a tree with parked, running and queued workers")
    accepted = await total(runtime, "accepted")
    began = time.monotonic()
    assert await runtime.stop_worker(root)

    async def over() -> bool:
        return all(r.state.terminal for r in await records(runtime, await family(runtime, root)))

    await wait_until(over, 5, what="all of the tree are terminal")
    assert time.monotonic() - began < 5
    ids = await family(runtime, root)
    assert {r.state for r in await records(runtime, ids)} == {WorkerState.STOPPED}
    assert len(ids) == 15
    assert await total(runtime, "accepted") == accepted
    await assert_told_once(runtime, ids)
    [after] = await runtime.spawn("fetch")
    assert (await report_of(runtime, after)).ok


async def test_a_tree_that_is_stopped_while_it_grows_grows_no_more(runtime: ColonyRuntime) -> None:
    """Stopped while its agents are spawning: all terminal within 5 s, and nothing is accepted later."""
    for size in (2, 6, 9):
        [root] = await runtime.spawn("fan 4 fan 4 rest")

        async def grown(root: str = root, size: int = size) -> bool:
            return len(await family(runtime, root)) >= size

        await wait_until(grown, 10, what=f"a tree of {size}")
        await runtime.stop_worker(root)

        async def over(root: str = root) -> bool:
            return all(
                r.state.terminal for r in await records(runtime, await family(runtime, root))
            )

        await wait_until(over, 5, what="all of the tree are terminal")
        [after] = await runtime.spawn("fetch")
        accepted = await total(runtime, "accepted")
        assert (await report_of(runtime, after)).ok
        assert await over()
        assert await total(runtime, "accepted") == accepted


async def test_children_end_by_the_deadline_of_their_parent(runtime: ColonyRuntime) -> None:
    """Children inherit the deadline: they and their parked parent are timeout, soon after it."""
    began = time.monotonic()
    [root] = await runtime.spawn("fan 2 rest", deadline=timedelta(seconds=1.5))
    children = await children_of(runtime, root, 2)
    [parent, *theirs] = await records(runtime, [root, *children])
    assert [child.deadline for child in theirs] == [parent.deadline] * 2
    for worker in (root, *children):
        assert (await report_of(runtime, worker, 6)).status in (TIMEOUT, STOPPED)
    assert 1 < time.monotonic() - began < 6
    assert (await report_of(runtime, root)).status is TIMEOUT
    batch = await batch_of(runtime, children[0])
    assert await runtime.wait_for_batch(batch.id, timeout=5) is not None


async def test_many_parents_and_fast_children_all_come_through(runtime: ColonyRuntime) -> None:
    """40 parents whose children may be done before they park: each is woken, none twice."""
    parents = await runtime.spawn("fan 2 fetch", count=40)
    reports = await runtime.wait_for_worker_reports(parents, timeout=30)
    assert {(r.status, r.summary) for r in reports} == {(SUCCESS, "2 children.")}
    await assert_told_once(runtime, parents)


async def test_limits_of_a_tree_are_told_to_the_model() -> None:
    """max_depth=2 and max_descendants=5: the call beyond is refused with the limit, nothing is spawned."""
    async with Fleet("tests.fleet.tree_definitions:narrow", sweep_interval="0.1") as fleet:
        runtime = fleet.runtime
        too_many, five, twice, deep = [
            (await runtime.spawn(task))[0]
            for task in ("fan 6 fetch", "fan 5 fetch", "fan-twice 3 fetch", "fan 2 probe")
        ]
        refused = await report_of(runtime, too_many)
        assert (refused.status, await runtime.get_children(too_many)) == (FAILED, [])
        assert "5" in str(refused.data["refused"])
        assert "descendants" in str(refused.data["refused"])
        assert (await report_of(runtime, five)).summary == "5 children."
        second = await report_of(runtime, twice)
        assert "descendants" in str(second.data["refused"])
        assert len(await runtime.get_children(twice)) == 3
        report = await report_of(runtime, deep)
        assert str(report.data).count("'offered': False") == 2
        assert await total(runtime, "accepted") == 4 + 5 + 3 + 2
        await assert_at_rest(fleet.redis_url, "narrow")
