"""Always-replay (`tests.replay`) does what it says: a slice for each checkpoint, nothing asked twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from colony import ReportStatus
from colony.testing import Fleet
from tests.fleet.helpers import assert_told_once, records
from tests.fleet.slices import lines_of

pytestmark = pytest.mark.fleet


async def test_every_checkpoint_ends_a_slice_and_nothing_is_paid_twice(
    fleet: type[Fleet], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nine answers and eight results: a slice for each, and one for the end; nine questions; one mail."""
    monkeypatch.setenv("TEST_REPLAY", "1")
    monkeypatch.setenv("TEST_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("TEST_MAILS", str(tmp_path / "mails"))
    async with fleet("tests.definitions:basic") as running:
        runtime = running.runtime
        ids = await runtime.spawn_batch(["long", "side-effect", "order", "park"])
        reports = await runtime.wait_for_worker_reports(ids, timeout=30)
        assert {report.status for report in reports} == {ReportStatus.SUCCESS}
        found = await records(runtime, ids)
        assert [len(record.attempts) for record in found] == [9 + 8 + 1, 2 + 1 + 1, 2 + 3 + 1, 4]
        assert {record.resurrections for record in found} == {0}
        assert len(lines_of(tmp_path / "calls")) == 9 + 2 + 2 + 2
        assert len(lines_of(tmp_path / "mails")) == 1
        await assert_told_once(runtime, ids)
