"""What is written with an answer: its parts, what it cost, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic_ai.messages import ModelResponse

from colony.conversation import Filed, Part, Step
from colony.models import EventType
from workers.agent.cost import cost_of


def answer_step(
    turn: int,
    answer: ModelResponse,
    parts: Sequence[Part],
    events: Sequence[tuple[str, dict[str, Any]]],
    filed: Filed | None,
    tries: int,
) -> Step:
    """The checkpoint of one answer. Events never hold text, arguments or results."""
    usage, cost = answer.usage, cost_of(answer)
    turn_complete = {
        "turn": turn,
        "model": answer.model_name,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": cost,
        "finish_reason": answer.finish_reason,
        "tool_calls": [call.tool_name for call in answer.tool_calls],
    }
    return Step(
        parts,
        requests=tries,
        tokens=usage.total_tokens,
        cost_usd=cost,
        events=[(EventType.LLM_TURN_COMPLETE.value, turn_complete), *events],
        filed=filed,
    )
