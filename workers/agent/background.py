"""delegate_task: an agent hands work to others and goes on; what came of it is a message of its own.

A unit of background work is a batch whose id, the handle, follows from the call. Which units are out is read
from the conversation: the result of the call names the handle, and so does the message that told of its
end. So no end is told twice or lost, wherever the worker is cut. A unit is told between two turns, before
a question to the model, and written with the answer to it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from pydantic import JsonValue
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolReturnPart, UserPromptPart

from colony.models import TaskSpec, WorkerRecord
from colony.tools import Tool, ToolContext, make_tool
from workers.agent.outcome import Waiting
from workers.agent.results import LEAST_BYTES
from workers.agent.run import AgentRun
from workers.agent.spawning import Offspring, ParallelTask, Unit, problem_of, spec_of
from workers.agent.text import cut
from workers.agent.transcript import Transcript

DELEGATE_TASK = "delegate_task"
TOLD = "background_told"
"""The key in a request's metadata under which stands which unit it tells of."""


async def delegate_task(
    offspring: Offspring,
    ctx: ToolContext,
    goal: str = "",
    context: str = "",
    agent: str | None = None,
    tasks: list[ParallelTask] | None = None,
    timeout_seconds: float | None = None,
) -> dict[str, JsonValue]:
    """Have work done in the background: returns a handle at once; a message tells you when it has ended.

    Args:
        goal: what a worker shall do, complete in itself.
        context: what it must know; it sees nothing of your conversation.
        agent: which kind of agent; leave out for the default.
        tasks: instead of goal, 1 to 64 tasks; they are one unit, told of when all have ended.
        timeout_seconds: after so long, workers that have not ended are stopped (status timeout).
    """
    if bool(goal.strip()) == bool(tasks):
        raise ValueError("give either a goal or tasks")
    given = tasks or [ParallelTask(task=goal, data={}, agent=agent)]
    if problem := problem_of(given, timeout_seconds):
        raise ValueError(problem)
    specs = [_with_context(spec_of(task), context) for task in given]
    timeout = None if timeout_seconds is None else timedelta(seconds=timeout_seconds)
    handle = await offspring.spawn(ctx.tool_call_id, specs, timeout, background=True)
    return {"handle": handle, "status": "dispatched", "worker_count": len(specs)}


_TOOL = make_tool(
    delegate_task,
    name=DELEGATE_TASK,
    idempotent=True,
    timeout=timedelta(minutes=5),
    builtin=True,
    bound=("offspring",),
)


def delegating_tool(offspring: Offspring) -> Tool:
    """The tool for one run: schema and description are made once, for all of them."""
    return replace(_TOOL, function=partial(delegate_task, offspring))


def _with_context(spec: TaskSpec, context: str) -> TaskSpec:
    if not context.strip():
        return spec
    return spec.model_copy(update={"task": f"{spec.task}\n\nContext:\n{context.strip()}"})


# -- what is out, and the end of it -----------------------------------------------------------


def untold(transcript: Transcript) -> list[str]:
    """The handles of the units whose end the model has not been told, in the order of dispatch."""
    handles: dict[str, None] = {}
    for message in transcript.messages:
        if not isinstance(message, ModelRequest):
            continue
        handles.pop((message.metadata or {}).get(TOLD, ""), None)
        for part in message.parts:
            if isinstance(part, ToolReturnPart) and (handle := _handle_in(part)):
                handles[handle] = None
    return list(handles)


def _handle_in(part: ToolReturnPart) -> str | None:
    if part.tool_name != DELEGATE_TASK or not isinstance(part.content, dict):
        return None
    handle = part.content.get("handle")
    return handle if isinstance(handle, str) else None


async def tell_ended(run: AgentRun, transcript: Transcript) -> None:
    """Say of each unit that has ended what came of it, a message each."""
    for unit in await _ended(run, transcript):
        told = UserPromptPart(_block(run, unit))
        request = ModelRequest([told], timestamp=told.timestamp, metadata={TOLD: unit.handle})
        transcript.add_request(request)


def holds_back(run: AgentRun, transcript: Transcript, answer: ModelResponse) -> bool:
    """Whether the worker may not end yet: units are out, or about to be handed out, and it is to wait for
    them. Whether they were handed out is known when the calls of the answer are done (`is_work_out`).

    Past its soft deadline it may end: there is no time left to wait.
    """
    if run.offspring is None or run.spec.at_end == "leave" or run.past_soft_deadline:
        return False
    handed_out = any(call.tool_name == DELEGATE_TASK for call in answer.tool_calls)
    return handed_out or bool(untold(transcript))


def is_work_out(transcript: Transcript) -> bool:
    """Whether there is a unit whose end the model is to be told, or may be: a call that hands out work was
    not made yet. A refused one hands out nothing."""
    unmade = any(call.tool_name == DELEGATE_TASK for call in transcript.unresolved)
    return unmade or bool(untold(transcript))


async def wait_for_units(run: AgentRun, transcript: Transcript) -> Waiting | None:
    """Sleep until one of the units ends (the store also wakes it at its soft deadline); None, to go
    on, where one has ended, none is out, or there is no time left to wait."""
    handles = untold(transcript)
    if not handles or run.past_soft_deadline or await _ended(run, transcript):
        return None
    return Waiting(tuple(handles))


async def _ended(run: AgentRun, transcript: Transcript) -> list[Unit]:
    if run.offspring is None or not (handles := untold(transcript)):
        return []
    return await run.offspring.ended(handles)


# -- the block: it can be read without the history ---------------------------------------------


def _block(run: AgentRun, unit: Unit) -> str:
    head = f"[BACKGROUND WORK ENDED: {unit.handle}]"
    if not unit.members:
        return f"{head}\nIts results were not kept so long."
    most = max(LEAST_BYTES, run.max_tool_result_bytes // len(unit.members))
    tasks = [
        cut(_task(unit, number, record, most), most, "\n[cut]")
        for number, record in enumerate(unit.members, 1)
    ]
    return "\n\n".join([f"{head}\n{_overview(unit.members)}", *tasks])


def _overview(members: Sequence[WorkerRecord]) -> str:
    begun = min(record.created_at for record in members)
    ended = max(record.ended_at or begun for record in members)
    statuses = Counter(record.report.status.value for record in members if record.report)
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items())
    ago = (datetime.now(UTC) - begun).total_seconds()
    return (
        "You may have moved on since you delegated this; here is all of it.\n"
        f"Dispatched: {begun:%Y-%m-%d %H:%M:%S} UTC ({max(0.0, ago):.0f} s ago), "
        f"ended after {(ended - begun).total_seconds():.1f} s: {counts}"
    )


def _task(unit: Unit, number: int, record: WorkerRecord, most: int) -> str:
    """What one member was asked takes half of its `most` bytes at most; the rest is for the result."""
    lines = [f"--- TASK {number} of {len(unit.members)} ---"]
    lines.append(f"Goal: {cut(record.task, most // 4)}")
    if record.data:
        lines.append(f"Data: {cut(_json(record.data), most // 8)}")
    lines.append(f"Agent: {unit.faces.get(record.agent, record.agent)}")
    if (report := record.report) is not None:
        lines.append(
            f"Status: {report.status} after {report.duration_seconds:.1f} s, "
            f"{record.requests} model requests, {report.tokens_used} tokens"
        )
        if report.error:
            lines.append(f"Error: {cut(report.error, most // 8)}")
        lines.append(f"Result: {report.summary}")
        if report.data:
            lines.append(f"Result data: {_json(report.data)}")
    return "\n".join(lines)


def _json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)
