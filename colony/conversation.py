"""A worker's conversation as it is kept: an append-only list of JSON parts, one write per step.

========  =========================================================================================
request   ``{"kind": "request", "message": ModelRequest}``: the prompt, or a later word to the model
answer    ``{"kind": "answer", "message": ModelResponse, "opened": [tool call ids]}``: one model
          answer, and the calls of it that were about to start when it was written
result    ``{"kind": "result", "tool_call_id": id, "part": ToolReturnPart,
          "opened": [tool call ids]}``: how one call ended, and the calls that start after it
opened    ``{"kind": "opened", "opened": [tool call ids]}``: calls that start when a worker goes on that
          was handed over between an answer and its calls
========  =========================================================================================

Messages and parts are pydantic-ai's, in its JSON form (`ModelMessagesTypeAdapter`).

`opened` is what tells a call that had begun at a crash from one that had not: a part is always
written *before* the calls it opens begin. A call that was opened and has no result may have
happened: it is repeated only if its tool says that this is harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from colony.models import ReportStatus


class Part(TypedDict, total=False):
    """One part, decoded. See the module's table for which fields go with which kind."""

    kind: Literal["request", "answer", "result", "opened"]
    message: dict[str, Any]
    tool_call_id: str
    part: dict[str, Any]
    opened: list[str]


@dataclass(frozen=True, slots=True)
class Filed:
    """What an agent said with `report_to_parent`, checked and normalised.

    `provisional`: the next report that is filed replaces this one.
    """

    status: ReportStatus
    summary: str
    data: dict[str, JsonValue] = field(default_factory=dict)
    error: str | None = None
    provisional: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """One checkpoint: what is appended, what it cost, what it tells, all in one atomic write.

    `events` are (type, data) pairs. `filed`: from now on this is the worker's report, whatever
    happens to it.
    """

    parts: Sequence[Part]
    requests: int = 0
    tokens: int = 0
    cost_usd: float | None = None
    events: Sequence[tuple[str, dict[str, Any]]] = ()
    filed: Filed | None = None


def dump_parts(parts: Iterable[Part]) -> list[str]:
    """Each part as the JSON text that is appended to the list."""
    return [to_json(part).decode() for part in parts]


def load_parts(raw: Iterable[bytes | str]) -> list[Part]:
    """The parts of a stored conversation, in order."""
    return [from_json(text) for text in raw]
