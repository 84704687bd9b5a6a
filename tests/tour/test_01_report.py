"""The tour, 1: what goes in comes out as exactly one report."""

from __future__ import annotations

from colony import EventType, ReportStatus
from colony.testing import Fleet

pytestmark = []


async def test_a_worker_that_reports_is_told_of_once(fleet: type[Fleet]) -> None:
    """Scenario 1: report_to_parent makes exactly one SUBAGENT_REPORT and one EXECUTION_COMPLETED."""
    async with fleet("tests.definitions:basic") as running:
        runtime = running.runtime
        [worker] = await runtime.spawn("fetch the rows")
        report = await runtime.wait_for_worker(worker, timeout=10)
        assert report is not None
        assert (report.status, report.summary, report.data) == (ReportStatus.SUCCESS, "Fetched 5 rows", {"rows": 5})
        told = [event async for event in runtime.events(after="0", worker_id=worker, follow=False)]
        [completed] = [e for e in told if e.type == EventType.EXECUTION_COMPLETED]
        [reported] = [e for e in told if e.type == EventType.SUBAGENT_REPORT]
        assert reported.data["task"] == "fetch the rows"
        assert reported.data["data"] == {"rows": 5}
        assert completed.worker_id == reported.worker_id == worker
