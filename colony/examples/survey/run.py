"""The producer: a folder goes in, `survey.md` comes out.

    async with ColonyRuntime("survey") as runtime:
        result = await survey(runtime, Path("."), Path("survey.md"))

The nodes must see the folder under the same path: run them on this host or on a shared disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from colony.errors import ConfigurationError
from colony.examples.survey.entries import entry_of, fit
from colony.examples.survey.files import Chosen, choose_files
from colony.examples.survey.page import check_output
from colony.models import Report, TaskSpec

if TYPE_CHECKING:
    from colony.runtime import ColonyRuntime

MAX_FILES = 500
"""The most that one editor can be told about."""

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
    """Survey `folder` with a worker per file, then have an editor write `output`.

    A file that fails is named on the page and in the result, and does not stop the survey. Readers
    that are not done after `timeout` seconds are stopped; the editor has as long again.
    Raises `ConfigurationError` before anything is spawned where the folder holds nothing to survey
    or `output` is a file of yours.
    """
    root, page, chosen = _prepare(folder, output, max_files)
    started = time.monotonic()
    reports = await _read_all(runtime, root, chosen.paths, on_progress, timeout)
    read = time.monotonic()
    editor = await _write(runtime, root, page, chosen, reports, timeout)
    return SurveyResult(
        output=page,
        files=chosen.paths,
        reports=tuple(reports),
        editor=editor,
        left_out=chosen.left_out,
        reading_seconds=read - started,
        writing_seconds=time.monotonic() - read,
    )


def _prepare(folder: Path, output: Path, max_files: int) -> tuple[Path, Path, Chosen]:
    if max_files > MAX_FILES:
        raise ConfigurationError(f"max_files must be at most {MAX_FILES}, got {max_files}")
    page = output.parent.resolve() / output.name
    check_output(page)
    return folder.resolve(), page, choose_files(folder, max_files=max_files)


async def _read_all(
    runtime: ColonyRuntime,
    root: Path,
    paths: Sequence[str],
    on_progress: OnProgress | None,
    timeout: float,
) -> list[Report]:
    tasks = [
        TaskSpec(
            task=f"Survey the file {path}", data={"root": str(root), "path": path}, agent="reader"
        )
        for path in paths
    ]
    ids = await runtime.spawn_batch(tasks, deadline=timedelta(seconds=timeout))
    waits = [
        asyncio.ensure_future(runtime.wait_for_worker(i, timeout + GRACE_SECONDS)) for i in ids
    ]
    try:
        done = 0
        for arrival in asyncio.as_completed(waits):
            report = await arrival
            if report is not None and on_progress is not None:
                done += 1
                on_progress(done, len(ids), report)
    finally:
        for wait in waits:
            wait.cancel()
    # All in, or out of time: what is left is stopped, and every id has its report, in order.
    return await runtime.wait_for_worker_reports(ids, timeout=1)


async def _write(
    runtime: ColonyRuntime,
    root: Path,
    page: Path,
    chosen: Chosen,
    reports: Sequence[Report],
    timeout: float,
) -> Report:
    entries = [entry_of(path, report) for path, report in zip(chosen.paths, reports, strict=True)]
    [editor] = await runtime.spawn(
        f"Write the survey of {root.name or root}",
        data={
            "root": str(root),
            "output": str(page),
            "entries": [*fit(entries)],
            "left_out": chosen.left_out,
        },
        agent="editor",
        deadline=timedelta(seconds=timeout),
    )
    [report] = await runtime.wait_for_worker_reports([editor], timeout=timeout + GRACE_SECONDS)
    return report
