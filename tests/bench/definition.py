"""What the benchmark's nodes serve: three model calls with two tool calls between them, and trees.

``BENCH_CALLS`` names a file that gets a line for each model call of some agents.
"""

from __future__ import annotations

import os
import time

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony
from colony.definition import ColonyConfig
from colony.testing_model import Call, Item, ScriptedModel, report

BRANCHES = 27
LEAVES = 36
TREE = 1 + BRANCHES + BRANCHES * LEAVES
"""Workers of one tree: a root, its branches, and the leaves of each: 1,000."""
LEAF_CALLS = 40
STEADY_CALLS = 12
STEADY_SECONDS = 1.0
"""Calls of a worker that is at work while its node dies or drains, and how long each takes."""
MODEL_SECONDS = 2.0
"""How long a leaf's model takes to answer."""


def _asked_at(_messages: list[ModelMessage], _parameters: ModelRequestParameters) -> Item:
    return report("success", "Asked.", {"asked_at": time.time()})


def _spawning(name: str, children: int, agent: str) -> AgentSpec:
    tasks = [{"task": "work", "agent": agent} for _ in range(children)]
    calls = [Call("run_parallel_workers", {"tasks": tasks}), report("success", "All in.")]
    return AgentSpec(name=name, model=ScriptedModel(calls), spawns=True)


colony = Colony(
    "bench",
    agent=AgentSpec(
        name="three-calls",
        model=ScriptedModel(
            [
                Call("look", {"item": 1}),
                Call("look", {"item": 2}),
                report("success", "Done.", {"rows": 5}),
            ],
            latency=1.0,
        ),
    ),
    agents=[
        AgentSpec(name="at-once", model=ScriptedModel([_asked_at])),
        AgentSpec(name="waiting", model=ScriptedModel(["never"], latency=3600.0)),
        _spawning("parent", 1, "waiting"),
        _spawning("family", 3, "three-calls"),
        AgentSpec(name="failing", model=ScriptedModel([RuntimeError("always")]), max_retries=0),
        _spawning("root", BRANCHES, "branch"),
        _spawning("branch", LEAVES, "leaf"),
        AgentSpec(
            name="steady",
            model=ScriptedModel(
                [*[Call("look", {"item": 1})] * STEADY_CALLS, report("success", "Done.")],
                latency=STEADY_SECONDS,
                record=os.environ.get("BENCH_CALLS"),
            ),
        ),
        AgentSpec(
            name="leaf",
            model=ScriptedModel(
                [Call("look", {"item": 1})] * LEAF_CALLS,
                latency=MODEL_SECONDS,
                record=os.environ.get("BENCH_CALLS"),
            ),
        ),
    ],
    config=ColonyConfig(max_descendants=TREE),
)


@colony.tool(read_only=True)
async def look(item: int) -> int:
    """Look at an item."""
    return item
