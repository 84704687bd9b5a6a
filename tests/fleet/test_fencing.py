"""A node that is cut off from Redis: it holds what it would do next, and drops what was rescued."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until
from tests.fleet.fencing_definitions import REFUSALS, TICKS, Noted, noted
from tests.fleet.helpers import (
    assert_at_rest,
    assert_told_once,
    node_name,
    records,
    statuses,
    wait_for_state,
)
from tests.proxy import Proxy

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

LEASE = 2.0
WORKERS = 20


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model notes its calls."""
    path = tmp_path / "calls"
    monkeypatch.setenv("TEST_CALLS", str(path))
    return path


@pytest_asyncio.fixture
async def running(calls: Path) -> AsyncIterator[Fleet]:
    """Redis and a producer, and a short lease."""
    async with Fleet(
        "tests.fleet.fencing_definitions:colony", nodes=0, lease=str(LEASE), beat_interval="0.4"
    ) as fleet:
        yield fleet


async def parts_of(runtime: ColonyRuntime, ids: list[str]) -> list[list[object]]:
    """The conversations of workers."""
    return [list(await runtime.get_conversation(worker_id)) for worker_id in ids]


def tasks() -> list[dict[str, str]]:
    """Half of them write after each model call, half ask the model again and again."""
    half = range(WORKERS // 2)
    return [
        *({"task": f"tick {n}"} for n in half),
        *({"task": f"refused {n}", "agent": "refused"} for n in half),
    ]


def begun_between(calls: list[Noted], since: float, until: float) -> list[Noted]:
    """Those model calls that began in a span of time."""
    return [call for call in calls if since < call.at < until]


async def test_a_partitioned_node_begins_no_call_and_writes_nothing_stale(
    running: Fleet, calls: Path
) -> None:
    """Cut off from Redis for longer than its lease, while another node rescues its workers: after the
    end of its lease it asks no model, and when the link heals nothing of it is written."""
    runtime = running.runtime
    with Proxy(running.redis_url) as proxy:
        [cut_off] = await running.add_nodes(redis_url=proxy.url)
        [other] = await running.add_nodes()
        name = await node_name(runtime, cut_off)
        ids = list(await runtime.spawn_batch(tasks()))
        await wait_for_state(runtime, WorkerState.RUNNING, WORKERS)
        theirs = [r.worker_id for r in await records(runtime, ids) if r.node == name]
        assert 0 < len(theirs) < WORKERS
        proxy.black_hole()
        cut = time.time()

        async def rescued() -> bool:
            return all(r.epoch == 2 for r in await records(runtime, theirs))

        await wait_until(rescued, 15, what="the other node has all workers")
        reports = await runtime.wait_for_worker_reports(ids, timeout=40)
        assert statuses(reports) == {ReportStatus.SUCCESS: WORKERS}
        settled, parts = await records(runtime, ids), await parts_of(runtime, ids)
        healed = time.time()
        proxy.open()
        await wait_until(
            lambda: cut_off.tail(500).count("dropped here") >= len(theirs), 10, what="all dropped"
        )
        assert begun_between(noted(calls), cut, cut + LEASE), "they ran when the link was cut"
        late = [
            call
            for call in begun_between(noted(calls), cut + LEASE, healed + 60)
            if call.pid == cut_off.pid
        ]
        assert late == []
        assert await records(runtime, ids) == settled
        assert await parts_of(runtime, ids) == parts
        await assert_told_once(runtime, ids)
        turns = {(call.task, call.turn) for call in noted(calls) if call.task.startswith("tick")}
        assert len(turns) == WORKERS // 2 * (TICKS + 1)
        stale = (await runtime.get_stats()).totals.get("stale_refused", 0)
        print(f"{len(theirs)} workers rescued, {stale} stale writes refused")

        await wait_for_lease(runtime, cut_off.pid)
        fresh = await runtime.spawn("tick again", count=4, agent="thinker")
        assert statuses(await runtime.wait_for_worker_reports(fresh, timeout=20)) == {"success": 4}
        await assert_at_rest(running.redis_url, "fenced")
        for node in (cut_off, other):
            node.terminate()
        for node in (cut_off, other):
            assert node.wait() == 0


async def wait_for_lease(runtime: ColonyRuntime, pid: int) -> None:
    """Wait until a node process has a lease."""

    async def has_lease() -> bool:
        return any(i.pid == pid and i.lease_seconds > 0 for i in await runtime.list_nodes())

    await wait_until(has_lease, 10, what=f"node {pid} has a lease")


@pytest.mark.parametrize("trouble", ["black_hole", "refuse"])
async def test_when_nobody_rescued_the_node_goes_on_with_its_token(
    running: Fleet, calls: Path, trouble: str
) -> None:
    """Redis is away for longer than a lease, for all: calls in flight are kept, none is begun, and
    when it is back every worker goes on where it was, in the same attempt."""
    runtime = running.runtime
    with Proxy(running.redis_url) as proxy:
        [node] = await running.add_nodes(redis_url=proxy.url)
        batch = await runtime.spawn_batch(tasks())
        thinking = await runtime.spawn("think", agent="thinker", count=3)
        ids = [*batch, *thinking]
        await wait_until(lambda: len(noted(calls)) > 3 * WORKERS, 15, what="all are at work")
        getattr(proxy, trouble)()
        cut = time.time()
        await wait_until(lambda: time.time() > cut + 1.6 * LEASE, what="the lease is over")
        healed = time.time()
        proxy.open()
        reports = await runtime.wait_for_worker_reports(ids, timeout=40)
        assert [report for report in reports if not report.ok] == []
        assert begun_between(noted(calls), cut + LEASE, healed) == []
        assert "new calls and writes are held" in node.tail(500)
        assert "the lease is good again" in node.tail(500)
        done = await records(runtime, ids)
        assert {(record.epoch, record.resurrections) for record in done} == {(1, 0)}
        made = Counter((call.task, call.turn) for call in noted(calls))
        assert {n for (task, _), n in made.items() if task.startswith("tick")} == {1}
        assert len(noted(calls)) == WORKERS // 2 * (TICKS + REFUSALS + 2) + 2 * len(thinking)
        assert (await runtime.get_stats()).totals.get("stale_refused", 0) == 0
        await assert_at_rest(running.redis_url, "fenced")
        node.terminate()
        assert node.wait() == 0


async def test_a_node_that_was_stopped_and_goes_on_begins_no_call_for_rescued_workers(
    running: Fleet, calls: Path
) -> None:
    """SIGSTOP past the lease, then SIGCONT: no model call, no write, the workers run elsewhere."""
    runtime = running.runtime
    frozen, other = await running.add_nodes(2)
    name = await node_name(runtime, frozen)
    ids = list(await runtime.spawn_batch(tasks()))
    await wait_for_state(runtime, WorkerState.RUNNING, WORKERS)
    theirs = [r.worker_id for r in await records(runtime, ids) if r.node == name]
    assert theirs
    frozen.freeze()

    async def rescued() -> bool:
        return all(r.epoch == 2 for r in await records(runtime, theirs))

    await wait_until(rescued, 15, what="the other node has all workers")
    thawed = time.time()
    frozen.thaw()
    reports = await runtime.wait_for_worker_reports(ids, timeout=40)
    assert statuses(reports) == {ReportStatus.SUCCESS: WORKERS}
    await wait_until(
        lambda: frozen.tail(500).count("dropped here") >= len(theirs), 10, what="all dropped"
    )
    after = [c for c in noted(calls) if c.pid == frozen.pid and c.at > thawed]
    rescued_tasks = {r.task for r in await records(runtime, theirs)}
    assert [c for c in after if c.task in rescued_tasks] == []
    assert {record.resurrections for record in await records(runtime, theirs)} == {1}
    await assert_told_once(runtime, ids)
    other.terminate()
