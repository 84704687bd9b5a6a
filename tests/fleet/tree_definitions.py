"""Colonies whose agents spawn: the first word of a task picks a script, its other words are the children's.

``fan 5 fan 5 probe`` is a tree of three levels: five children that each have five that probe.
"""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony, ColonyConfig
from colony.testing_model import Call, report
from tests.definitions import SCRIPTS, model, task_of

SPAWN = "run_parallel_workers"


def spawn(tasks: list[str]) -> Call:
    """The call that hands these tasks to children."""
    return Call(SPAWN, {"tasks": [{"task": task} for task in tasks]})


def last_result(messages: list[ModelMessage]) -> Any:
    """What the last tool call returned."""
    return messages[-1].parts[0].content  # type: ignore[union-attr]


def fan(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``… N task``: N children with the same task."""
    count, task = task_of(messages).split(maxsplit=2)[1:]
    return spawn([task] * int(count))


def each(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``… task / task / …``: a child for each."""
    return spawn([task.strip() for task in task_of(messages).split(maxsplit=1)[1].split("/")])


def raw(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``… JSON``: these very arguments."""
    return Call(SPAWN, task_of(messages).split(maxsplit=1)[1])


def told(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """Report what the children reported, or the error that came instead."""
    result = last_result(messages)
    if isinstance(result, dict) and "reports" in result:
        reports: list[JsonValue] = result["reports"]
        return report("success", f"{len(reports)} children.", {"reports": reports})
    return report("failed", "No children.", {"refused": json.dumps(result)})


def probed(messages: list[ModelMessage], parameters: ModelRequestParameters) -> Call:
    """Report whether the spawning tool is offered, and what a call of it came to."""
    offered = any(tool.name == SPAWN for tool in parameters.function_tools)
    answer = json.dumps(last_result(messages))
    return report("success", "Probed.", {"offered": offered, "answer": answer})


def hold_named(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``hold NAME``: wait for the gate of that name."""
    return Call("hold", {"gate": task_of(messages).split()[1]})


SCRIPTS |= {
    "fan": [fan, told],
    "each": [each, told],
    "raw": [raw, told],
    "rest-fan": [Call("rest", {"seconds": 1.0}), fan, told],
    "fan-twice": [fan, fan, told],
    "probe": [spawn(["fetch"]), probed],
    "rest": [Call("rest", {"seconds": 60.0}), report("success", "Rested.")],
    "hold": [hold_named, report("success", "Held.")],
    "far": [report("success", "Exact.", {"n": 2**53 + 1, "empty": [], "text": "ü\u0000 {}"})],
}


async def hold(gate: str) -> str:
    """Wait until a test opens the gate."""
    file = Path(os.environ["TEST_GATES"]) / gate
    while not file.exists():
        await asyncio.sleep(0.02)
    return "open"


async def rest(seconds: float) -> str:
    """Wait; may be repeated."""
    await asyncio.sleep(seconds)
    return "rested"


def make_trees(name: str, config: ColonyConfig | None = None) -> Colony:
    """A colony where everybody may spawn."""
    agent = AgentSpec(model=model(), instructions="Follow the script.", spawns=True)
    colony = Colony(name, goal="Be tested.", agent=agent, config=config)
    colony.tool(idempotent=True, timeout=timedelta(seconds=120))(hold)
    colony.tool(idempotent=True, timeout=timedelta(seconds=120))(rest)
    return colony


trees = make_trees("trees")
narrow = make_trees("narrow", ColonyConfig(max_depth=2, max_descendants=5))
large = make_trees("large", ColonyConfig(max_pending=10_500, result_retention_max=30_000))
