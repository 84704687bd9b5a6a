"""One tool call: its context, its time limit, and whatever the tool does instead of returning.

Nothing that a tool does harms its worker or its node. It may raise anything, swallow its
cancellation, never return: the model is told, and the worker goes on.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import Any

from pydantic import JsonValue, SecretStr
from pydantic_ai.messages import ToolCallPart, ToolReturnPart
from pydantic_core import to_json, to_jsonable_python

from colony.errors import StaleToken
from colony.models import EventType
from colony.tools import Park, ParkForChildren, Tool, ToolContext
from workers.agent import results
from workers.agent.run import AgentRun
from workers.agent.text import cut, words_of
from workers.agent.threads import GivenUp

logger = logging.getLogger(__name__)

CANCEL_GRACE_SECONDS = 1.0
"""How long a tool that was cancelled may take to end before it is abandoned."""

_abandoned: set[asyncio.Task[Any]] = set()
"""Tasks nobody waits for: the loop itself keeps only weak references."""


class ToolEscaped(Exception):
    """A tool raised what would have ended the node (SystemExit and its like)."""


async def execute(
    run: AgentRun, call: ToolCallPart, tool: Tool, arguments: Mapping[str, Any]
) -> tuple[ToolReturnPart, timedelta | None]:
    """Make one call within its limits: its result, and how long to park if its tool asks."""
    limit, redact = run.at_most(tool.timeout), run.accounts.redacted
    try:
        value = await _within_limits(run, call, tool, arguments, limit)
    except GivenUp:
        return results.failed(call, _timed_out(tool, limit)), None
    except (ParkForChildren, StaleToken):
        raise
    except Park as park:
        shown = results.returned(call, park.result, run.max_tool_result_bytes, redact)
        return shown, park.duration
    except Exception as error:  # noqa: BLE001 - the boundary of the tool: the model is told
        words = cut(redact(_described(error)), run.max_tool_result_bytes)
        return results.failed(call, words), None
    return results.returned(call, value, run.max_tool_result_bytes, redact), None


def _timed_out(tool: Tool, limit: float) -> str:
    if limit < tool.timeout.total_seconds():
        return "cut at the deadline of the worker; it may or may not have had its effect"
    return f"timed out after {limit:g} s; it may or may not have had its effect"


def _described(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, ToolEscaped) and error.__cause__ else error
    return words_of(cause)


async def _within_limits(
    run: AgentRun, call: ToolCallPart, tool: Tool, arguments: Mapping[str, Any], limit: float
) -> Any:
    """The tool's value; `GivenUp` when its time is over, and what it raised.

    The time of a synchronous tool counts from when a thread takes it, so its wait for one is only
    bounded by the worker's deadline.
    """
    task = asyncio.create_task(_invoke(run, call, tool, arguments, limit))
    try:
        await asyncio.wait({task}, timeout=limit if tool.is_async else run.seconds_left())
    except asyncio.CancelledError:
        await _cancel(task, tool)
        raise
    if not task.done():
        await _cancel(task, tool)
        raise GivenUp
    if task.cancelled():
        raise RuntimeError("the tool cancelled itself")
    return task.result()


async def _invoke(
    run: AgentRun, call: ToolCallPart, tool: Tool, arguments: Mapping[str, Any], limit: float
) -> Any:
    given = dict(arguments)
    if tool.context_parameter is not None:
        given[tool.context_parameter] = _context(run, call)
    try:
        if tool.is_async:
            return await tool.function(**given)
        value = await run.threads.run(functools.partial(tool.function, **given), timeout=limit)
        return await value if inspect.isawaitable(value) else value
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise ToolEscaped from error


async def _cancel(task: asyncio.Task[Any], tool: Tool) -> None:
    """Cancel a call and wait a moment for it to end; one that will not is abandoned."""
    task.cancel()
    _abandoned.add(task)
    task.add_done_callback(_forget)
    await asyncio.wait({task}, timeout=CANCEL_GRACE_SECONDS)
    if not task.done():
        logger.warning(
            "tool %r does not end %g s after it was cancelled; it is left behind",
            tool.name,
            CANCEL_GRACE_SECONDS,
        )


def _forget(task: asyncio.Task[Any]) -> None:
    _abandoned.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.debug("a tool call that was given up ended with %s", type(error).__name__)


def _context(run: AgentRun, call: ToolCallPart) -> ToolContext:
    worker = run.worker
    loop, here = asyncio.get_running_loop(), threading.current_thread()

    async def progress(message: str, data: Mapping[str, JsonValue]) -> None:
        where = {"tool": call.tool_name, "tool_call_id": call.tool_call_id}
        said: dict[str, JsonValue] = to_jsonable_python({"message": message, "data": dict(data)})
        told = run.accounts.redacted(said)  # before a cut, which could leave the half of a secret
        if len(to_json(told)) > run.max_tool_result_bytes:
            words = cut(str(told["message"]), run.max_tool_result_bytes)
            told = {"message": words, "data": {}, "cut": True}
        await run.journal.tell(EventType.PROGRESS, {**where, **told})

    def schedule(telling: Awaitable[None]) -> None:
        async def tell() -> None:
            await telling

        asyncio.run_coroutine_threadsafe(tell(), loop)

    def credential_of(alias: str) -> SecretStr:
        if threading.current_thread() is here:
            raise RuntimeError("credential_threadsafe would block: await ctx.credential(…) instead")
        return asyncio.run_coroutine_threadsafe(run.accounts.value(alias), loop).result()

    return ToolContext(
        worker_id=worker.worker_id,
        colony_id=run.colony_id,
        agent=worker.agent,
        task=worker.task,
        data=worker.data,
        tool_call_id=call.tool_call_id,
        idempotency_key=f"{worker.worker_id}:{call.tool_call_id}",
        deadline=worker.deadline,
        remaining=run.remaining(),
        _progress=progress,
        _credential=run.accounts.value,
        _schedule=schedule,
        _credential_threadsafe=credential_of,
    )
