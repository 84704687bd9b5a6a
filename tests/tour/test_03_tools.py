"""The tour, 3: what tools may do at the same time, and what one that hangs costs."""

from __future__ import annotations

import asyncio

import pytest

from colony import ColonyRuntime, EventType, ReportStatus
from colony.testing import wait_until
from tests.tour.helpers import counts_of, report_of, results_of

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


async def test_read_only_calls_of_one_answer_overlap(runtime: ColonyRuntime) -> None:
    """Scenario 28: three read-only calls of one answer all begin before the first of them ends."""
    [worker] = await runtime.spawn("overlap")
    assert (await report_of(runtime, worker)).ok
    looks = [r["content"] for r in await results_of(runtime, worker) if r["tool_name"] == "look"]
    assert sorted(look["name"] for look in looks) == ["a", "b", "c"]
    assert max(look["began"] for look in looks) < min(look["ended"] for look in looks)


async def test_the_other_calls_keep_their_order(runtime: ColonyRuntime) -> None:
    """Scenario 28: calls with effects run one after the other, in the order of the answer."""
    [worker] = await runtime.spawn("order")
    assert (await report_of(runtime, worker)).ok
    a, b, c = (r["content"] for r in await results_of(runtime, worker) if r["tool_name"] == "note")
    assert [note["name"] for note in (a, b, c)] == ["a", "b", "c"]
    assert a["ended"] <= b["began"]
    assert b["ended"] <= c["began"]


@pytest.mark.parametrize("script", ["hang", "hang-in-thread"])
async def test_a_tool_that_hangs_is_cut_by_its_own_limit(
    runtime: ColonyRuntime, script: str
) -> None:
    """Scenario 28: a call that never ends is cut at its limit of 0.5 s; the model is told and goes on."""
    [worker] = await runtime.spawn(script)
    report = await report_of(runtime, worker)
    assert (report.status, report.summary) == (ReportStatus.SUCCESS, "Was cut.")
    assert 0.5 <= report.duration_seconds < 5
    cut = (await results_of(runtime, worker))[0]
    assert cut["outcome"] == "failed"
    assert "timed out after 0.5 s" in cut["content"]


async def test_tools_that_hang_do_not_starve_the_node(runtime: ColonyRuntime) -> None:
    """Scenario 28: more hung tools than the node has threads (2): others get a thread nevertheless."""
    hung = await runtime.spawn("hang-in-thread", count=4)

    async def hold_threads() -> bool:
        counts = await asyncio.gather(*(counts_of(runtime, worker) for worker in hung))
        return all(count[EventType.TOOL_CALL_STARTED] for count in counts)

    await wait_until(hold_threads, what="four tools want the two threads")
    others = await runtime.spawn("thread", count=4)
    reports = await runtime.wait_for_worker_reports([*others, *hung], timeout=15)
    assert {report.status for report in reports} == {ReportStatus.SUCCESS}
    assert [report.summary for report in reports] == ["Had a thread."] * 4 + ["Was cut."] * 4
