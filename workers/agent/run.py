"""What one slice of a worker is run with: values, a journal, and a pool of threads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pydantic_ai.models import Model

from colony.conversation import Part
from colony.credentials import NO_ACCOUNTS, Accounts
from colony.definition import AgentSpec
from colony.models import WorkerRecord
from colony.tools import Tool
from workers.agent.journal import Journal
from workers.agent.spawning import Offspring
from workers.agent.threads import ToolThreads


async def no_fence() -> None:
    """Whoever runs an agent without a lease is its only owner."""


TICK = 0.002
"""Seconds by which an event loop's timer may fire early: a deadline so near has passed. Without it, what
the deadline has just cut would be tried once more, and fail for another reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """All that `run_agent` needs.

    `parts` is the worker's conversation so far, as stored. `remaining` is the time to the worker's
    deadline: None without one, zero or less once it has passed; `soft_remaining` likewise for the
    soft deadline. `offspring` is None where the agent may not spawn. `sleep` is how a retry waits.
    `draining`: no new call is to be begun; `run_agent` then ends as `HandedOver`.
    `age`: seconds since the worker was accepted.
    `accounts` are those that the agent may use; what tools say is written without their secrets.
    `fence` is awaited before each call to a model or a tool: it returns when the worker surely is
    ours, and raises `StaleToken` when it is not any more.
    """

    colony_id: str
    goal: str
    worker: WorkerRecord
    spec: AgentSpec
    tools: Mapping[str, Tool]
    model: Model
    parts: Sequence[Part]
    journal: Journal
    threads: ToolThreads
    remaining: Callable[[], timedelta | None]
    max_tool_result_bytes: int
    max_report_bytes: int
    soft_remaining: Callable[[], timedelta | None] = lambda: None
    offspring: Offspring | None = None
    accounts: Accounts = NO_ACCOUNTS
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    fence: Callable[[], Awaitable[None]] = no_fence
    draining: Callable[[], bool] = lambda: False
    age: Callable[[], float] = lambda: 0.0

    def seconds_left(self) -> float | None:
        """Seconds to the worker's deadline; None without one."""
        remaining = self.remaining()
        return None if remaining is None else remaining.total_seconds()

    @property
    def model_name(self) -> str:
        """The model that the definition names, for labels: what answers may be another one."""
        model = self.spec.model
        return model if isinstance(model, str) else model.model_name

    @property
    def out_of_time(self) -> bool:
        """Whether the worker's deadline has passed."""
        left = self.seconds_left()
        return left is not None and left <= TICK

    @property
    def past_soft_deadline(self) -> bool:
        """Whether it is time to come to an end."""
        left = self.soft_remaining()
        return left is not None and left <= timedelta(0)

    def at_most(self, limit: timedelta) -> float:
        """Seconds that something may take: its own limit, or less where the deadline is nearer."""
        left = self.seconds_left()
        return limit.total_seconds() if left is None else min(limit.total_seconds(), left)
