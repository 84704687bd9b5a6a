"""How large the small things from outside may be; the large ones have settings. The table of all of them is
in `colony.security`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel

from colony.errors import ColonyError, InvalidTask

MAX_LABEL = 1000
"""Characters of an id, key or label that a producer makes up."""
MAX_REASON = 1000
"""Characters of a reason that goes with a stop."""
MAX_SECONDS = 10 * 365 * 86_400
"""How far from now a deadline, a time-out or a beginning may be: ten years."""
MAX_DURATION = timedelta(seconds=MAX_SECONDS)
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""Between these lies a point in time that is named."""
MAX_PRIORITY = 10_000
"""Of a worker, up or down: each point is worth a minute of waiting."""
MAX_SPEC_BYTES = 262_144
"""A trigger or subscription, as JSON."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""What a command reads from a file or from standard input."""


def check_label(name: str, value: str | None, most: int = MAX_LABEL) -> None:
    """Raises `InvalidTask` for one that is too long, or no text."""
    if value is None:
        return
    if not isinstance(value, str):
        raise InvalidTask(f"{name}: expected text, got {value!r:.50}")
    if len(value) > most:
        raise InvalidTask(
            f"{name}: expected at most {most} characters, got {len(value)}: put the bulk into data"
        )
    utf8(name, value)


def utf8(name: str, text: str) -> bytes:
    """The text as UTF-8. Raises `InvalidTask` for half of a surrogate pair: it is no character."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        byte = (
            f" (a byte that is no UTF-8, 0x{ord(half) - 0xDC00:02x})"
            if "\udc80" <= half <= "\udcff"
            else ""
        )
        raise InvalidTask(
            f"{name}: expected Unicode text, got half of a surrogate pair, {half!r}{byte}, at "
            f"character {error.start}: send the whole character, or leave it out"
        ) from None


def check_spec(what: str, spec: BaseModel, error: type[ColonyError]) -> None:
    """Raises `error` for a trigger or subscription that JSON cannot carry, or beyond `MAX_SPEC_BYTES`."""
    try:
        text = spec.model_dump_json()
    except ValueError as no_text:
        raise error(f"{what}: expected Unicode text in all its fields: {no_text}") from no_text
    if (size := len(text.encode())) > MAX_SPEC_BYTES:
        raise error(f"{what} has {size} bytes as JSON, at most {MAX_SPEC_BYTES} are kept")
    if type(spec).model_validate_json(text) != spec:
        raise error(
            f"{what}: expected JSON in all its fields: what JSON has no word for, such as NaN, would be kept "
            "as something else"
        )


def storable(text: str) -> str:
    """The text with "?" for what UTF-8 cannot carry: halves of surrogate pairs, as in some file names."""
    return text.encode(errors="replace").decode()


def is_whole(number: object) -> bool:
    """Whether it is an `int`: true is none, nor is 1.0."""
    return isinstance(number, int) and not isinstance(number, bool)


def check_limit(limit: int) -> None:
    """Raises `InvalidTask` for a number of items that is none: to Redis, 0 and -1 are all there are."""
    if not is_whole(limit) or limit < 1:
        raise InvalidTask(f"limit: expected a whole number from 1 on, got {limit!r:.50}")


def check_priority(priority: int) -> None:
    """Raises `InvalidTask` for one that is no whole number, or beyond `MAX_PRIORITY`."""
    if not is_whole(priority) or not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise InvalidTask(
            f"priority: expected a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}, "
            f"got {priority!r:.50}"
        )


def check_duration(name: str, duration: timedelta | None) -> None:
    """Raises `InvalidTask` for one beyond `MAX_DURATION`."""
    if duration is None:
        return
    if not isinstance(duration, timedelta):
        raise InvalidTask(f"{name}: expected a timedelta, got {duration!r:.50}")
    if not -MAX_DURATION <= duration <= MAX_DURATION:
        raise InvalidTask(
            f"{name}: expected at most {MAX_DURATION.days} days (ten years), got {duration.days} days"
        )


def check_moment(name: str, when: timedelta | datetime | None) -> None:
    """Raises `InvalidTask` for a duration or a point in time that nobody can mean, or that has no zone."""
    if when is not None and not isinstance(when, timedelta | datetime):
        raise InvalidTask(f"{name}: expected a timedelta or a datetime, got {when!r:.50}")
    if not isinstance(when, datetime):
        check_duration(name, when)
    elif when.tzinfo is None:
        raise InvalidTask(
            f"{name}: expected a time with a zone, such as UTC, got {when.isoformat()}"
        )
    elif not EARLIEST <= when < LATEST:
        raise InvalidTask(
            f"{name}: expected a time between the years {EARLIEST.year} and {LATEST.year}, "
            f"got {when.isoformat()}"
        )


def read_bounded(path: str, stdin: TextIO) -> str:
    """A file as UTF-8 text, or standard input for ``-``. Raises `OSError`, `UnicodeDecodeError` or, for
    more than is taken, `InvalidTask`."""
    if path == "-":
        text = stdin.read(MAX_FILE_BYTES + 1)
    else:
        with Path(path).open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1).decode()
    if len(text.encode()) > MAX_FILE_BYTES:
        raise InvalidTask(
            f"{path}: more than {MAX_FILE_BYTES:,} bytes, which is the most that is read: split it"
        )
    return text
