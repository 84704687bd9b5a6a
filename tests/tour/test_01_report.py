"""The tour, 1: what goes in comes out as exactly one report."""

from __future__ import annotations

import asyncio

import pytest

from colony import ColonyRuntime, EventType, ReportStatus
from tests.tour.helpers import Calls, counts_of, report_of, results_of, the_report_told, told

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


async def test_a_worker_that_reports_is_told_of_once(runtime: ColonyRuntime) -> None:
    """Scenario 1: report_to_parent makes one SUBAGENT_REPORT with status, summary, data and task,
    and one EXECUTION_COMPLETED."""
    [worker] = await runtime.spawn("fetch the rows")
    report = await report_of(runtime, worker)
    expected = (ReportStatus.SUCCESS, "Fetched 5 rows", {"rows": 5})
    assert (report.status, report.summary, report.data) == expected
    reported = await the_report_told(runtime, worker)
    assert reported.worker_id == worker
    assert reported.data["task"] == "fetch the rows"
    assert tuple(reported.data[key] for key in ("status", "summary", "data")) == expected
    counts = await counts_of(runtime, worker)
    assert counts[EventType.EXECUTION_STARTED] == 1
    assert counts[EventType.EXECUTION_COMPLETED] == 1
    assert counts[EventType.EXECUTION_FAILED] == 0


async def test_the_story_of_a_worker_is_told_in_order(runtime: ColonyRuntime) -> None:
    """Each step of a worker is one event, in the order in which it happened, the report last."""
    [worker] = await runtime.spawn("echo twice")
    await report_of(runtime, worker)
    call = [
        EventType.LLM_TURN_COMPLETE,
        EventType.TOOL_CALL_STARTED,
        EventType.TOOL_CALL_COMPLETED,
    ]
    assert [event.type for event in await told(runtime, worker)] == [
        EventType.EXECUTION_ACCEPTED,
        EventType.EXECUTION_STARTED,
        *call,
        *call,
        EventType.LLM_TURN_COMPLETE,
        EventType.EXECUTION_COMPLETED,
        EventType.SUBAGENT_REPORT,
    ]


async def test_a_model_that_raises_makes_a_failed_report(runtime: ColonyRuntime) -> None:
    """Scenario 2: the model raises; there is one report, failed, with the error's words in it, and
    no waiter hangs."""
    [worker] = await runtime.spawn("raise an error")
    first, second = await asyncio.gather(report_of(runtime, worker), report_of(runtime, worker))
    assert first == second
    assert first.status is ReportStatus.FAILED
    assert first.error is not None
    assert "the model fell over" in first.error
    assert (await the_report_told(runtime, worker)).data["error"] == first.error
    counts = await counts_of(runtime, worker)
    assert (counts[EventType.EXECUTION_FAILED], counts[EventType.EXECUTION_COMPLETED]) == (1, 0)


async def test_a_worker_that_ends_with_text_is_reported_from_it(
    runtime: ColonyRuntime, calls: Calls
) -> None:
    """Scenario 3: text and no report_to_parent: a synthesised report at once, after one model call."""
    [worker] = await runtime.spawn("text only")
    report = await report_of(runtime, worker)
    assert (report.status, report.summary) == (ReportStatus.SUCCESS, "Here is what I found.")
    assert calls.of("text only") == [0]
    await the_report_told(runtime, worker)


async def test_text_beside_a_tool_call_is_not_the_report(runtime: ColonyRuntime) -> None:
    """Scenario 4: text first, report_to_parent in a later turn: the report is that one, and alone."""
    [worker] = await runtime.spawn("text-then-report")
    report = await report_of(runtime, worker)
    assert (report.status, report.summary) == (ReportStatus.SUCCESS, "Looked.")
    assert (await the_report_told(runtime, worker)).data["summary"] == "Looked."


async def test_a_report_among_other_calls_ends_the_worker(
    runtime: ColonyRuntime, calls: Calls
) -> None:
    """Scenario 6: calls beside the report are run or refused by rule, and the worker ends with the
    first report without another model call."""
    [worker] = await runtime.spawn("report-among-others")
    report = await report_of(runtime, worker)
    expected = (ReportStatus.PARTIAL, "Half of it.", {"rows": 2})
    assert (report.status, report.summary, report.data) == expected
    results = await results_of(runtime, worker)
    ran = [r["content"]["name"] for r in results if r["tool_name"] == "note"]
    assert ran == ["before", "after"]
    [unknown] = [r for r in results if r["tool_name"] == "no_such_tool"]
    assert "there is no tool 'no_such_tool'" in unknown["content"]
    filed = [r["outcome"] for r in results if r["tool_name"] == "report_to_parent"]
    assert filed == ["success", "failed"]
    assert calls.of("report-among-others") == [0]


async def test_a_report_that_is_none_is_mended_by_the_model(
    runtime: ColonyRuntime, calls: Calls
) -> None:
    """Scenario 7: an unknown status and arguments that are no JSON are errors that say what to mend;
    an empty summary and data that is no object are normalised."""
    [worker] = await runtime.spawn("mend it")
    report = await report_of(runtime, worker)
    unknown, garbled, taken = await results_of(runtime, worker)
    assert unknown["outcome"] == "retried"
    assert "success, partial, failed" in unknown["content"]
    assert "'excellent'" in unknown["content"]
    assert garbled["outcome"] == "retried"
    assert "not valid JSON" in garbled["content"]
    assert taken["outcome"] == "success"
    expected = (ReportStatus.SUCCESS, "(no summary given)", {"value": ["a", "b"]})
    assert (report.status, report.summary, report.data) == expected
    assert calls.of("mend it") == [0, 1, 2]
