"""What the benchmark's nodes serve: three model calls with two tool calls between them."""

from __future__ import annotations

import time

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony
from colony.testing_model import Call, Item, ScriptedModel, report


def _asked_at(_messages: list[ModelMessage], _parameters: ModelRequestParameters) -> Item:
    return report("success", "Asked.", {"asked_at": time.time()})


colony = Colony(
    "bench",
    agent=AgentSpec(
        name="three-calls",
        model=ScriptedModel(
            [
                Call("look", {"item": 1}),
                Call("look", {"item": 2}),
                report("success", "Done.", {"rows": 5}),
            ],
            latency=1.0,
        ),
    ),
    agents=[
        AgentSpec(name="at-once", model=ScriptedModel([_asked_at])),
        AgentSpec(name="waiting", model=ScriptedModel(["never"], latency=3600.0)),
    ],
)


@colony.tool(read_only=True)
async def look(item: int) -> int:
    """Look at an item."""
    return item
