"""Children in memory: each ends when a test says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters

from colony.errors import TreeLimit
from colony.models import Report, TaskSpec, WorkerRecord, WorkerState
from colony.testing_model import Item, ScriptItem
from workers.agent.spawning import Unit

BEGAN = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
FACE = "scout; model: scripted; tools: look, walk"


@dataclass
class Nest:
    """What a slice gives a run to spawn with. `most`: capacity; `units`: the tasks by handle."""

    most: int = 3
    units: dict[str, list[TaskSpec]] = field(default_factory=dict)
    timeouts: dict[str, timedelta | None] = field(default_factory=dict)
    over: dict[str, Unit] = field(default_factory=dict)
    dispatches: list[str] = field(default_factory=list)

    async def spawn(
        self,
        tool_call_id: str,
        tasks: Sequence[TaskSpec],
        timeout: timedelta | None,
        *,
        background: bool = False,
    ) -> str:
        handle = f"b-{tool_call_id}"
        self.dispatches.append(handle)
        if handle not in self.units:
            if background and len(self.out) >= self.most:
                raise TreeLimit(f"{len(self.out)} units are out, at most {self.most} may be")
            self.units[handle], self.timeouts[handle] = list(tasks), timeout
        return handle

    async def reports(self, batch_id: str) -> list[Report] | None:
        over = self.over.get(batch_id)
        return [m.report for m in over.members if m.report] if over else None

    async def ended(self, handles: Sequence[str]) -> list[Unit]:
        return [self.over[handle] for handle in handles if handle in self.over]

    @property
    def out(self) -> list[str]:
        """The handles of those that have not ended."""
        return [handle for handle in self.units if handle not in self.over]

    def end(self, handle: str, *reports: Report) -> None:
        """Let a unit end, with these reports or, for want of them, good ones."""
        given = reports or [good(f"Did it {i}.") for i in range(len(self.units[handle]))]
        pairs = zip(self.units[handle], given, strict=True)
        members = [_member(f"w{i}", task, report) for i, (task, report) in enumerate(pairs)]
        self.over[handle] = Unit(handle, members, {"scout": FACE})

    def ends(self, item: Item, *handles: str) -> ScriptItem:
        """An answer of a model during which these units end."""

        def answer(_: list[ModelMessage], __: ModelRequestParameters) -> Item:
            for handle in handles:
                self.end(handle)
            return item

        return answer


def good(summary: str, status: str = "success", error: str | None = None, **data: object) -> Report:
    """A member's report."""
    return Report.model_validate(
        {
            "worker_id": "w",
            "status": status,
            "summary": summary,
            "data": data,
            "error": error,
            "duration_seconds": 2.5,
            "tokens_used": 30,
        }
    )


def _member(worker_id: str, task: TaskSpec, report: Report) -> WorkerRecord:
    return WorkerRecord(
        worker_id=worker_id,
        colony_id="ants",
        state=WorkerState.COMPLETED if report.ok else WorkerState.FAILED,
        agent=task.agent or "scout",
        task=task.task,
        data=task.data,
        stream_id="s1",
        root_id="w1",
        version="1",
        created_at=BEGAN,
        since=BEGAN,
        ended_at=BEGAN + timedelta(seconds=3),
        requests=2,
        report=report,
    )
