"""A colony whose workers report at once."""

from __future__ import annotations

from colony import AgentSpec, Colony
from colony.testing_model import ScriptedModel, report

watching = Colony(
    "watching", agent=AgentSpec(model=ScriptedModel([report("success", "Looked into it.")]))
)
