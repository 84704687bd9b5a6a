"""A colony whose tools log."""

from __future__ import annotations

import logging
import time

from colony import AgentSpec, Colony
from colony.testing_model import Call, ScriptedModel, ScriptItem, report
from tests.definitions import task_of

log = logging.getLogger("my.tools")

LOG = [Call("on_the_loop"), Call("in_a_thread"), Call("out_loud"), report("success", "Logged.")]
NAP = [Call("nap"), Call("on_the_loop"), report("success", "Napped.")]


def _step(index: int) -> ScriptItem:
    return lambda messages, _: (NAP if "nap" in task_of(messages) else LOG)[index]


colony = Colony(
    "logging",
    agent=AgentSpec(model=ScriptedModel([_step(n) for n in range(4)])),
)


@colony.tool(read_only=True)
async def on_the_loop() -> str:
    """Log."""
    log.warning("from the loop")
    return "done"


@colony.tool
def in_a_thread() -> str:
    """Log."""
    log.info("from a thread")
    return "done"


@colony.tool
def out_loud() -> str:
    """Print."""
    print("printed")
    return "done"


@colony.tool(read_only=True)
def nap() -> str:
    """Take long, once more after a rescue."""
    time.sleep(3)
    return "rested"
