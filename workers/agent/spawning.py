"""run_parallel_workers: an agent hands tasks to workers of its own, and sleeps until they are in.

The tool spawns a batch whose ids follow from the call, then lets its worker park. When the batch is
joined the worker is woken and the same call is made again: it finds the batch, and returns the
reports. A crash anywhere in between repeats the call, never a child.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from colony.models import Report, TaskSpec, WorkerRecord
from colony.sizes import MAX_SECONDS
from colony.tools import ParkForChildren, Tool, ToolContext, make_tool
from workers.agent.results import Reports

RUN_PARALLEL_WORKERS = "run_parallel_workers"
MAX_TASKS = 64


@dataclass(frozen=True, slots=True)
class Unit:
    """Background work that has ended: its handle, its workers in order (none where they were not kept
    so long), and of each of their agents what it is (name, model, tools)."""

    handle: str
    members: Sequence[WorkerRecord]
    faces: Mapping[str, str]


class Offspring(Protocol):
    """What a run knows of spawning; the slice gives it."""

    async def spawn(
        self,
        tool_call_id: str,
        tasks: Sequence[TaskSpec],
        timeout: timedelta | None,
        *,
        background: bool = False,
    ) -> str:
        """Accept one child per task, the same ones for the same call; returns their batch's id.

        `background`: the batch takes a place of the agent's `max_async_children`.
        """

    async def reports(self, batch_id: str) -> list[Report] | None:
        """The children's reports in order, or None while the batch is open."""

    async def ended(self, handles: Sequence[str]) -> list[Unit]:
        """Those of these units that have ended, in the given order."""


class ParallelTask(BaseModel):
    """One task for a worker of its own. It sees this text and these data, nothing of your conversation."""

    model_config = ConfigDict(extra="forbid")

    task: str = Field(description="what the worker shall do, complete in itself")
    data: dict[str, JsonValue] = Field(default_factory=dict, description="input data of the task")
    agent: str | None = Field(None, description="which kind of agent; leave out for the default")


async def run_parallel_workers(
    offspring: Offspring,
    tasks: list[ParallelTask],
    ctx: ToolContext,
    timeout_seconds: float | None = None,
) -> Reports:
    """Run tasks in parallel, each by a worker of its own, and wait for all their reports.

    Args:
        tasks: 1 to 64 tasks.
        timeout_seconds: after so long, workers that have not ended are stopped (status timeout).
    """
    if problem := problem_of(tasks, timeout_seconds):
        raise ValueError(problem)
    specs = [spec_of(task) for task in tasks]
    timeout = None if timeout_seconds is None else timedelta(seconds=timeout_seconds)
    batch_id = await offspring.spawn(ctx.tool_call_id, specs, timeout)
    reports = await offspring.reports(batch_id)
    if reports is None:
        raise ParkForChildren(batch_id)
    dumped: list[JsonValue] = [r.model_dump(mode="json", exclude_none=True) for r in reports]
    return Reports(worker_count=len(reports), reports=dumped)


_TOOL = make_tool(
    run_parallel_workers,
    name=RUN_PARALLEL_WORKERS,
    idempotent=True,
    timeout=timedelta(minutes=5),
    builtin=True,
    bound=("offspring",),
)


def spawning_tool(offspring: Offspring) -> Tool:
    """The tool for one run: schema and description are made once, for all of them."""
    return replace(_TOOL, function=partial(run_parallel_workers, offspring))


def spec_of(task: ParallelTask) -> TaskSpec:
    """The task as the store takes it."""
    return TaskSpec(task=task.task, data=task.data, agent=task.agent)


def problem_of(tasks: Sequence[ParallelTask], timeout_seconds: float | None) -> str | None:
    """What the model must mend, naming the task or the limit; nothing was spawned."""
    if not tasks:
        return "tasks is empty: give at least one task"
    if len(tasks) > MAX_TASKS:
        return (
            f"{len(tasks)} tasks in one call, at most {MAX_TASKS} are allowed: make several calls"
        )
    for index, task in enumerate(tasks):
        if not task.task.strip():
            return f"tasks[{index}].task is blank"
    if timeout_seconds is not None and not 0 < timeout_seconds <= MAX_SECONDS:
        return (
            f"timeout_seconds must be positive and at most {MAX_SECONDS} (ten years), "
            f"got {timeout_seconds:g}"
        )
    return None
