"""How large the small things from outside may be; the large ones have settings. The table of all of them is
in `colony.security`."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from colony.errors import InvalidTask

MAX_LABEL = 1000
"""Characters of an id, key or label that a producer makes up."""
MAX_REASON = 1000
"""Characters of a reason that goes with a stop."""
MAX_SPEC_BYTES = 262_144
"""A trigger or subscription, as JSON."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""What a command reads from a file or from standard input."""


def check_label(name: str, value: str | None, most: int = MAX_LABEL) -> None:
    """Raises `InvalidTask` for one that is too long."""
    if value is not None and len(value) > most:
        raise InvalidTask(
            f"{name}: expected at most {most} characters, got {len(value)}: put the bulk into data"
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
