"""A colony for the commands: ``hand-out a / b`` gives each of these tasks to a child, and sleeps."""

from __future__ import annotations

from datetime import timedelta

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony import AgentSpec, Colony
from colony.testing_model import Call, report
from tests.definitions import SCRIPTS, model, sleep, task_of


def hand_out(messages: list[ModelMessage], _: ModelRequestParameters) -> Call:
    """``hand-out a / b``: two children; ``hand-out hand-out a``: a child that has one itself."""
    tasks = task_of(messages).split(maxsplit=1)[1].split("/")
    return Call("run_parallel_workers", {"tasks": [{"task": task.strip()} for task in tasks]})


SCRIPTS["hand-out"] = [hand_out, report("success", "All are in.")]

family = Colony(
    "family",
    goal="Be looked at.",
    agent=AgentSpec(model=model(), instructions="Follow the script.", spawns=True),
)
family.tool(idempotent=True, timeout=timedelta(seconds=120))(sleep)
