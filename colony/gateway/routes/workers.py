"""Workers: spawn, list, look at, wait for, stop and retry them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request

from colony.gateway import examples
from colony.gateway.describe import link, operation
from colony.gateway.models import Retried, Spawn, Spawned, Stopped, StoppedWorker
from colony.gateway.routes.common import (
    NOT_YET,
    Caller,
    Cursor,
    IdempotencyKey,
    Limit,
    Reason,
    Runtime,
    Wait,
    WorkerId,
    not_yet,
    options_of,
    router_for,
    unless_ending,
)
from colony.listing import Page, WorkerSummary, make_cursor, read_cursor
from colony.models import Report, WorkerRecord, WorkerState
from colony.operations import unknown_worker
from colony.runtime import ColonyRuntime
from colony.tokens import Scope

router = router_for("workers")

NEXT = {
    "worker": link("get_worker", "worker_id", "$response.body#/worker_ids/0"),
    "report": link("get_report", "worker_id", "$response.body#/worker_ids/0"),
    "stop": link("stop_worker", "worker_id", "$response.body#/worker_ids/0"),
}


@router.post(
    "/workers",
    operation_id="spawn",
    **operation(Scope.SPAWN, examples.SPAWNED, status=202, body=True, links=NEXT),
)
async def spawn(body: Spawn, runtime: Runtime, caller: Caller, key: IdempotencyKey) -> Spawned:
    """Give a task to the fleet. Once this is answered the workers are kept, whatever happens."""
    ids = await runtime.spawn(
        body.task,
        count=body.count,
        data=body.data,
        agent=body.agent,
        idempotency_key=key,
        caller=caller,
        **options_of(body, runtime),
    )
    return Spawned(worker_ids=ids)


@router.get("/workers", operation_id="list_workers", **operation(Scope.READ, examples.WORKERS))
async def list_workers(
    runtime: Runtime,
    limit: Limit,
    cursor: Cursor = None,
    status: Annotated[WorkerState | None, Query(description="Only those in this state.")] = None,
) -> Page[WorkerSummary]:
    """Workers, newest first. Who is on the list from the first page to the last comes exactly once."""
    return await runtime.page_workers(status=status, cursor=cursor, limit=limit)


@router.post(
    "/workers/stop",
    operation_id="stop_all_workers",
    **operation(Scope.STOP, {"stopped": 17}, body=True),
)
async def stop_all_workers(runtime: Runtime, reason: Reason) -> Stopped:
    """Stop every worker that has not ended; answers how many."""
    return Stopped(stopped=await runtime.stop_all_workers(reason))


@router.get(
    "/workers/{worker_id}", operation_id="get_worker", **operation(Scope.READ, examples.WORKER)
)
async def get_worker(worker_id: WorkerId, runtime: Runtime) -> WorkerRecord:
    """All that is known of a worker beside its conversation."""
    return await _existing(runtime, worker_id)


@router.get(
    "/workers/{worker_id}/report",
    operation_id="get_report",
    response_model=Report,
    **operation(
        Scope.READ,
        examples.REPORT,
        responses=NOT_YET,
    ),
)
async def get_report(worker_id: WorkerId, runtime: Runtime, wait: Wait, request: Request) -> Any:
    """A worker's report. With `wait` the answer comes when the worker ends, or after so many seconds."""
    waiting = runtime.wait_for_worker(worker_id, wait.total_seconds())
    report = await unless_ending(request, waiting)
    if report is not None:
        return report
    return not_yet(worker_id, (await _existing(runtime, worker_id)).state)


@router.get(
    "/workers/{worker_id}/conversation",
    operation_id="get_conversation",
    **operation(Scope.READ, examples.CONVERSATION),
)
async def get_conversation(
    worker_id: WorkerId, runtime: Runtime, limit: Limit, cursor: Cursor = None
) -> Page[dict[str, Any]]:
    """The worker's conversation, oldest part first."""
    of = f"conversation:{worker_id}"
    start = 0 if cursor is None else read_cursor(of, cursor)[0]
    await _existing(runtime, worker_id)
    parts = await runtime.get_conversation(worker_id, start, limit + 1)
    more = make_cursor(of, start + limit) if len(parts) > limit else None
    return Page(items=tuple(dict(part) for part in parts[:limit]), next_cursor=more)


@router.post(
    "/workers/{worker_id}/stop",
    operation_id="stop_worker",
    **operation(Scope.STOP, {"stopped": True, "descendants": 0}, body=True),
)
async def stop_worker(worker_id: WorkerId, runtime: Runtime, reason: Reason) -> StoppedWorker:
    """Stop a worker and all below it. False: it had ended before, its report is as it was."""
    done = await runtime.stop_tree(worker_id, reason)
    return StoppedWorker(stopped=done.itself, descendants=done.descendants)


@router.post(
    "/workers/{worker_id}/retry",
    operation_id="retry_worker",
    **operation(Scope.SPAWN, examples.RETRIED, status=202, also=(409,)),
)
async def retry_worker(worker_id: WorkerId, runtime: Runtime, key: IdempotencyKey) -> Retried:
    """Spawn a new worker from the task of one that has ended."""
    new = await runtime.retry_worker(worker_id, idempotency_key=key and f"{key}:{worker_id}")
    return Retried(retried=worker_id, worker_id=new)


async def _existing(runtime: ColonyRuntime, worker_id: str) -> WorkerRecord:
    record = await runtime.get_worker(worker_id)
    if record is None:
        raise unknown_worker(worker_id, runtime.colony_id)
    return record
