"""The colonies that the fleet tests run. Each attribute is a definition: ``tests.definitions:basic``."""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from datetime import timedelta
from pathlib import Path

from pydantic import JsonValue
from pydantic_ai.messages import ModelMessage, UserPromptPart
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony, Park, ToolContext
from colony.testing_model import Call, Item, ScriptedModel, ScriptItem, report

CALLS = os.environ.get("TEST_CALLS")
"""A file to which every model call appends a line, so that tests count them across processes."""

if os.environ.get("TEST_REPLAY"):
    importlib.import_module("tests.replay").install()


def task_of(messages: list[ModelMessage]) -> str:
    """The text of the first user prompt: the task."""
    for message in messages:
        for part in message.parts:
            if isinstance(part, UserPromptPart):
                return str(part.content)
    return ""


def script_of(messages: list[ModelMessage], _: ModelRequestParameters) -> list[ScriptItem]:
    """Which script a task asks for: its first word."""
    word = task_of(messages).split()[0] if task_of(messages).split() else ""
    return SCRIPTS.get(word, SCRIPTS["fetch"])


def _step(index: int) -> ScriptItem:
    def choose(messages: list[ModelMessage], parameters: ModelRequestParameters) -> Item:
        item = script_of(messages, parameters)[index]
        return item(messages, parameters) if callable(item) else item

    return choose


SCRIPTS: dict[str, list[ScriptItem]] = {
    "fetch": [report("success", "Fetched 5 rows", {"rows": 5})],
    "echo": [
        Call("echo", {"value": 1}),
        Call("echo", {"value": 2}),
        report("success", "Echoed.", {"last": 2}),
    ],
    "fail": [report("failed", "Could not fetch", {"tried": 3})],
    "raise": [RuntimeError("the model fell over")],
    "text": ["Here is what I found."],
    "text-then-report": [
        ["Let me look.", Call("echo", {"value": 1})],
        report("success", "Looked."),
    ],
    "sleep": [Call("sleep", {"seconds": 60.0}), report("success", "Slept.")],
    "nap": [Call("sleep", {"seconds": 1.0}), report("success", "Napped.")],
    "doze": [Call("sleep", {"seconds": 3.0}), report("success", "Dozed.")],
    "hurry": [Call("sleep", {"seconds": 1.0}), lambda messages, _: _hurried(messages)],
    "park": [Call("park", {"seconds": 1.0}), report("success", "Woke up.")],
    "file-and-linger": [
        [report("success", "Filed.", {"rows": 1}), Call("sleep", {"seconds": 60.0})],
    ],
    "side-effect": [Call("send_mail", {"to": "a@example.org"}), report("success", "Sent.")],
    "block": [Call("block", {"seconds": 60.0}), report("success", "Never.")],
    "overlap": [
        [Call("look", {"name": "a"}), Call("look", {"name": "b"}), Call("look", {"name": "c"})],
        report("success", "Looked."),
    ],
    "order": [
        [Call("note", {"name": "a"}), Call("note", {"name": "b"}), Call("note", {"name": "c"})],
        report("success", "Noted."),
    ],
    "context": [
        Call("who_am_i"),
        lambda messages, _: report("success", "Me.", _last_result(messages)),
    ],
    "long": [
        *(Call("echo", {"value": n}) for n in range(8)),
        report("success", "Long.", {"turns": 9}),
    ],
}


def _hurried(messages: list[ModelMessage]) -> Item:
    """Report, and whether the soft deadline has been told."""
    told = "[SOFT DEADLINE]" in str(messages)
    return report("partial" if told else "success", "Hurried.", {"told": told})


def _last_result(messages: list[ModelMessage]) -> JsonValue:
    [part] = messages[-1].parts
    content: JsonValue = part.content  # type: ignore[union-attr, assignment]
    return content


def model(latency: float = 0.0) -> ScriptedModel:
    """A model that plays the script its task names, with `latency` seconds for each answer."""
    return ScriptedModel(
        [_step(n) for n in range(10)],
        latency=latency,
        record=None if CALLS is None else Path(CALLS),
    )


def make(name: str, latency: float = 0.0) -> Colony:
    """A colony of that name with all the tools that the scripts call."""
    colony = Colony(
        name,
        goal="Be tested.",
        agent=AgentSpec(model=model(latency), instructions="Follow the script."),
        agents=[AgentSpec(name="bare", model=model(latency), tools=[])],
    )
    colony.tool(read_only=True)(echo)
    colony.tool(timeout=timedelta(seconds=120))(sleep)
    colony.tool(park)
    colony.tool(send_mail)
    colony.tool(timeout=timedelta(seconds=120))(block)
    colony.tool(read_only=True)(look)
    colony.tool(note)
    colony.tool(read_only=True)(who_am_i)
    return colony


async def echo(value: int) -> int:
    """Give a value back."""
    return value


async def sleep(seconds: float) -> str:
    """Wait on the loop."""
    await asyncio.sleep(seconds)
    return "slept"


def block(seconds: float) -> str:
    """Wait in a thread."""
    time.sleep(seconds)
    return "blocked"


async def park(seconds: float) -> str:
    """Wait without a slot."""
    raise Park(timedelta(seconds=seconds))


async def send_mail(to: str, ctx: ToolContext) -> str:
    """Have an effect that must not be repeated; each attempt is noted in a file."""
    with Path(os.environ["TEST_MAILS"]).open("a") as file:
        file.write(f"{ctx.idempotency_key} {to}\n")
    await asyncio.sleep(float(os.environ.get("TEST_MAIL_SECONDS", "0")))
    return "sent"


async def look(name: str) -> dict[str, JsonValue]:
    """Take 0.3 s, and say when."""
    began = time.monotonic()
    await asyncio.sleep(0.3)
    return {"name": name, "began": began, "ended": time.monotonic()}


async def note(name: str) -> dict[str, JsonValue]:
    """The same with an effect: never beside another call."""
    return await look(name)


async def who_am_i(ctx: ToolContext) -> dict[str, JsonValue]:
    """What a tool is told."""
    await ctx.progress("asked", step=1)
    return {
        "worker_id": ctx.worker_id,
        "colony_id": ctx.colony_id,
        "agent": ctx.agent,
        "task": ctx.task,
        "data": dict(ctx.data),
        "has_deadline": ctx.deadline is not None,
        "idempotency_key": ctx.idempotency_key,
    }


basic = make("basic")
slow = make("slow", latency=1.0)
snail = make("snail", latency=60.0)
