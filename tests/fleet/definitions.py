"""Further colonies of the fleet tests, with tools that kill, wait for a file, and may be repeated."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

from colony import AgentSpec, Colony, ToolContext
from colony.testing_model import Call, report
from tests.definitions import SCRIPTS, make

SCRIPTS["poison"] = [Call("kill_my_node", {"after": 1.5}), report("success", "Survived?")]
SCRIPTS["long-nap"] = [Call("sleep", {"seconds": 3.0}), report("success", "Napped long.")]
SCRIPTS["put"] = [
    Call("put", {"value": "x"}),
    Call("put", {"value": "y"}),
    report("success", "Put.", {"puts": 2}),
]
SCRIPTS["mixed"] = [
    ["Let me see.", Call("echo", {"value": 1}), Call("echo", {"value": 2})],
    [Call("put", {"value": "a"}), Call("echo", {"value": 3}), Call("no_such_tool")],
    [Call("echo", {"wrong": 1})],
    "",
    Call("put", {"value": "b"}),
    report("partial", "Mixed.", {"n": 2**53 + 1, "empty": []}),
]


async def kill_my_node(after: float) -> str:
    """End the process that runs this, as a segmentation fault would."""
    await asyncio.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


async def put(value: str, ctx: ToolContext) -> str:
    """Have an effect that may be repeated; each attempt is noted with its key."""
    with Path(os.environ["TEST_MAILS"]).open("a") as file:
        file.write(f"{ctx.idempotency_key} {value}\n")
    return value


def make_deadly(name: str, latency: float = 0.0) -> Colony:
    """A colony with the tools of `tests.definitions` and those above."""
    colony = make(name, latency)
    colony.tool(idempotent=True)(put)
    colony.tool(idempotent=True, timeout=timedelta(seconds=60))(kill_my_node)
    return colony


deadly = make_deadly("deadly")
quiet = make("quiet", latency=600.0)
"""Its model does not answer: its workers wait until they are stopped."""

unknown_model = Colony("unknown-model", agent=AgentSpec(model="openaii:gpt"))
no_key = Colony("no-key", agent=AgentSpec(model="openai:gpt-5-mini"))
