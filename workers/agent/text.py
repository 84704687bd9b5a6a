"""Text of bounded size."""

from __future__ import annotations

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""Of one answer of the model, as it is stored; a longer one ends the worker."""


def cut(text: str, max_bytes: int, note: str = "… [cut]") -> str:
    """`text`, or as much of its beginning as fits in `max_bytes` of UTF-8 together with `note`."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return text
    room = max(0, max_bytes - len(note.encode()))
    return encoded[:room].decode(errors="ignore") + note


def words_of(error: BaseException) -> str:
    """Type and message of an error; the type alone where it has no message, or cannot say it."""
    try:
        return f"{type(error).__name__}: {error}".rstrip(": ")
    except Exception:  # noqa: BLE001 - an error's own __str__ is anybody's code
        return type(error).__name__
