"""What the model is told before it begins: who it is (instructions) and what to do (the task)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from pydantic import JsonValue
from pydantic_ai.messages import ModelRequest, UserPromptPart

from colony.credentials import Account
from colony.definition import AgentSpec
from colony.tools import Tool
from workers.agent.report import REPORT_TOOL

ACCOUNTS = """\
# Connected integrations

You can act through these accounts. Name one by its alias; the tools find its secret by themselves, and you \
never need, ask for or repeat one."""

WHICH_ONE = (
    "Use the one that your task names. If it names none and it matters which, do not guess: report what you "
    "would need to know."
)

HOW_TO_END = f"""\
You work alone: nobody reads what you write before you have ended, and nobody answers questions.
End by calling {REPORT_TOOL} once: status "success" when the task is done, "partial" when only \
part of it is, "failed" when it cannot be done; a summary that can be understood without this \
conversation; and in data what a program should read."""


def first_request(
    goal: str, spec: AgentSpec, task: str, data: Mapping[str, JsonValue], accounts: str = ""
) -> ModelRequest:
    """The request a worker begins with; made once, then only ever read back from the store."""
    prompt = UserPromptPart(task_prompt(task, data))
    said = instructions(goal, spec, accounts)
    return ModelRequest([prompt], instructions=said, timestamp=prompt.timestamp)


def instructions(goal: str, spec: AgentSpec, accounts: str = "") -> str:
    """The system prompt: the colony's goal, the accounts, the agent's instructions, and how to end."""
    stated = f"The goal of the colony you work for: {goal.strip()}" if goal.strip() else ""
    texts = (stated, accounts, spec.instructions.strip(), HOW_TO_END)
    return "\n\n".join(text for text in texts if text)


def accounts_prompt(accounts: Iterable[Account], tools: Iterable[Tool]) -> str:
    """Which accounts there are, by provider, and the offered tools that use them; empty for none."""
    by_provider: dict[str, list[Account]] = {}
    for account in accounts:
        by_provider.setdefault(account.provider, []).append(account)
    using = {p: [tool.name for tool in tools if tool.provider == p] for p in by_provider}
    blocks = [_of_provider(p, known, using[p]) for p, known in by_provider.items()]
    return "\n\n".join([ACCOUNTS, *blocks]) if blocks else ""


def _of_provider(provider: str, accounts: Sequence[Account], tools: Sequence[str]) -> str:
    use = f' (use account="<alias>" with: {", ".join(tools)})' if tools else ""
    lines = [f"## {provider}{use}", *map(_line, accounts)]
    if len(accounts) > 1:
        lines.append(WHICH_ONE)
    return "\n".join(lines)


def _line(account: Account) -> str:
    identity = ", ".join(f"{key} {value}" for key, value in account.identity.items())
    about = ". ".join(text for text in (identity, account.description.strip()) if text)
    return f"- {account.alias}: {about}" if about else f"- {account.alias}"


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
