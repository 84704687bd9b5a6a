"""What is upgraded: agents of nine turns, by the release of the code that ran their last one.

``TEST_CALLS`` names a file that gets a line for each model call, ``TEST_RELEASE`` the release.
"""

from __future__ import annotations

import os

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony
from colony.testing_model import Call, Item, ScriptedModel, report

RELEASE = os.environ.get("TEST_RELEASE", "none")
LOOKS = 8
CALLS = LOOKS + 1
"""Model calls of one agent."""
CALL_SECONDS = 0.25


def _done(_messages: list[ModelMessage], _parameters: ModelRequestParameters) -> Item:
    return report("success", f"Done by release {RELEASE}.", {"release": RELEASE})


colony = Colony(
    "upgraded",
    agent=AgentSpec(
        model=ScriptedModel(
            [*(Call("look", {"item": item}) for item in range(LOOKS)), _done],
            latency=CALL_SECONDS,
            record=os.environ.get("TEST_CALLS"),
        )
    ),
)


@colony.tool(read_only=True)
async def look(item: int) -> int:
    """Look at an item."""
    return item
