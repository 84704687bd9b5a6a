"""Trees: a worker or a batch with everything below it."""

from __future__ import annotations

import asyncio

from colony.gateway import examples
from colony.gateway.describe import operation
from colony.gateway.models import Branch, Tree
from colony.gateway.routes.common import Runtime, Settings, WorkerId, router_for
from colony.operations import unknown_worker
from colony.runtime import ColonyRuntime
from colony.tokens import Scope

router = router_for("trees")

PAGE = 500


@router.get("/trees/{worker_id}", operation_id="get_tree", **operation(Scope.READ, examples.TREE))
async def get_tree(worker_id: WorkerId, runtime: Runtime, settings: Settings) -> Tree:
    """A worker with all its descendants; of the id of a batch, each of its members so."""
    if await runtime.get_batch(worker_id) is not None:
        ids = await runtime.get_batch_members(worker_id, 0, settings.max_tree + 1)
    elif (await runtime.get_summaries([worker_id]))[0] is not None:
        ids = [worker_id]
    else:
        raise unknown_worker(worker_id, runtime.colony_id)
    return await _grown(runtime, ids, settings.max_tree)


async def _grown(runtime: ColonyRuntime, ids: list[str], most: int) -> Tree:
    """Level by level, so that what is left out is what lies deepest."""
    tops = [Branch(worker_id=worker_id) for worker_id in ids[:most]]
    level, count, truncated = tops, len(tops), len(ids) > most
    while level:
        below: list[Branch] = []
        for start in range(0, len(level), PAGE):
            page = level[start : start + PAGE]
            for branch, children in zip(page, await _read(runtime, page), strict=True):
                room = most - count - len(below)
                truncated = truncated or len(children) > room
                branch.children = [Branch(worker_id=child) for child in children[:room]]
                below += branch.children
        count += len(below)
        level = below
    return Tree(tops=tops, workers=count, truncated=truncated)


async def _read(runtime: ColonyRuntime, page: list[Branch]) -> list[list[str]]:
    """Fill in what is known of these workers; the ids of the children of each."""
    ids = [branch.worker_id for branch in page]
    for branch, worker in zip(page, await runtime.get_summaries(ids), strict=True):
        branch.worker = worker
    return await asyncio.gather(*(runtime.get_children(worker_id) for worker_id in ids))
