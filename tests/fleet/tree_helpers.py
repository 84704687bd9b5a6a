"""What the tests of batches and trees ask again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from colony import EventType
from colony.models import BatchResult, Event, ReportStatus, WorkerState
from colony.runtime import ColonyRuntime
from colony.spawning import Batch
from colony.testing import wait_until
from tests.fleet.helpers import records


@contextmanager
def gates(folder: Path) -> Iterator[Path]:
    """Let the nodes that are started meanwhile find their gates in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_GATES", str(folder))
        yield folder


async def joined(runtime: ColonyRuntime, batch_id: str, timeout: float = 15) -> BatchResult:
    """The batch's result; the test fails when it is not joined in time."""
    result = await runtime.wait_for_batch(batch_id, timeout)
    if result is None:
        record = await runtime.get_batch(batch_id)
        raise AssertionError(f"batch {batch_id} is not joined after {timeout:g} s: {record}")
    return result


def statuses_of(result: BatchResult) -> list[ReportStatus]:
    """How the members ended, in their order."""
    return [member.status for member in result.members]


async def joins_told(runtime: ColonyRuntime, batch_id: str) -> list[Event]:
    """The events that announce a batch's join."""
    kept = runtime.events(types=[EventType.BATCH_COMPLETED], after="0", follow=False)
    return [event async for event in kept if event.data.get("batch_id") == batch_id]


async def total(runtime: ColonyRuntime, name: str) -> int:
    """A counter of the colony."""
    return (await runtime.get_stats()).totals.get(name, 0)


async def until_states(
    runtime: ColonyRuntime, ids: Sequence[str], state: WorkerState, timeout: float = 15
) -> None:
    """Wait until all these workers are in a state."""

    async def all_are() -> bool:
        return all(record.state is state for record in await records(runtime, ids))

    await wait_until(all_are, timeout, what=f"{len(ids)} workers are {state}")


async def children_of(
    runtime: ColonyRuntime, worker_id: str, count: int, timeout: float = 15
) -> list[str]:
    """The children of a worker, once there are so many."""

    async def enough() -> bool:
        return len(await runtime.get_children(worker_id)) >= count

    await wait_until(enough, timeout, what=f"{count} children of {worker_id}")
    return await runtime.get_children(worker_id)


async def batch_of(runtime: ColonyRuntime, worker_id: str) -> Batch:
    """The batch of a member, as its spawner has it."""
    [record] = await records(runtime, [worker_id])
    assert record.batch_id is not None
    return Batch(record.batch_id, await runtime.get_batch_members(record.batch_id))
