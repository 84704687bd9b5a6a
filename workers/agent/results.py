"""What the model is shown of a call: its result as JSON of bounded size, or what went wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pydantic_core
from pydantic import JsonValue, ValidationError
from pydantic_ai.messages import RetryInfo, ToolCallPart, ToolRetryCause, ToolReturnPart

from colony.sizes import storable
from workers.agent.text import cut

UNKNOWN_OUTCOME = (
    "outcome unknown: the node that ran this call died before its result was recorded; the call "
    "may or may not have had its effect. Decide yourself whether to check or to call again"
)

LEAST_BYTES = 1024
"""Of what is shown of one worker's end beside those of others."""

Redact = Callable[[JsonValue], JsonValue]
"""Takes out of a JSON value what nobody is to read."""


def as_it_is(content: JsonValue) -> JsonValue:
    """Nothing to take out."""
    return content


def returned(
    call: ToolCallPart, value: Any, max_bytes: int, redact: Redact = as_it_is
) -> ToolReturnPart:
    """The result of a call that returned; a failed one where the value cannot be shown as JSON."""
    try:
        content = shown(value, max_bytes, redact)
    except (ValueError, TypeError, RecursionError) as error:
        return failed(
            call,
            f"the call ended, but its result, of type {type(value).__name__}, cannot be shown as "
            f"JSON ({cut(str(redact(str(error))), 200)})",
        )
    return ToolReturnPart(call.tool_name, content, call.tool_call_id)


def failed(
    call: ToolCallPart, words: str, outcome: Literal["failed", "interrupted"] = "failed"
) -> ToolReturnPart:
    """The result of a call that did not return."""
    return ToolReturnPart(call.tool_name, storable(words), call.tool_call_id, outcome=outcome)


def to_mend(call: ToolCallPart, words: str, cause: ToolRetryCause) -> ToolReturnPart:
    """The result of a call that was not made, because the model has to state it otherwise."""
    return ToolReturnPart(
        call.tool_name,
        storable(words),
        call.tool_call_id,
        outcome="retried",
        retry=RetryInfo(cause=cause),
    )


def unknown_tool(call: ToolCallPart, offered: Iterable[str]) -> ToolReturnPart:
    """The result of calling what is not offered."""
    words = f"there is no tool {call.tool_name!r}. You can call: {', '.join(sorted(offered))}"
    return to_mend(call, words, "unknown_tool")


def invalid_arguments(call: ToolCallPart, error: ValidationError) -> ToolReturnPart:
    """The result of a call whose arguments do not fit; names each field."""
    problems = "; ".join(
        f"{'.'.join(str(step) for step in problem['loc']) or 'arguments'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    )
    return to_mend(
        call, f"the arguments do not fit, nothing was called. {problems}", "validation_error"
    )


class Reports(dict[str, JsonValue]):
    """A result whose ``reports`` are cut each by itself, so that the model sees how every one ended."""


def shown(value: Any, max_bytes: int, redact: Redact = as_it_is) -> JsonValue:
    """`value` as JSON, or the beginning of its text where that is longer than `max_bytes`.

    Of `Reports` each is cut by itself. Infinity and NaN become strings, as JSON has no such
    numbers. Raises `ValueError` for what has no JSON form.
    """
    if isinstance(value, str):
        return _bounded(str(redact(storable(value))), max_bytes)
    content = redact(json.loads(_json(value)))
    text = _json(content)
    if len(text.encode()) <= max_bytes:
        return content
    if isinstance(value, Reports) and isinstance(content, dict):
        reports: Any = content["reports"]
        return {**content, "reports": _cut_each(reports, max_bytes)}
    return _bounded(text, max_bytes)


def _cut_each(reports: Sequence[dict[str, Any]], max_bytes: int) -> list[JsonValue]:
    """All of them within `max_bytes`, if that is `LEAST_BYTES` for each: what short ones leave is for the
    long ones."""
    sizes = {index: len(_json(report).encode()) for index, report in enumerate(reports)}
    made: dict[int, JsonValue] = {}
    left = max_bytes
    for index in sorted(sizes, key=sizes.__getitem__):
        share = max(LEAST_BYTES, left // (len(sizes) - len(made)))
        report = reports[index]
        made[index] = report if sizes[index] <= share else _cut_report(report, share)
        left -= min(sizes[index], share)
    return [made[index] for index in range(len(reports))]


def _cut_report(report: dict[str, Any], max_bytes: int) -> dict[str, JsonValue]:
    """Who, how it ended and the numbers are whole; words and data are cut."""
    words = {
        name: cut(str(report[name]), max_bytes // 4)
        for name in ("summary", "error")
        if report.get(name)
    }
    short = {**report, **words, "data": {}}
    note = f"[cut: the data have {len(_json(report['data']).encode())} bytes]"
    room = max_bytes - len(_json(short).encode())
    return {**short, "data": cut(_json(report["data"]), room // 2, note)}


def _json(value: Any) -> str:
    try:
        return pydantic_core.to_json(value, inf_nan_mode="strings").decode()
    except pydantic_core.PydanticSerializationError as error:
        if "surrogates" not in str(error):
            raise
    return storable(json.dumps(pydantic_core.to_jsonable_python(value), ensure_ascii=False))


def _bounded(text: str, max_bytes: int) -> str:
    size = len(text.encode())
    if size <= max_bytes:
        return text
    return cut(
        text,
        max_bytes,
        f"\n[cut: the result has {size} bytes, of which at most {max_bytes} are shown]",
    )
