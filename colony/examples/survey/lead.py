"""The lead of a survey: hands the files out to readers, then their reports to the editor.

It follows rules whatever model the others use: handing out files takes no language model, and no
words are lost or made up on the way from the readers to the editor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from colony.errors import ConfigurationError
from colony.examples.survey.entries import FileEntry, entry_of, fit
from colony.examples.survey.files import GROUP
from colony.examples.survey.offline import Heard, has_reported, report_call
from colony.models import Report

RUN = "run_parallel_workers"

Calls = list[tuple[str, dict[str, Any]]]


def lead_step(heard: Heard) -> Calls:
    """List the files, a call of readers per group of them, one call for the editor, report."""
    if has_reported(heard):
        return []
    if heard.failed:
        tool, said = heard.failed[0]
        return [report_call("failed", f"The survey was not written: {tool}: {said}", {})]
    listings = heard.all_of("list_files")
    if not listings:
        return [("list_files", {"max_files": int(heard.data["max_files"])})]
    if not all(isinstance(ended, Mapping) for ended in heard.all_of(RUN)):
        said = "the reports of one group are longer than a tool may return"
        return [report_call("failed", f"The survey was not written: {said}", {})]
    groups = list(_groups(listings[0]["paths"]))
    ended = [[Report.model_validate(r) for r in e["reports"]] for e in heard.all_of(RUN)]
    if len(ended) < len(groups):
        return [_call(heard, [_reading(heard, path) for path in groups[len(ended)]])]
    if len(ended) == len(groups):
        return [_edit(heard, listings[0], ended)]
    return [_told(ended[-1][0])]


def _groups(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(paths), GROUP):
        yield paths[start : start + GROUP]


def _call(heard: Heard, tasks: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    return RUN, {"tasks": tasks, "timeout_seconds": float(heard.data["seconds"])}


def _reading(heard: Heard, path: str) -> dict[str, Any]:
    data = {"root": heard.data["root"], "path": path}
    return {"task": f"Survey the file {path}", "data": data, "agent": "reader"}


def _edit(
    heard: Heard, listing: Mapping[str, Any], ended: list[list[Report]]
) -> tuple[str, dict[str, Any]]:
    reports = [report for group in ended for report in group]
    try:
        entries = fit(_entries(listing["paths"], reports))
    except ConfigurationError as error:
        return report_call("failed", f"The survey was not written: {error}", {})
    root = heard.data["root"]
    data = {
        "root": root,
        "output": heard.data["output"],
        "entries": entries,
        "left_out": listing["left_out"],
    }
    task = f"Write the survey of {PurePosixPath(root).name or root}"
    return _call(heard, [{"task": task, "data": data, "agent": "editor"}])


def _entries(paths: Sequence[str], reports: Sequence[Report]) -> list[FileEntry]:
    return [entry_of(path, report) for path, report in zip(paths, reports, strict=True)]


def _told(editor: Report) -> tuple[str, dict[str, Any]]:
    """The editor's report is the lead's own."""
    status = "success" if editor.ok else "failed"
    return report_call(status, editor.summary or editor.error or "", editor.data)
