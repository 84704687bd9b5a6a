"""A reader's report as the editor gets it: checked, and small enough to travel together."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from colony.errors import ConfigurationError
from colony.examples.survey.files import language_of
from colony.examples.survey.words import clip
from colony.models import Report

MAX_BYTES = 200_000
"""All entries together, as JSON: below the largest input data that a colony accepts by default."""

_CAPS = ((1200, 20, 20), (600, 10, 12), (300, 5, 8), (120, 2, 3), (60, 0, 0))
"""How long a paragraph, how many TODOs and terms each entry may keep, from generous to terse."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class OpenPoint(_Entry):
    """A TODO: the line it stands in, the first being 1, and what it says."""

    line: int
    text: str


class UsedTerm(_Entry):
    """How often a file uses a term."""

    term: str
    count: int


class FileEntry(_Entry):
    """One surveyed file. A figure is None where it was not reported or cannot be counted.

    `todo_count` counts all TODOs, `todos` are those that are told. `problem`: why the entry is
    incomplete, or missing but for its path.
    """

    path: str
    title: str = ""
    paragraph: str = ""
    language: str = "Text"
    lines: int | None = None
    words: int | None = None
    functions: int | None = None
    classes: int | None = None
    todo_count: int = 0
    todos: tuple[OpenPoint, ...] = ()
    terms: tuple[UsedTerm, ...] = ()
    model: str = ""
    problem: str | None = None


class EditorData(_Entry):
    """The input data of the editor; `root` and `output` are absolute paths on the node's host."""

    root: str
    output: str
    entries: tuple[FileEntry, ...] = Field(min_length=1)
    left_out: int = 0


def entry_of(path: str, report: Report) -> FileEntry:
    """What a reader reported of the file at `path`; a report of another shape keeps its summary."""
    language = language_of(path) or "Text"
    if not report.ok:
        reason = report.error or report.summary or "no reason was given"
        return FileEntry(path=path, language=language, problem=f"{report.status}: {reason}")
    try:
        entry = FileEntry.model_validate({**report.data, "path": path, "language": language})
    except ValidationError as error:
        problem = f"the report's data have another shape: {error.errors()[0]['msg']}"
        return FileEntry(path=path, language=language, paragraph=report.summary, problem=problem)
    return entry.model_copy(
        update={
            "paragraph": entry.paragraph or report.summary,
            "todo_count": max(entry.todo_count, len(entry.todos)),
        }
    )


def fit(entries: Sequence[FileEntry], limit: int = MAX_BYTES) -> list[dict[str, JsonValue]]:
    """The entries as JSON objects of at most `limit` bytes together, shortened evenly where needed.

    Raises `ConfigurationError` where there are too many files for that.
    """
    size = 0
    for characters, todos, terms in _CAPS:
        short = [_shortened(entry, characters, todos, terms) for entry in entries]
        size = len(json.dumps(short))
        if size <= limit:
            return short
    raise ConfigurationError(
        f"the reports on {len(entries)} files take {size} bytes at their shortest, and one editor "
        f"may be given {limit}: survey fewer files (max_files) or a part of the folder"
    )


def _shortened(entry: FileEntry, characters: int, todos: int, terms: int) -> dict[str, JsonValue]:
    kept = entry.model_copy(
        update={
            "title": clip(entry.title, 100),
            "paragraph": clip(entry.paragraph, characters),
            "todos": entry.todos[:todos],
            "terms": entry.terms[:terms],
            "problem": entry.problem and clip(entry.problem, 300),
        }
    )
    return kept.model_dump(mode="json", exclude_defaults=True)
