"""The producer: a folder goes in, `survey.md` comes out.

    async with ColonyRuntime("survey") as runtime:
        result = await survey(runtime, Path("."), Path("survey.md"))

The nodes must see the folder under the same path: run them on this host or on a shared disk.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pydantic import JsonValue

from colony.errors import ConfigurationError
from colony.examples.survey.files import GROUP, MAX_FILES, Chosen, choose_files
from colony.examples.survey.page import check_output
from colony.models import Event, EventType, Report, ReportStatus, WorkerRecord

if TYPE_CHECKING:
    from colony.runtime import ColonyRuntime

GRACE_SECONDS = 5.0
"""Deadlines are the store's to keep: how long we wait for its word beyond one."""

OnProgress = Callable[[int, int, Report], None]
"""Called with (reports so far, files in all, the report that just came)."""


@dataclass(frozen=True, slots=True)
class SurveyResult:
    """What came of a survey. `reports` belong to `files`, in the same order.

    `editor` is the report of who wrote the page: where it is not `ok`, there is no new page.
    """

    output: Path
    files: tuple[str, ...]
    reports: tuple[Report, ...]
    editor: Report
    left_out: int
    reading_seconds: float
    writing_seconds: float

    @property
    def failed(self) -> list[tuple[str, Report]]:
        """The files that nobody could report on, and why."""
        return [(f, r) for f, r in zip(self.files, self.reports, strict=True) if not r.ok]

    @property
    def written(self) -> bool:
        """Whether the page at `output` is of this survey."""
        return self.editor.ok


async def survey(
    runtime: ColonyRuntime,
    folder: Path,
    output: Path = Path("survey.md"),
    *,
    on_progress: OnProgress | None = None,
    max_files: int = 200,
    timeout: float = 600.0,
) -> SurveyResult:
    """Survey `folder`: a lead has each file read by a worker, then `output` written by an editor.

    A file that fails is named on the page and in the result, and does not stop the survey. A group
    of readers that are not done after `timeout` seconds is stopped; the editor has as long again.
    Raises `ConfigurationError` before anything is spawned where the folder holds nothing to survey
    or `output` is a file of yours.
    """
    root, page, chosen = _prepare(folder, output, max_files)
    started = time.monotonic()
    readings = _Readings(runtime, len(chosen.paths), on_progress)
    subscription = await runtime.subscribe(readings.hear, types=[EventType.SUBAGENT_REPORT])
    try:
        data: dict[str, JsonValue] = {
            "root": str(root),
            "output": str(page),
            "max_files": max_files,
            "seconds": timeout,
        }
        limit = (len(chosen.paths) // GROUP + 2) * timeout + GRACE_SECONDS
        lead, report = await _lead(runtime, data, readings.correlation_id, limit)
    finally:
        await subscription.close()
    editor = await readings.complete(lead)
    ended = time.monotonic()
    return SurveyResult(
        output=page,
        files=chosen.paths,
        reports=tuple(readings.of(path, report) for path in chosen.paths),
        editor=editor or report,
        left_out=chosen.left_out,
        reading_seconds=(readings.last_at or ended) - started,
        writing_seconds=ended - (readings.last_at or ended),
    )


def _prepare(folder: Path, output: Path, max_files: int) -> tuple[Path, Path, Chosen]:
    if max_files > MAX_FILES:
        raise ConfigurationError(f"max_files must be at most {MAX_FILES}, got {max_files}")
    page = output.parent.resolve() / output.name
    check_output(page)
    return folder.resolve(), page, choose_files(folder, max_files=max_files)


async def _lead(
    runtime: ColonyRuntime, data: dict[str, JsonValue], correlation_id: str, limit: float
) -> tuple[str, Report]:
    """Spawn the lead and wait for it: its id and its report."""
    [lead] = await runtime.spawn(
        f"Survey the folder {data['root']}",
        data=data,
        agent="lead",
        correlation_id=correlation_id,
        deadline=timedelta(seconds=limit),
    )
    [report] = await runtime.wait_for_worker_reports([lead], timeout=limit + GRACE_SECONDS)
    return lead, report


class _Readings:
    """The readers' reports, each told once: as it is heard, or at the latest when the lead has ended."""

    def __init__(self, runtime: ColonyRuntime, total: int, on_progress: OnProgress | None) -> None:
        self.correlation_id = f"survey-{uuid4().hex}"
        self.last_at: float | None = None
        self._runtime = runtime
        self._total = total
        self._on_progress = on_progress
        self._reports: dict[str, Report] = {}

    async def hear(self, event: Event) -> None:
        """A worker has ended somewhere in the colony."""
        if event.correlation_id == self.correlation_id and event.worker_id is not None:
            self._add(await self._runtime.get_worker(event.worker_id))

    async def complete(self, lead: str) -> Report | None:
        """Add what was not heard; returns the editor's report if there is one."""
        editor = None
        for worker_id in await self._runtime.get_children(lead):
            record = await self._runtime.get_worker(worker_id)
            self._add(record)
            if record is not None and record.agent == "editor":
                editor = record.report
        return editor

    def of(self, path: str, lead: Report) -> Report:
        """The report on a file; a failed one where nobody was sent to read it."""
        unread = Report(
            worker_id=lead.worker_id,
            status=ReportStatus.FAILED,
            summary="Nobody was sent to read it.",
            error=lead.error or lead.summary,
        )
        return self._reports.get(path, unread)

    def _add(self, record: WorkerRecord | None) -> None:
        if record is None or record.agent != "reader" or record.report is None:
            return
        path = str(record.data["path"])
        if path in self._reports:
            return
        self._reports[path] = record.report
        self.last_at = time.monotonic()
        if self._on_progress is not None:
            self._on_progress(len(self._reports), self._total, record.report)
