"""The tour, 4: who is stopped, and what comes too late."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from colony import ColonyRuntime, EventType, ReportStatus, WorkerState
from colony.errors import UnknownWorker
from colony.testing import Fleet, wait_until
from tests.tour.helpers import (
    Calls,
    counts_of,
    record_of,
    report_of,
    results_of,
    the_report_told,
    told,
    until_state,
)

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture(scope="module")
def marks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file in which the script "late" notes where it is."""
    return tmp_path_factory.mktemp("marks") / "marks.txt"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tour(calls: Calls, marks: Path) -> AsyncIterator[Fleet]:
    """A node whose heart beats too seldom to cut what the store has ended: only the fence is left."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_MARKS", str(marks))
        async with Fleet(
            "tests.tour.definitions:tour", beat_interval="20", lease="60", stop_grace="0.4"
        ) as running:
            yield running


async def test_a_running_worker_is_stopped(runtime: ColonyRuntime, calls: Calls) -> None:
    """A running worker that is stopped reports stopped, with the reason, and asks no model again."""
    [worker] = await runtime.spawn("sleep until stopped")
    await until_state(runtime, worker, WorkerState.RUNNING)
    assert await runtime.stop_worker(worker, "No longer needed.") is True
    report = await report_of(runtime, worker)
    assert (report.status, report.summary) == (ReportStatus.STOPPED, "No longer needed.")
    assert await runtime.stop_worker(worker) is False
    assert (await the_report_told(runtime, worker)).data["status"] == "stopped"
    assert calls.of("sleep until stopped") == [0]
    with pytest.raises(UnknownWorker):
        await runtime.stop_worker("nobody")


async def test_a_waiting_worker_is_stopped_at_once(runtime: ColonyRuntime) -> None:
    """A parked worker that is stopped has its report when stop_worker returns, and never wakes."""
    [worker] = await runtime.spawn("park")
    await until_state(runtime, worker, WorkerState.PARKED)
    assert await runtime.stop_worker(worker) is True
    report = await runtime.get_worker_result(worker)
    assert report is not None
    assert report.status is ReportStatus.STOPPED
    assert report == await report_of(runtime, worker, timeout=0)


@pytest.mark.parametrize("how", ["stopped", "timed out"])
async def test_a_filed_report_stands(runtime: ColonyRuntime, how: str) -> None:
    """Scenario 5: a worker has filed its report and lingers in another call: stopped or timed out,
    its report is the one it filed, told once."""
    [worker] = await runtime.spawn("file-and-linger")

    async def lingers() -> bool:
        started = (await counts_of(runtime, worker))[EventType.TOOL_CALL_STARTED]
        return bool(started) and bool(await results_of(runtime, worker))

    await wait_until(lingers, what="the report is filed and the other call runs")
    assert await runtime.get_worker_result(worker) is None
    if how == "stopped":
        assert await runtime.stop_worker(worker) is True
        report = await report_of(runtime, worker)
    else:
        [report] = await runtime.wait_for_worker_reports([worker], timeout=0)
    expected = (ReportStatus.SUCCESS, "Filed.", {"rows": 1})
    assert (report.status, report.summary, report.data) == expected
    assert await runtime.get_worker_result(worker) == report
    reported = await the_report_told(runtime, worker)
    assert (reported.data["status"], reported.data["data"]) == ("success", {"rows": 1})


async def test_a_late_completion_does_not_overwrite_a_cancellation(
    tour: Fleet, marks: Path
) -> None:
    """Scenario 36: a worker is stopped while its model does not listen; when the answer comes with a
    report of success, it is refused and kept as an event: the worker stays stopped."""
    runtime = tour.runtime
    refused = await _refused(runtime)
    [worker] = await runtime.spawn("late")
    await wait_until(lambda: _marks(marks) == ["began"], what="the model blocks the agent loop")
    _deafen(tour.redis_url)
    assert await runtime.stop_worker(worker) is True
    report = await report_of(runtime, worker)
    assert report.status is ReportStatus.STOPPED
    stopped = await record_of(runtime, worker)
    assert _marks(marks) == ["began"]

    async def was_refused() -> bool:
        return await _refused(runtime) > refused

    await wait_until(was_refused, what="the late report was refused")
    assert _marks(marks) == ["began", "ended"]
    assert await record_of(runtime, worker) == stopped
    assert await report_of(runtime, worker, timeout=0) == report
    assert (await the_report_told(runtime, worker)).data["status"] == "stopped"
    [late] = [e for e in await told(runtime, worker) if e.type == EventType.LATE_RESULT]
    assert late.data["status"] == "success"
    [again] = await runtime.spawn("fetch")
    assert (await report_of(runtime, again)).ok


def _marks(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


async def _refused(runtime: ColonyRuntime) -> int:
    return (await runtime.get_stats()).totals.get("stale_refused", 0)


def _deafen(redis_url: str) -> None:
    """Cut all plain subscriptions: a node whose loop is blocked hears nothing until it reconnects."""
    with Redis.from_url(redis_url) as redis:
        clients: list[dict[str, Any]] = redis.client_list(_type="pubsub")
        listeners = [client for client in clients if client["sub"] != "0"]
        assert listeners
        for client in listeners:
            redis.client_kill_filter(_id=client["id"])
