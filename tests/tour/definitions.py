"""The colony of the tour: the scripts of `tests.definitions`, and those that only the tour tells."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import timedelta
from pathlib import Path

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony
from colony.testing_model import Call, ScriptedModel, report
from tests.definitions import SCRIPTS, make

STORY = "Once upon a time there was a colony without a king."

LATE_SECONDS = 2.5


def late_answer(_: list[ModelMessage], __: ModelRequestParameters) -> Call:
    """A model that hears nothing for 2.5 s, blocks the whole agent loop, and then reports success."""
    mark("began")
    time.sleep(LATE_SECONDS)
    mark("ended")
    return report("success", "Too late.", {"rows": 5})


def mark(text: str) -> None:
    """Note in the file TEST_MARKS that something happened."""
    with Path(os.environ["TEST_MARKS"]).open("a") as file:
        file.write(text + "\n")


SCRIPTS |= {
    "mend": [
        report("excellent", "Never so good."),
        Call("report_to_parent", '{"status": "succ'),
        report("success", "  ", ["a", "b"]),
    ],
    "report-among-others": [
        [
            Call("note", {"name": "before"}),
            report("partial", "Half of it.", {"rows": 2}),
            Call("no_such_tool"),
            report("failed", "No, wait."),
            Call("note", {"name": "after"}),
        ],
        AssertionError("asked again after the report"),
    ],
    "hang": [Call("hang"), report("success", "Was cut.")],
    "hang-in-thread": [Call("hang_in_thread"), report("success", "Was cut.")],
    "thread": [Call("block", {"seconds": 0.05}), report("success", "Had a thread.")],
    "late": [late_answer],
    "long-nap": [Call("sleep", {"seconds": 4.0}), report("success", "Napped.")],
    "long-block": [Call("block", {"seconds": 4.0}), report("success", "Blocked.")],
    "long-freeze": [Call("freeze", {"seconds": 4.0}), report("success", "Froze.")],
    "long-park": [Call("park", {"seconds": 1.5}), report("success", "Woke up.")],
}


async def hang() -> None:
    """Never end."""
    await asyncio.Event().wait()


def hang_in_thread() -> None:
    """Hold a thread for a minute, whatever the limit says."""
    time.sleep(60)


async def freeze(seconds: float) -> str:
    """Block the agent loop, as a careless tool does."""
    time.sleep(seconds)
    return "thawed"


def make_tour(name: str, latency: float = 0.0) -> Colony:
    """The colony of `tests.definitions` with more tools, and an agent that streams."""
    colony = make(name, latency)
    colony.agents["teller"] = AgentSpec(
        name="teller", model=ScriptedModel([STORY]), stream=True, tools=[]
    )
    colony.tool(timeout=timedelta(seconds=0.5))(hang)
    colony.tool(timeout=timedelta(seconds=0.5))(hang_in_thread)
    colony.tool(read_only=True)(freeze)
    return colony


tour = make_tour("tour")
steady = make_tour("steady", latency=0.15)
"""Each answer takes 0.15 s, so that there is a middle to be killed in."""
