"""A colony whose every model call is noted with its node and its time."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings

from colony import AgentSpec, Colony
from colony.testing_model import Call, HttpError, ScriptedModel, report
from tests.definitions import task_of

TICKS = 30
TICK_SECONDS = 0.2
REFUSALS = 10


@dataclass(frozen=True)
class Noted:
    """One call to the model: by which process, for which task, which turn, when it began (epoch)."""

    pid: int
    task: str
    turn: int
    at: float


def noted(path: Path) -> list[Noted]:
    """All calls that were noted in a file."""
    lines = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
    return [Noted(int(pid), task, int(turn), float(at)) for pid, task, turn, at in lines]


class NotingModel(ScriptedModel):
    """Writes down each request as it begins, to the file that TEST_CALLS names."""

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """Note it, then answer."""
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        fields: list[Any] = [os.getpid(), task_of(messages), turn, time.time()]
        with Path(os.environ["TEST_CALLS"]).open("a") as file:
            file.write("\t".join(map(str, fields)) + "\n")
        return await super().request(messages, model_settings, model_request_parameters)


ticker = NotingModel(
    [*[Call("tick") for _ in range(TICKS)], report("success", "Ticked.")], name="ticker"
)
thinker = NotingModel([Call("tick"), report("success", "Thought.")], latency=4.0, name="thinker")

busy_host = HttpError(503, {"retry-after": "1"}, "try again")
refused = NotingModel([*[busy_host] * REFUSALS, report("success", "At last.")], name="refused")
"""Asked again and again: model calls with no write between them."""

colony = Colony(
    "fenced",
    agent=AgentSpec(model=ticker),
    agents=[
        AgentSpec(name="thinker", model=thinker),
        AgentSpec(name="refused", model=refused, max_retries=100, max_requests=None),
    ],
)


@colony.tool(idempotent=True)
async def tick() -> str:
    """Take a moment."""
    await asyncio.sleep(TICK_SECONDS)
    return "tick"
