"""The calls of one answer: checked, put in groups, run, each result written when it is there.

Consecutive read-only calls make one group and overlap; every other call is a group of its own, so
that calls with effects keep their order. The part that is written before a group begins names its
calls as opened: after a crash, a call that was opened and has no result may have happened.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Container, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import groupby
from typing import Any

from pydantic import ValidationError
from pydantic_ai.messages import ToolCallPart, ToolReturnPart

from colony import tracing
from colony.conversation import Step
from colony.metrics.names import TOOL_CALLS
from colony.models import EventType
from colony.tools import ParkForChildren, Tool
from workers.agent import results
from workers.agent.execution import execute
from workers.agent.report import REPORT_TOOL
from workers.agent.run import AgentRun
from workers.agent.transcript import Transcript

StepEvent = tuple[str, dict[str, Any]]
Opening = tuple[list[str], list[StepEvent]]


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call, and either the tool and arguments it runs with or the result it has without."""

    part: ToolCallPart
    overlaps: bool
    tool: Tool | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    settled: ToolReturnPart | None = None

    @property
    def id(self) -> str:
        """The call's id, unique within its conversation."""
        return self.part.tool_call_id


@dataclass(frozen=True, slots=True)
class EndedCall:
    """How one call ended; `park` where its tool asked for a pause."""

    call: PlannedCall
    result: ToolReturnPart
    seconds: float
    park: timedelta | None = None


def plan_calls(
    run: AgentRun, calls: Iterable[ToolCallPart], interrupted: Container[str] = ()
) -> list[list[PlannedCall]]:
    """The groups in which calls are to be run.

    `interrupted` holds the ids of calls that were opened before a crash: of these, only what is
    repeatable is made again; the others get a result that says that nobody knows.
    """
    planned = [_plan(run, call, call.tool_call_id in interrupted) for call in calls]
    groups: list[list[PlannedCall]] = []
    for overlaps, neighbours in groupby(planned, key=lambda call: call.overlaps):
        run_of_calls = list(neighbours)
        groups.extend([run_of_calls] if overlaps else [[call] for call in run_of_calls])
    return groups


def _plan(run: AgentRun, call: ToolCallPart, interrupted: bool) -> PlannedCall:
    tool = run.tools.get(call.tool_name)
    if tool is None:
        offered = (*run.tools, REPORT_TOOL)
        return PlannedCall(call, overlaps=True, settled=results.unknown_tool(call, offered))
    try:
        arguments = _arguments(tool, call)
    except ValidationError as error:
        return PlannedCall(call, overlaps=True, settled=results.invalid_arguments(call, error))
    if interrupted and not tool.repeatable:
        unknown = results.failed(call, results.UNKNOWN_OUTCOME, "interrupted")
        return PlannedCall(call, overlaps=False, settled=unknown)
    return PlannedCall(call, overlaps=tool.read_only, tool=tool, arguments=arguments)


def _arguments(tool: Tool, call: ToolCallPart) -> dict[str, Any]:
    raw = call.args if isinstance(call.args, str) else json.dumps(call.args or {})
    model = tool.arguments.model_validate_json(raw or "{}")
    return {name: getattr(model, name) for name in tool.arguments.model_fields}


def opened_by(group: Iterable[PlannedCall]) -> Opening:
    """The ids that the part before a group names as opened, and the events of that."""
    calls = list(group)
    events = [
        (EventType.TOOL_CALL_STARTED.value, {"tool": call.part.tool_name, "tool_call_id": call.id})
        for call in calls
    ]
    return [call.id for call in calls], events


async def run_calls(
    run: AgentRun, transcript: Transcript, groups: list[list[PlannedCall]]
) -> timedelta | None:
    """Run what was planned, write each result as it comes; returns the longest pause asked for.

    `ParkForChildren` of a call passes through: that call, and those after it, are made when the
    children are in.

    The first group must have been opened by the part before. Stops between two groups when the
    worker's deadline has passed: the rest never begins; and when the node drains, unless a pause was
    asked for, which would be lost: the rest is made by another.
    """
    pauses: list[timedelta] = []
    handed_over = False
    for number, group in enumerate(groups):
        if run.out_of_time or handed_over:
            break
        following = opened_by(groups[number + 1] if number + 1 < len(groups) else ())
        waiting = len(group)

        async def record(ended: EndedCall, following: Opening = following) -> None:
            nonlocal waiting, handed_over
            waiting -= 1
            handed_over = run.draining() and not pauses and ended.park is None
            opened, started = following if waiting == 0 and not handed_over else ([], [])
            part = transcript.add_result(ended.result, opened)
            await run.journal.append(Step([part], events=[_completed(ended), *started]))
            if ended.park is not None:
                pauses.append(ended.park)

        await _run_group(run, group, record)
    return max(pauses, default=None)


async def _run_group(
    run: AgentRun, group: list[PlannedCall], record: Callable[[EndedCall], Awaitable[None]]
) -> None:
    """Record the calls of a group in the order in which they end. None is left running behind."""
    if len(group) == 1:
        await record(await _run_call(run, group[0]))
        return
    tasks = [asyncio.create_task(_run_call(run, call)) for call in group]
    try:
        for ended in asyncio.as_completed(tasks):
            await record(await ended)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_call(run: AgentRun, call: PlannedCall) -> EndedCall:
    if call.tool is None or call.settled is not None:
        assert call.settled is not None, "a call without a tool is settled when it is planned"
        return EndedCall(call, call.settled, 0.0)
    await run.fence()
    began = time.perf_counter()
    with _span(run, call) as span:
        result, park = await execute(run, call.part, call.tool, call.arguments)
        if result.outcome != "success":
            span.fail("tool_error")
    seconds = time.perf_counter() - began
    TOOL_CALLS.observe(seconds, call.tool.name, "ok" if result.outcome == "success" else "error")
    return EndedCall(call, result, seconds, park)


def _span(run: AgentRun, call: PlannedCall) -> AbstractContextManager[tracing.NoSpan]:
    """What a trace tells of a call, by the GenAI conventions: no arguments, no results."""
    if not tracing.is_on():
        return tracing.OFF
    name = call.part.tool_name
    return tracing.span(
        f"execute_tool {name}",
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": call.id,
            "gen_ai.agent.name": run.spec.name,
            "gen_ai.conversation.id": run.worker.worker_id,
        },
        expected=(ParkForChildren,),
    )


def _completed(ended: EndedCall) -> StepEvent:
    return EventType.TOOL_CALL_COMPLETED.value, {
        "tool": ended.call.part.tool_name,
        "tool_call_id": ended.call.id,
        "ok": ended.result.outcome == "success",
        "duration_seconds": round(ended.seconds, 6),
    }
