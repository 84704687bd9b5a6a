"""What the tests of background work ask again and again."""

from __future__ import annotations

from typing import Any, cast

from colony.models import Report
from colony.runtime import ColonyRuntime
from tests.fleet.background_definitions import HEAD
from tests.fleet.helpers import records


def blocks_in(report: Report) -> list[str]:
    """The blocks that the agent was told, in order."""
    return cast(list[str], report.data["blocks"])


def handles_in(report: Report) -> list[str]:
    """The units that the agent was told of, in order."""
    return [block.removeprefix(HEAD).partition("]")[0] for block in blocks_in(report)]


def dispatches_in(report: Report) -> list[Any]:
    """What the calls of delegate_task returned, in order."""
    return cast(list[Any], report.data["dispatches"])


async def units_of(runtime: ColonyRuntime, worker_id: str) -> dict[str, list[str]]:
    """The batches of a worker's children with their members, in the order of dispatch."""
    children = await records(runtime, await runtime.get_children(worker_id))
    handles = dict.fromkeys(
        str(c.batch_id) for c in sorted(children, key=lambda child: child.created_at)
    )
    return {handle: await runtime.get_batch_members(handle) for handle in handles}
