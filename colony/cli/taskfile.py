"""A file of tasks, a task per line; what is wrong with one is said with the number of its line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from json import JSONDecodeError
from typing import Any

import typer

from colony.cli.producers import parse_json, read_text
from colony.errors import InvalidTask

Task = str | Mapping[str, Any]

SHAPE = '{"task": "…", "data": {…}, "agent": "…"}'
INDEX = re.compile(r"tasks\[(\d+)\][.:]? ?")


def text_of(file: str) -> str:
    """What is in the file, or comes from stdin (``-``)."""
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(
            f"{file} cannot be read as UTF-8 text: {error}", param_hint="'FILE'"
        ) from error


def tasks_by_line(text: str, name: str, agent: str | None = None) -> dict[int, Task]:
    """The tasks by the numbers of their lines; blank lines are none.

    The first task says whether the lines are JSON. Raises `InvalidTask` that names the first line
    that does not fit: what is meant as JSON is never taken for a task's text.
    """
    # Not splitlines(): a JSON string may hold what that takes for the end of a line.
    lines = {n: line.strip() for n, line in enumerate(text.lstrip("\ufeff").split("\n"), 1)}
    given = {number: line for number, line in lines.items() if line}
    if not given:
        raise InvalidTask(f"{name} holds no task: expected one per line, as text or as {SHAPE}")
    first = next(iter(given.values()))
    read = _json_task if _is_meant_as_json(first) else _plain_task
    tasks: dict[int, Task] = {}
    for number, line in given.items():
        try:
            tasks[number] = _with_agent(read(line), agent)
        except ValueError as error:
            raise InvalidTask(f"{name}, line {number}: {error}; nothing was spawned") from error
    return tasks


def _is_meant_as_json(line: str) -> bool:
    return line.startswith("{") or isinstance(_json_or_none(line), str)


def _json_task(line: str) -> Task:
    try:
        parsed = parse_json(line)
    except ValueError as error:
        # Its own line number would be 1 always, and confuse.
        why = f"{error.msg}, column {error.colno}" if isinstance(error, JSONDecodeError) else error
        raise ValueError(f"expected JSON, as the first task is: {why}") from error
    if not isinstance(parsed, (str, dict)):
        raise ValueError(f"expected {SHAPE} or a string, got {type(parsed).__name__}")
    return parsed


def _plain_task(line: str) -> Task:
    if isinstance(_json_or_none(line), dict):
        raise ValueError(
            "a JSON object, but the first task is plain text: write all of them one way or the other"
        )
    return line


def _json_or_none(line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _with_agent(task: Task, agent: str | None) -> Task:
    if agent is None:
        return task
    return {"agent": agent, **({"task": task} if isinstance(task, str) else task)}


@contextmanager
def naming_lines(name: str, numbers: Sequence[int]) -> Iterator[None]:
    """What the runtime refuses by index is refused by the line in the file."""
    try:
        yield
    except InvalidTask as error:
        text = str(error)
        if (found := INDEX.match(text)) is None:
            raise
        where = f"{name}, line {numbers[int(found[1])]}"
        raise InvalidTask(f"{where}: {text[found.end() :]}; nothing was spawned") from error
