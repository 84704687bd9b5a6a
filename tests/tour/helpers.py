"""What the tour asks again and again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from colony import ColonyRuntime, Event, EventType, Report, WorkerRecord, WorkerState
from colony.testing import wait_until


async def report_of(runtime: ColonyRuntime, worker_id: str, timeout: float = 15.0) -> Report:
    """The worker's report; the test fails when there is none in time."""
    report = await runtime.wait_for_worker(worker_id, timeout)
    assert report is not None, f"worker {worker_id} has not reported within {timeout:g} s"
    return report


async def record_of(runtime: ColonyRuntime, worker_id: str) -> WorkerRecord:
    """The record of a worker that must exist."""
    record = await runtime.get_worker(worker_id)
    assert record is not None
    return record


async def until_state(
    runtime: ColonyRuntime, worker_id: str, state: WorkerState, timeout: float = 15.0
) -> None:
    """Wait until a worker is in a state."""

    async def is_in_it() -> bool:
        return (await record_of(runtime, worker_id)).state is state

    await wait_until(is_in_it, timeout, what=f"worker {worker_id} is {state}")


async def told(runtime: ColonyRuntime, worker_id: str) -> list[Event]:
    """All kept events of a worker, in order."""
    return [e async for e in runtime.events(after="0", worker_id=worker_id, follow=False)]


async def counts_of(runtime: ColonyRuntime, worker_id: str) -> Counter[str]:
    """How many kept events of each type a worker has."""
    return Counter(str(event.type) for event in await told(runtime, worker_id))


async def the_report_told(runtime: ColonyRuntime, worker_id: str) -> Event:
    """The one SUBAGENT_REPORT of a worker."""
    events = await told(runtime, worker_id)
    [only] = [event for event in events if event.type == EventType.SUBAGENT_REPORT]
    return only


async def results_of(runtime: ColonyRuntime, worker_id: str) -> list[dict[str, Any]]:
    """The results of a worker's tool calls: ``tool_name``, ``content``, ``outcome``, …"""
    parts = await runtime.get_conversation(worker_id)
    return [part["part"] for part in parts if part["kind"] == "result"]


class Calls:
    """The requests that models have had, in all processes: see ``TEST_CALLS``."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def of(self, task: str) -> list[int]:
        """Per request for this very task: how many answers its conversation held, sorted."""
        if not self.file.exists():
            return []
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        return sorted(line["answers"] for line in lines if line["task"] == task)
