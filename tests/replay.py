"""Always-replay: every slice is cut after each of its checkpoints, and the worker goes on in a new one.

``TEST_REPLAY=1`` in the environment of the tests (`make replay`). What a fleet test says of a worker must
hold wherever it is cut, so the tests pass unchanged; those that count slices are left out, by name and
with the reason (tests/conftest.py). A cut is a hand-over, as of a node that drains: after an answer nothing
that it asks for has begun, after a tool's result the next group of calls has not.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic_ai.messages import ModelResponse, ToolCallPart, ToolReturnPart

import workers.agent.asking
import workers.agent.tool_calls
import workers.slice
from colony.conversation import Step
from colony.tools import Tool
from workers.agent import execution
from workers.agent.run import AgentRun
from workers.journal import StoreJournal


class CutJournal(StoreJournal):
    """Ends its slice with each checkpoint. `cut`: nothing more is to be begun in this slice."""

    cut = False

    async def append(self, step: Step) -> None:
        """One checkpoint; one with an answer ends the slice at once."""
        await super().append(step)
        kinds = {part["kind"] for part in step.parts}
        self.cut = self.cut or bool(kinds & {"answer", "result"})
        if "answer" in kinds:
            raise asyncio.CancelledError("cut after a checkpoint")


def install() -> None:
    """Cut all slices of this process from now on. Once."""
    ask_once, execute_once = workers.agent.asking._try, execution.execute

    async def ask(run: AgentRun, *arguments: Any) -> Any:
        answer = await ask_once(run, *arguments)
        if isinstance(answer, ModelResponse):
            _end_after_this(run)
        return answer

    async def execute(
        run: AgentRun, call: ToolCallPart, tool: Tool, arguments: dict[str, Any]
    ) -> tuple[ToolReturnPart, Any]:
        _end_after_this(run)
        return await execute_once(run, call, tool, arguments)

    def make_run(**given: Any) -> AgentRun:
        journal, draining = given["journal"], given["draining"]
        return AgentRun(**{**given, "draining": lambda: journal.cut or draining()})

    setattr(workers.agent.asking, "_try", ask)  # noqa: B010 - mypy forbids to replace a function
    setattr(workers.agent.tool_calls, "execute", execute)  # noqa: B010
    setattr(workers.slice, "AgentRun", make_run)  # noqa: B010
    setattr(workers.slice, "StoreJournal", CutJournal)  # noqa: B010


def _end_after_this(run: AgentRun) -> None:
    if isinstance(run.journal, CutJournal):
        run.journal.cut = True
