"""Scenario 22: a soft deadline warns the model in its next turn; the hard one ends it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from colony import ReportStatus
from colony.errors import InvalidTask
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


async def test_deadlines_count_from_the_acceptance(fleet: type[Fleet]) -> None:
    """Both do, whatever the worker waits for: a hard one ends it while it waits for its time, a soft one
    that passes by then is refused, as a duration or a time, and one that does not warns when it is over."""
    async with fleet("tests.definitions:basic") as running:
        runtime, second = running.runtime, timedelta(seconds=1)
        for not_before in (second * 60, await runtime.now() + second * 60):
            for spawn in (
                runtime.spawn("hurry", **late(not_before, second)),
                runtime.spawn_batch(["hurry"], **late(not_before, second * 59)),
            ):
                with pytest.raises(
                    InvalidTask, match="soft_deadline: expected more than not_before"
                ):
                    await spawn
        [hard] = await runtime.spawn("hurry", deadline=second / 2, not_before=second * 60)
        [free] = await runtime.spawn("hurry", soft_deadline=second * 60, not_before=second / 5)
        [soft] = await runtime.spawn("hurry", soft_deadline=second, not_before=second / 2)
        reports = await runtime.wait_for_worker_reports([hard, free, soft], timeout=20)
        statuses = [report.status for report in reports]
        assert statuses == [ReportStatus.TIMEOUT, ReportStatus.SUCCESS, ReportStatus.PARTIAL]
        assert reports[0].duration_seconds == 0
        assert (await runtime.get_stats()).totals["accepted"] == 3


def late(not_before: timedelta | datetime, soft_deadline: timedelta) -> dict[str, Any]:
    """The options of a worker whose time is nearly up before it begins."""
    return {"not_before": not_before, "soft_deadline": soft_deadline}
