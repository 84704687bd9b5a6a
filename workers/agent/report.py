"""`report_to_parent`, the tool that Colony offers to every worker, and how a worker ends.

The rules, in the order in which they are asked:

1. An answer that calls `report_to_parent` ends the worker. The first valid call is its report, and
   it is filed in the same write as the answer: whatever happens afterwards, it stands. Other calls
   of the same answer are then run as always, each with its result written; the model is not asked
   again. A second report of the same answer gets an error result.
2. A call that cannot be a report (unknown status, too large, no JSON) gets an error result that
   says what to mend, and the worker goes on.
3. An answer with other tool calls goes on, whatever text stands beside them: a report of a later
   turn is *the* report.
4. An answer of text alone ends the worker at once with a report made from the text. Only when the
   provider says that the answer was cut (finish reason ``length``) or that calls were meant
   (``tool_call``) is the model asked to go on. Without this, a worker that never reports would
   have its callers wait.
5. Where background work is out and the agent is to wait for it (`AgentSpec.at_end`), neither a call
   nor a text ends the worker: it sleeps until some of that work ends, is told, and is asked again.
   What such a call reports is filed all the same, provisionally: the next report replaces it, and
   it is the worker's report should the worker come to no other. Work that the same answer was to hand
   out, and that was refused, is not out: the report then ends the worker as by rule 1.
6. An answer of nothing is asked for once more; a second one fails the worker, and so does one that
   the provider withheld (``content_filter``, ``length``, ``error``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pydantic_core
from pydantic import JsonValue
from pydantic_ai.messages import ModelResponse, ToolCallPart, ToolReturnPart
from pydantic_ai.tools import ToolDefinition

from colony.conversation import Filed
from colony.models import ReportStatus
from workers.agent import results
from workers.agent.outcome import Reported
from workers.agent.text import cut

REPORT_TOOL = "report_to_parent"

STATUSES = (ReportStatus.SUCCESS, ReportStatus.PARTIAL, ReportStatus.FAILED)
"""What a model may report. The others are for Colony to say."""

NO_SUMMARY = "(no summary given)"

SUMMARY_BYTES = 16_384
"""Longest summary that is made from a text; the whole text stays in the conversation."""

HELD_BACK = (
    "kept, but you are not done while work that you delegated is out: you are told what came of it as soon "
    "as it ends. Report again then; without that, this is your report"
)

REPORT_DEFINITION = ToolDefinition(
    name=REPORT_TOOL,
    description=(
        "End your work with its one report. Call it once, when you are done or cannot go on."
    ),
    parameters_json_schema={
        "type": "object",
        "properties": {
            "status": {
                "type": "string",
                "enum": [status.value for status in STATUSES],
                "description": "success: the task is done; partial: in part; failed: not at all.",
            },
            "summary": {
                "type": "string",
                "description": "What was found or done; readable without this conversation.",
            },
            "data": {
                "type": "object",
                "description": "Results for a program to read.",
                "additionalProperties": True,
            },
        },
        "required": ["status", "summary"],
        "additionalProperties": False,
    },
)


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a call of `report_to_parent` is not a report: words for the model."""

    problem: str


def check_report(call: ToolCallPart, max_bytes: int) -> Filed | Refused:
    """The report that a call states, normalised; or what the model has to mend.

    An empty summary is named as such, data that is no object becomes ``{"value": data}``.
    """
    try:
        args = (
            call.args if isinstance(call.args, dict) else pydantic_core.from_json(call.args or "{}")
        )
        if not isinstance(args, dict):
            return Refused(f"expected an object with status and summary, got {type(args).__name__}")
        return _normalised(args, max_bytes)
    except (ValueError, RecursionError) as error:  # no JSON, or nothing that JSON could carry
        return Refused(f"the arguments are not valid JSON: {error}")


def judge_reports(
    calls: Iterable[ToolCallPart], max_bytes: int, *, held_back: bool = False
) -> tuple[Filed | None, list[ToolReturnPart]]:
    """The report that an answer files, if any, and the results of its `report_to_parent` calls.

    `held_back`: background work is out, so the report is provisional, and the call is answered so.
    """
    filed: Filed | None = None
    judged: list[ToolReturnPart] = []
    for call in calls:
        if call.tool_name != REPORT_TOOL:
            continue
        report = check_report(call, max_bytes)
        if isinstance(report, Refused):
            judged.append(results.to_mend(call, report.problem, "validation_error"))
        elif filed is not None:
            judged.append(results.failed(call, "there is a report already; this one was not taken"))
        elif held_back:
            filed = replace(report, provisional=True)
            told = results.returned(call, HELD_BACK, max_bytes)
            judged.append(replace(told, metadata={"held_back": True}))
        else:
            filed = report
            judged.append(results.returned(call, "report filed", max_bytes))
    return filed, judged


def was_held_back(results_of_answer: Iterable[ToolReturnPart]) -> bool:
    """Whether an answer would have ended the worker but for its background work."""
    return any((result.metadata or {}).get("held_back", False) for result in results_of_answer)


def _normalised(args: dict[str, Any], max_bytes: int) -> Filed | Refused:
    status = str(args.get("status", "")).strip().lower()
    if status not in STATUSES:
        allowed = ", ".join(STATUSES)
        return Refused(f"status must be one of {allowed}; got {args.get('status')!r}")
    summary, data = _text_of(args.get("summary")), _object_of(args.get("data"))
    size = len(_json({"summary": summary, "data": data}).encode())
    if size > max_bytes:
        return Refused(
            f"the report is {size} bytes as JSON, and at most {max_bytes} are taken: shorten it, "
            "or store what is large with a tool and report where it is"
        )
    return Filed(ReportStatus(status), summary, data)


def _text_of(summary: JsonValue) -> str:
    text = summary if isinstance(summary, str) else "" if summary is None else _json(summary)
    return text.strip() or NO_SUMMARY


def _object_of(data: JsonValue) -> dict[str, JsonValue]:
    if data is None:
        return {}
    return data if isinstance(data, dict) else {"value": data}


def _json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def from_filed(filed: Filed) -> Reported:
    """The worker's own report."""
    return Reported(filed.status, filed.summary, filed.data, filed.error)


def from_text(
    text: str | None,
    max_bytes: int,
    status: ReportStatus = ReportStatus.SUCCESS,
    *,
    error: str | None = None,
) -> Reported:
    """A report for a worker that gave none: its text, else what went wrong."""
    words = (text or "").strip() or error or NO_SUMMARY
    return Reported(status, cut(words, min(SUMMARY_BYTES, max_bytes // 2)), {}, error)


def last_text(responses: Sequence[ModelResponse]) -> str | None:
    """The text of the latest answer that has some."""
    return next((text for r in reversed(responses) if (text := (r.text or "").strip())), None)
