"""Quarantine: workers that were lost with their nodes."""

from __future__ import annotations

from colony.gateway import examples
from colony.gateway.describe import operation
from colony.gateway.models import Retried
from colony.gateway.routes.common import Cursor, Limit, Runtime, WorkerId, router_for
from colony.listing import Page, WorkerSummary
from colony.tokens import Scope

router = router_for("quarantine")


@router.get(
    "/quarantine", operation_id="list_quarantine", **operation(Scope.READ, examples.WORKERS)
)
async def list_quarantine(
    runtime: Runtime, limit: Limit, cursor: Cursor = None
) -> Page[WorkerSummary]:
    """The workers in quarantine, newest first. Why, says each one's report."""
    return await runtime.page_quarantine(cursor=cursor, limit=limit)


@router.post(
    "/quarantine/{worker_id}/retry",
    operation_id="retry_quarantined",
    **operation(Scope.SPAWN, examples.RETRIED, status=202, also=(409,)),
)
async def retry_quarantined(worker_id: WorkerId, runtime: Runtime) -> Retried:
    """Spawn a new worker from the task of one in quarantine, and let the old one go."""
    return Retried(retried=worker_id, worker_id=await runtime.retry_quarantined(worker_id))


@router.delete(
    "/quarantine/{worker_id}",
    operation_id="drop_quarantined",
    **operation(Scope.ADMIN, None, status=204),
)
async def drop_quarantined(worker_id: WorkerId, runtime: Runtime) -> None:
    """Take a worker out of quarantine; it is then forgotten like every other."""
    await runtime.drop_quarantined(worker_id)
