"""Scenario 22: a soft deadline warns the model in its next turn; the hard one ends it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from colony import ReportStatus
from colony.testing import Fleet

pytestmark = pytest.mark.fleet


async def test_soft_warns_and_hard_ends(fleet: type[Fleet]) -> None:
    """Three workers: no deadline, a soft one that passes in the first call, a hard one that does."""
    async with fleet("tests.definitions:basic") as running:
        runtime, soon = running.runtime, timedelta(seconds=0.3)
        [free] = await runtime.spawn("hurry")
        [soft] = await runtime.spawn("hurry", soft_deadline=soon)
        [hard] = await runtime.spawn("hurry", deadline=soon)
        reports = await runtime.wait_for_worker_reports([free, soft, hard], timeout=20)
        statuses = [report.status for report in reports]
        assert statuses == [ReportStatus.SUCCESS, ReportStatus.PARTIAL, ReportStatus.TIMEOUT]
        assert reports[1].data == {"told": True}
