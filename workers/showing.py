"""What people see of a worker in Flower: Celery events, sent by the process that runs it.

=================  ================================================================================
task-step          that it runs, or why it waits: `result` is its turn and phase, `colony` its state
task-succeeded     it is COMPLETED; Celery's own event of that name tells of a slice, and is not sent
task-failed        it is FAILED
task-revoked       it is STOPPED; then task-stopped, for a Flower without our configuration: there the
                   state of a custom event is only replaced by that of another
=================  ================================================================================

All carry `parent_id` and `root_id`, and `agent_started`, when its first slice began; the last ones
`runtime`, in seconds from then. None carries what a person or a model has written: only ids, numbers,
names of the definition and words of ours.

What it costs is bounded: a node sends steps once a second, of each worker the latest, and ends a tenth
of a second apart, both in batches and off the agent loop. They may be lost; nothing reads them but Flower.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from colony.conversation import Step
from colony.models import EventType, ReportStatus, WorkerRecord, WorkerState
from workers.loop import Crew

if TYPE_CHECKING:
    from workers.node.context import NodeContext

log = logging.getLogger("colony.showing")

STEPS_EVERY_SECONDS = 1.0
ENDS_EVERY_SECONDS = 0.1
MOST_WAITING = 100
"""Flushes that wait for a broker that is away; what comes when there are so many is not shown."""
NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
"""Of tools and errors: anything else may be a model's own words."""

Event = tuple[str, dict[str, Any]]


@dataclass(slots=True)
class Progress:
    """How far a worker is, as its node knows without asking the store."""

    record: WorkerRecord
    turn: int = 0
    requests: int = 0
    tokens: int = 0
    phase: str = "asks the model"
    state: str = WorkerState.RUNNING.value

    @classmethod
    def of(cls, record: WorkerRecord) -> Progress:
        """That of a worker as its record tells it."""
        phase = "goes on" if record.epoch > 1 else "asks the model"
        return cls(record, 0, record.requests, record.tokens_used, phase)

    def add(self, step: Step) -> None:
        """What a checkpoint changes."""
        self.requests += step.requests
        self.tokens += step.tokens
        for kind, data in step.events:
            if kind == EventType.LLM_TURN_COMPLETE:
                self.turn, self.phase = data["turn"], "asks the model"
            elif kind == EventType.TOOL_CALL_STARTED:
                tool = str(data.get("tool"))
                self.phase = f"calls {tool}" if NAME.fullmatch(tool) else "calls a tool"
            elif kind == EventType.TOOL_CALL_COMPLETED:
                self.phase = "asks the model"

    def waits(self, what: str) -> None:
        """It is parked."""
        self.state, self.phase = f"{WorkerState.PARKED} ({what})", f"waits for {what}"

    def step(self) -> Event:
        """It as an event."""
        turn = f"turn {self.turn} · " if self.turn else ""
        return "task-step", self._fields(f"{turn}{self.phase} · {self._used()}", self.state)

    def ends(self, status: ReportStatus, error: str | None, runtime: float) -> list[Event]:
        """Its end as events."""
        why = error if error and NAME.fullmatch(error) else status.value
        state, told = STATES[status], f"{status} ({why})" if why != status else status.value
        column = state.value if why in SAID else f"{state} ({why})"
        fields = self._fields(f"{told} · {self._used()}", column) | {"runtime": round(runtime, 3)}
        if state is WorkerState.COMPLETED:
            return [("task-succeeded", fields)]
        if state is WorkerState.FAILED:
            return [("task-failed", {**fields, "exception": told})]
        revoked = {**fields, "terminated": True, "signum": None, "expired": False}
        return [("task-revoked", revoked), ("task-stopped", fields)]

    def _used(self) -> str:
        return f"{self.requests} request{'s' * (self.requests != 1)} · {self.tokens:,} tokens"

    def _fields(self, result: str, state: str) -> dict[str, Any]:
        record = self.record
        started = record.started_at
        fields = {
            "uuid": record.worker_id,
            "name": f"agent:{record.agent}",  # a producer need not know the default agent's
            "result": result,
            "colony": state,
            "root_id": record.root_id,
        }
        if record.parent_id is not None:
            fields["parent_id"] = record.parent_id
        return fields if started is None else {**fields, "agent_started": started.timestamp()}


