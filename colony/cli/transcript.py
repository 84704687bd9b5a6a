"""A stored conversation, readable: who said what, one block per message part."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.text import Text

from colony.cli.output import plain
from colony.conversation import Part

SHORT = 400
"""Characters of one block, unless all of it is asked for."""

SPEAKERS = {
    "system-prompt": ("instructions", "dim"),
    "user-prompt": ("task", "bold"),
    "retry-prompt": ("to mend", "yellow"),
    "tool-return": ("result", "cyan"),
    "thinking": ("thinking", "dim"),
    "text": ("model", "green"),
    "tool-call": ("call", "magenta"),
}


def transcript(parts: Iterable[Part], *, full: bool = False) -> Iterator[Text]:
    """The blocks of a conversation in order, each cut at `SHORT` characters unless `full`."""
    for part in parts:
        for piece in _pieces(part):
            kind = str(piece.get("part_kind", "?"))
            speaker, style = SPEAKERS.get(kind, (kind, "dim"))
            block = plain(f"{speaker:>12}  ", style)
            block.append_text(plain(_cut(_words(kind, piece), full=full)))
            yield block


def _pieces(part: Part) -> Iterable[Mapping[str, Any]]:
    if part.get("kind") == "result":
        return [part.get("part", {})]
    pieces: list[Mapping[str, Any]] = part.get("message", {}).get("parts", [])
    return pieces


def _words(kind: str, piece: Mapping[str, Any]) -> str:
    content = _text(piece.get("content", ""))
    if kind == "tool-call":
        return f"{piece.get('tool_name')}({_text(piece.get('args') or {})})"
    if kind in ("tool-return", "retry-prompt") and piece.get("tool_name"):
        return f"{piece['tool_name']}: {content}"
    return content


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, *, full: bool) -> str:
    if full or len(text) <= SHORT:
        return text
    return f"{text[:SHORT]}… ({len(text) - SHORT:,} more characters; --full shows them)"
