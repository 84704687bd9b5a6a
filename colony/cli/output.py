"""What is shown: text and tables for people, JSON for machines; hints on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from colony.cli.durations import short_duration
from colony.models import Report
from colony.sizes import storable

PIPED_WIDTH = 160
"""Columns of a table that does not go to a terminal, unless COLUMNS says otherwise."""

STYLES = {
    "success": "green",
    "partial": "yellow",
    "failed": "red",
    "timeout": "red",
    "stopped": "magenta",
    "COMPLETED": "green",
    "FAILED": "red",
    "STOPPED": "magenta",
    "RUNNING": "cyan",
    "PARKED": "blue",
    "PENDING": "",
}

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def stdout() -> Console:
    """The console for results."""
    return _console(sys.stdout)


def stderr() -> Console:
    """The console for progress, hints and errors."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(file=stream, width=PIPED_WIDTH if piped else None, highlight=False)


def say(text: str | Text) -> None:
    """A line of result, for people."""
    stdout().print(plain(text) if isinstance(text, str) else text, soft_wrap=True)


def note(text: str, style: str = "") -> None:
    """A line beside the result (a hint, what is going on): stderr."""
    stderr().print(plain(text, style), soft_wrap=True)


def emit_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON document on stdout, flushed. Models are dumped as the JSON they are kept as."""
    text = json.dumps(value, default=_jsonable, ensure_ascii=False, indent=indent)
    sys.stdout.write(f"{storable(text)}\n")
    sys.stdout.flush()


def _jsonable(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def plain(text: str, style: str = "") -> Text:
    """Text that others wrote, without control characters: it cannot move the cursor. Nor is there anything
    in it that cannot be printed."""
    return Text(_CONTROL.sub("�", storable(text)), style=style)


def one_line(text: str, limit: int = 100) -> Text:
    """The text on one line, cut at `limit` characters."""
    line = " ".join(text.split())
    return plain(line if len(line) <= limit else f"{line[: limit - 1]}…")


def coloured(word: str) -> Text:
    """A state or status in its colour."""
    return plain(word, STYLES.get(word, ""))


def table(*columns: str, rows: Iterable[Sequence[str | Text]]) -> Table:
    """A light table: ids and states are never broken, only the last column wraps."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, no_wrap=index < len(columns) - 1, overflow="fold")
    for row in rows:
        made.add_row(*(plain(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def facts(pairs: Mapping[str, str | Text | None]) -> Table:
    """Names and values in two columns; what is None is left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            grid.add_row(name, plain(value) if isinstance(value, str) else value)
    return grid


def reports_table(reports: Iterable[Report]) -> Table:
    """Reports, one line each, in their order."""
    return table(
        "STATUS",
        "WORKER",
        "TIME",
        "TOKENS",
        "SUMMARY",
        rows=(
            (
                coloured(report.status),
                report.worker_id,
                short_duration(report.duration_seconds),
                f"{report.tokens_used:,}",
                one_line(report_text(report), 200),
            )
            for report in reports
        ),
    )


def report_text(report: Report) -> str:
    """Summary, and the error where there is one."""
    return " · ".join(text for text in (report.summary, report.error) if text)