STATES = {
    ReportStatus.SUCCESS: WorkerState.COMPLETED,
    ReportStatus.PARTIAL: WorkerState.COMPLETED,
    ReportStatus.FAILED: WorkerState.FAILED,
    ReportStatus.TIMEOUT: WorkerState.FAILED,
    ReportStatus.STOPPED: WorkerState.STOPPED,
}
SAID = ("success", "failed", "stopped")
"""What the state says already."""


class Showing:
    """Gathers what is to be shown, on the agent loop, and sends it from a thread of its own, in order.

    A process that has Celery's consumer sends on its dispatcher, with Celery's own events; a child of a
    prefork pool, or a node that drains and so consumes no more, on a connection of the app's pool.
    """

    def __init__(self) -> None:
        self._consumer: Any = None
        self._pid = 0
        self._steps: dict[str, Progress] = {}
        self._ends: list[Event] = []
        self._due: dict[str, asyncio.TimerHandle] = {}
        self._sender: Crew | None = None
        self._complained = False

    def through(self, consumer: Any) -> None:
        """This process's consumer has a dispatcher of events, or a new one after a reconnection."""
        self._consumer, self._pid = consumer, os.getpid()

    def step(self, context: NodeContext, progress: Progress) -> None:
        """It has come further. On the agent loop; never waits."""
        self._steps[progress.record.worker_id] = progress
        self._flush_in(STEPS_EVERY_SECONDS, "steps", context)

    def end(
        self, context: NodeContext, progress: Progress, status: ReportStatus, error: str | None
    ) -> None:
        """It has ended just now. On the agent loop; never waits."""
        started = progress.record.started_at
        runtime = 0.0 if started is None else (datetime.now(UTC) - started).total_seconds()
        self._end(context, progress, status, error, max(0.0, runtime))

    def ended(self, context: NodeContext, record: WorkerRecord) -> None:
        """It was found to have ended, by this record. On the agent loop; never waits."""
        if record.report is not None:
            report = record.report
            how = report.status, report.error, report.duration_seconds
            self._end(context, Progress.of(record), *how)

    def _end(
        self,
        context: NodeContext,
        progress: Progress,
        status: ReportStatus,
        error: str | None,
        runtime: float,
    ) -> None:
        self._steps.pop(progress.record.worker_id, None)
        self._ends += progress.ends(status, error, runtime)
        self._flush_in(ENDS_EVERY_SECONDS, "ends", context)

    def _flush_in(self, seconds: float, what: str, context: NodeContext) -> None:
        if what not in self._due:
            loop = asyncio.get_running_loop()
            self._due[what] = loop.call_later(seconds, self._flush, what, context)

    def _flush(self, what: str, context: NodeContext) -> None:
        del self._due[what]
        events: Iterable[Event]
        if what == "steps":
            steps, self._steps = self._steps, {}
            events = (progress.step() for progress in steps.values())
        else:
            events, self._ends = self._ends, []
        if self._sender is None:
            self._sender = Crew("showing", 1)
        if self._sender.waiting() < MOST_WAITING:
            self._sender.submit(self._send, context, events)

    def _send(self, context: NodeContext, events: Iterable[Event]) -> None:
        try:
            if self._pid == os.getpid() and not context.drain.begun:
                _dispatch(self._consumer.event_dispatcher, events)
            else:
                made = context.app.events.default_dispatcher(hostname=context.hostname)
                with made as dispatcher:
                    _dispatch(dispatcher, events)
        except Exception as error:  # noqa: BLE001 (whatever a broken broker raises: the work goes on)
            level = logging.DEBUG if self._complained else logging.WARNING
            self._complained = True
            log.log(level, "events for Flower are not sent: %s", error)
        else:
            self._complained = False


def _dispatch(dispatcher: Any, events: Iterable[Event]) -> None:
    if dispatcher is not None and dispatcher.enabled:
        for kind, fields in events:
            dispatcher.send(kind, **fields)


SHOWING = Showing()
"""This process's. A forked child has the parent's: with nothing in it, as the parent runs no slices."""
