"""A colony whose answers have a price, with a second agent."""

from __future__ import annotations

from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.usage import RequestUsage

from colony import AgentSpec, Colony
from colony.testing_model import ScriptedModel

ANSWER = ModelResponse(
    [TextPart("Done.")],
    usage=RequestUsage(input_tokens=1000, output_tokens=100),
    model_name="gpt-5-mini",
    provider_name="openai",
)
priced = Colony(
    "priced",
    agent=AgentSpec(model=ScriptedModel([ANSWER])),
    agents=[AgentSpec("test", name="clerk"), AgentSpec("test", name="cook")],
)
