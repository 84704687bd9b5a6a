"""Nodes that die, freeze or leave: their workers go on elsewhere, and each reports once."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, Node, wait_until
from tests.fleet.helpers import (
    assert_at_rest,
    assert_told_once,
    node_name,
    records,
    statuses,
    wait_for_state,
)

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

RESCUED_WITHIN_SECONDS = 10.0
"""Lease 4 s + sweep 0.5 s by default, and as much again for a busy machine."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """Redis and a producer; each test starts the nodes that it kills."""
    async with Fleet("tests.fleet.definitions:deadly", nodes=0) as fleet:
        yield fleet


async def end(*nodes: Node) -> None:
    """Let nodes leave in order, for the next test."""
    for node in nodes:
        node.terminate()
    for node in nodes:
        assert node.wait() == 0


async def running_on(runtime: ColonyRuntime, ids: list[str], node: str) -> list[str]:
    """Those of these workers that run on a node now."""
    found = await records(runtime, ids)
    return [r.worker_id for r in found if r.node == node and r.state is WorkerState.RUNNING]


async def test_workers_of_a_killed_node_are_restarted_elsewhere_within_lease_and_sweep(
    running: Fleet,
) -> None:
    """kill -9 of one of two nodes with 50 running workers: 50 reports, rescued after 4 to 5 s."""
    runtime = running.runtime
    victim, survivor = await running.add_nodes(2)
    names = {"victim": await node_name(runtime, victim)}
    ids = await runtime.spawn("sleep", count=50)
    await wait_for_state(runtime, WorkerState.RUNNING, 50)
    theirs = await running_on(runtime, ids, names["victim"])
    assert 0 < len(theirs) < 50
    victim.kill()
    killed = time.monotonic()

    async def all_claimed_again() -> bool:
        return all(r.epoch == 2 for r in await records(runtime, theirs))

    reports_later = runtime.wait_for_worker_reports(ids, timeout=0, stop_on_timeout=False)
    assert {report.status for report in await reports_later} == {ReportStatus.TIMEOUT}
    await wait_until(all_claimed_again, 20, what="rescued workers run again")
    measured = time.monotonic() - killed
    print(f"{len(theirs)} of 50 workers ran again {measured:.2f} s after kill -9")
    assert measured <= RESCUED_WITHIN_SECONDS
    await _assert_attempts_tell(runtime, theirs, names["victim"])
    await runtime.stop_all_workers()
    reports = await runtime.wait_for_worker_reports(ids, timeout=15)
    assert statuses(reports)[ReportStatus.STOPPED] == 50 - len(theirs)
    assert statuses(reports)[ReportStatus.SUCCESS] == len(theirs)
    await assert_told_once(runtime, ids)
    await assert_at_rest(running.redis_url, "deadly")
    await end(survivor)


async def _assert_attempts_tell(runtime: ColonyRuntime, ids: list[str], dead: str) -> None:
    for record in await records(runtime, ids):
        first, second = record.attempts
        assert (first.node, first.outcome) == (dead, f"node {dead} died")
        assert second.node != dead
        assert record.resurrections == 1


async def test_a_frozen_node_that_comes_back_writes_nothing(running: Fleet) -> None:
    """A node frozen past its lease and thawed: its late writes are refused, each worker ends once."""
    runtime = running.runtime
    frozen, other = await running.add_nodes(2)
    name = await node_name(runtime, frozen)
    refused = (await runtime.get_stats()).totals.get("stale_refused", 0)
    ids = await runtime.spawn("nap", count=40)
    await wait_for_state(runtime, WorkerState.RUNNING, 40)
    theirs = await running_on(runtime, ids, name)
    assert theirs
    frozen.freeze()
    reports = await runtime.wait_for_worker_reports(ids, timeout=20)
    assert statuses(reports) == {ReportStatus.SUCCESS: 40}
    settled = await records(runtime, ids)
    parts = [await runtime.get_conversation(worker_id) for worker_id in ids]
    frozen.thaw()

    async def is_back() -> bool:
        return any(i.pid == frozen.pid and i.lease_seconds > 0 for i in await runtime.list_nodes())

    await wait_until(is_back, 10, what="the thawed node has a lease again")
    await wait_until(lambda: "was lost: its workers were rescued" in frozen.tail(500), 5)
    await wait_until(lambda: frozen.tail(500).count("dropped here") >= len(theirs), 5)
    late = (await runtime.get_stats()).totals.get("stale_refused", 0) - refused
    print(f"{len(theirs)} workers of the frozen node, {late} late writes refused")
    assert await records(runtime, ids) == settled
    assert [await runtime.get_conversation(worker_id) for worker_id in ids] == parts
    await _assert_attempts_tell(runtime, theirs, name)
    await assert_told_once(runtime, ids)

    again = await runtime.spawn("fetch", count=20)
    assert statuses(await runtime.wait_for_worker_reports(again, timeout=10)) == {"success": 20}
    await end(frozen, other)


async def first_not_taken(runtime: ColonyRuntime) -> str:
    """The first worker that a leaving node does not take; one or two may be on their way to it."""
    for _ in range(4):
        [late] = await runtime.spawn("fetch")
        if await runtime.wait_for_worker(late, timeout=0.6) is None:
            return late
    raise AssertionError("the node goes on taking workers after SIGTERM")


async def test_sigterm_lets_calls_in_flight_finish(running: Fleet) -> None:
    """SIGTERM: the calls in flight end here, and their workers go on elsewhere from there; nothing more
    is taken; exit 0, no lease left."""
    runtime = running.runtime
    [leaving] = await running.add_nodes()
    name = await node_name(runtime, leaving)
    ids = await runtime.spawn("long-nap", count=20)
    await wait_for_state(runtime, WorkerState.RUNNING, 20)
    leaving.terminate()
    await wait_until(lambda: "Warm shutdown" in leaving.tail(500), 5, what="the node leaves")
    late = await first_not_taken(runtime)
    assert leaving.wait() == 0
    assert {r.state for r in await records(runtime, ids)} == {WorkerState.PENDING}
    assert name not in {info.node for info in await runtime.list_nodes()}
    assert (await records(runtime, [late]))[0].attempts == ()

    [heir] = await running.add_nodes()
    there = await node_name(runtime, heir)
    reports = await runtime.wait_for_worker_reports([late, *ids], timeout=15)
    assert statuses(reports) == {ReportStatus.SUCCESS: 21}
    done = await records(runtime, ids)
    assert [[(a.node, a.outcome) for a in r.attempts] for r in done] == [
        [(name, "handed over"), (there, "success")]
    ] * 20
    assert {r.resurrections for r in done} == {0}
    await end(heir)


async def test_a_worker_that_kills_its_nodes_is_quarantined() -> None:
    """A worker that kills its node each time is failed as lost after max_resurrections + 1 attempts;
    the supervisor restarts the nodes, and the other workers report."""
    async with Fleet(
        "tests.fleet.definitions:deadly",
        nodes=0,
        lease="1.5",
        beat_interval="0.4",
        max_resurrections="2",
    ) as fleet:
        nodes = supervise(fleet, processes=2)
        runtime = fleet.runtime
        await wait_until(lambda: nodes.tail(500).count(" ready.") == 2, 20, what="two nodes")
        [poison] = await runtime.spawn("poison")
        others = await runtime.spawn("nap", count=20)
        report = await runtime.wait_for_worker(poison, timeout=45)
        assert report is not None
        assert (report.status, report.error) == (ReportStatus.FAILED, "lost")
        [record] = await records(runtime, [poison])
        assert len(record.attempts) == 3
        assert all("died" in str(attempt.outcome) for attempt in record.attempts[:2])
        reports = await runtime.wait_for_worker_reports(others, timeout=20)
        assert statuses(reports) == {ReportStatus.SUCCESS: 20}
        await assert_told_once(runtime, [poison, *others])
        assert nodes.tail(500).count("another is started") >= 2
        nodes.terminate()
        assert nodes.wait() == 0


def supervise(fleet: Fleet, processes: int) -> Node:
    """A supervisor with so many nodes, in the fleet's environment; it ends with the fleet."""
    made = fleet.start_node()
    made.kill()
    command = [sys.executable, "-m", "workers", fleet.definition, "--processes", str(processes)]
    node = Node([*command, "--concurrency", "100"], fleet._env(), None, made.log)
    fleet.nodes.append(node)
    return node
