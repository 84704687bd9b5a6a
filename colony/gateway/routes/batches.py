"""Batches: many workers with one join, one deadline and one consolidated result."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from colony.gateway import examples
from colony.gateway.describe import link, operation
from colony.gateway.models import BatchSpawned, BatchView, Member, SpawnBatch, Stopped
from colony.gateway.routes.common import (
    NOT_YET,
    BatchId,
    Caller,
    Cursor,
    IdempotencyKey,
    Limit,
    Reason,
    Runtime,
    Wait,
    not_yet,
    options_of,
    router_for,
    unless_ending,
)
from colony.listing import Page, make_cursor, read_cursor
from colony.models import BatchRecord, BatchResult, Report
from colony.operations import unknown_batch
from colony.runtime import ColonyRuntime
from colony.spawning import Batch
from colony.tokens import Scope

router = router_for("batches")

NEXT = {
    "batch": link("get_batch", "batch_id", "$response.body#/batch_id"),
    "result": link("get_batch_result", "batch_id", "$response.body#/batch_id"),
    "members": link("get_batch_members", "batch_id", "$response.body#/batch_id"),
    "reports": link("get_batch_reports", "batch_id", "$response.body#/batch_id"),
    "stop": link("stop_batch", "batch_id", "$response.body#/batch_id"),
}


@router.post(
    "/batches",
    operation_id="spawn_batch",
    **operation(Scope.SPAWN, examples.BATCH_SPAWNED, status=202, body=True, links=NEXT),
)
async def spawn_batch(
    body: SpawnBatch, runtime: Runtime, caller: Caller, key: IdempotencyKey
) -> BatchSpawned:
    """Give up to 10,000 tasks to the fleet: all of them are accepted, or none."""
    batch = await runtime.spawn_batch(
        [task.model_dump() for task in body.tasks],
        policy=body.policy,
        first_n=body.first_n,
        idempotency_key=key,
        caller=caller,
        **options_of(body, runtime),
    )
    return _spawned(batch)


@router.get(
    "/batches/{batch_id}", operation_id="get_batch", **operation(Scope.READ, examples.BATCH)
)
async def get_batch(batch_id: BatchId, runtime: Runtime) -> BatchView:
    """How far a batch is: how many are in, and the counts by status once it is joined."""
    return BatchView.of(await _existing(runtime, batch_id))


@router.get(
    "/batches/{batch_id}/result",
    operation_id="get_batch_result",
    response_model=BatchResult,
    **operation(Scope.READ, examples.BATCH_RESULT, responses=NOT_YET),
)
async def get_batch_result(
    batch_id: BatchId, runtime: Runtime, wait: Wait, request: Request
) -> Any:
    """The consolidated result: how each member ended, in the order of the tasks. With `wait` the answer
    comes when the batch is joined, or after so many seconds."""
    waiting = runtime.wait_for_batch(batch_id, wait.total_seconds())
    result = await unless_ending(request, waiting)
    if result is not None:
        return result
    return not_yet(batch_id, (await _existing(runtime, batch_id)).state)


@router.get(
    "/batches/{batch_id}/members",
    operation_id="get_batch_members",
    **operation(Scope.READ, examples.MEMBERS),
)
async def get_batch_members(
    batch_id: BatchId, runtime: Runtime, limit: Limit, cursor: Cursor = None
) -> Page[Member]:
    """The batch's workers, in the order of the tasks."""
    start = _start("members", batch_id, cursor)
    ids = await runtime.get_batch_members(batch_id, start, limit + 1)
    members = (Member(index=start + place, worker_id=w) for place, w in enumerate(ids[:limit]))
    more = make_cursor(f"members:{batch_id}", start + limit) if len(ids) > limit else None
    return Page(items=tuple(members), next_cursor=more)


@router.get(
    "/batches/{batch_id}/reports",
    operation_id="get_batch_reports",
    **operation(Scope.READ, examples.REPORTS),
)
async def get_batch_reports(
    batch_id: BatchId, runtime: Runtime, limit: Limit, cursor: Cursor = None
) -> Page[Report | None]:
    """The members' reports, in the order of the tasks; null for one that has not ended."""
    start = _start("reports", batch_id, cursor)
    reports = await runtime.get_batch_reports(batch_id, start, limit + 1)
    more = make_cursor(f"reports:{batch_id}", start + limit) if len(reports) > limit else None
    return Page(items=tuple(reports[:limit]), next_cursor=more)


@router.post(
    "/batches/{batch_id}/stop",
    operation_id="stop_batch",
    **operation(Scope.STOP, {"stopped": 3}, body=True),
)
async def stop_batch(batch_id: BatchId, runtime: Runtime, reason: Reason) -> Stopped:
    """Stop what has not ended of a batch; answers how many that were."""
    return Stopped(stopped=await runtime.stop_batch(batch_id, reason))


@router.post(
    "/batches/{batch_id}/retry",
    operation_id="retry_batch",
    **operation(Scope.SPAWN, examples.BATCH_SPAWNED, status=202, also=(409,)),
)
async def retry_batch(batch_id: BatchId, runtime: Runtime, key: IdempotencyKey) -> BatchSpawned:
    """Spawn what did not succeed in a joined batch again, as a new batch."""
    return _spawned(
        await runtime.retry_batch(batch_id, idempotency_key=key and f"{key}:{batch_id}")
    )


def _spawned(batch: Batch) -> BatchSpawned:
    return BatchSpawned(batch_id=batch.id, worker_ids=list(batch))


def _start(what: str, batch_id: str, cursor: str | None) -> int:
    return 0 if cursor is None else read_cursor(f"{what}:{batch_id}", cursor)[0]


async def _existing(runtime: ColonyRuntime, batch_id: str) -> BatchRecord:
    record = await runtime.get_batch(batch_id)
    if record is None:
        raise unknown_batch(batch_id, runtime.colony_id)
    return record
