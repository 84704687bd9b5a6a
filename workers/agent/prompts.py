"""What the model is told before it begins: who it is (instructions) and what to do (the task)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue
from pydantic_ai.messages import ModelRequest, UserPromptPart

from colony.definition import AgentSpec
from workers.agent.report import REPORT_TOOL

HOW_TO_END = f"""\
You work alone: nobody reads what you write before you have ended, and nobody answers questions.
End by calling {REPORT_TOOL} once: status "success" when the task is done, "partial" when only \
part of it is, "failed" when it cannot be done; a summary that can be understood without this \
conversation; and in data what a program should read."""


def first_request(
    goal: str, spec: AgentSpec, task: str, data: Mapping[str, JsonValue]
) -> ModelRequest:
    """The request a worker begins with; made once, then only ever read back from the store."""
    prompt = UserPromptPart(task_prompt(task, data))
    return ModelRequest([prompt], instructions=instructions(goal, spec), timestamp=prompt.timestamp)


def instructions(goal: str, spec: AgentSpec) -> str:
    """The system prompt: the colony's goal, the agent's instructions, and how to end."""
    stated = f"The goal of the colony you work for: {goal.strip()}" if goal.strip() else ""
    return "\n\n".join(text for text in (stated, spec.instructions.strip(), HOW_TO_END) if text)


def task_prompt(task: str, data: Mapping[str, JsonValue]) -> str:
    """The task, and below it its data, a line per key: strings as they are, the rest as JSON.

    What is empty (null, "", [], {}) is left out; 0 and false are not empty.
    """
    lines = [f"{key}: {_rendered(value)}" for key, value in data.items() if not _empty(value)]
    return "\n\n".join([task, "\n".join(lines)]) if lines else task


def _empty(value: JsonValue) -> bool:
    return value is None or value in ("", [], {})


def _rendered(value: JsonValue) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
