"""The basic colony, with a trigger of its own."""

from __future__ import annotations

from colony import AgentSpec, Colony
from colony.triggers.spec import TriggerSpec, TriggerType
from tests.definitions import model, sleep

firing = Colony(
    "firing",
    agent=AgentSpec(model=model()),
    triggers=[TriggerSpec(id="by-hand", trigger_type=TriggerType.MANUAL, task="fetch")],
)
firing.tool(read_only=True)(sleep)
