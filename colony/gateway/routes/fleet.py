"""The fleet: its numbers, nodes, caps and intake."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

from colony.gateway import examples
from colony.gateway.describe import operation
from colony.gateway.models import Drained, Paused, SetLimit
from colony.gateway.routes.common import IDS, Runtime, router_for
from colony.models import FleetStats, Limit, NodeInfo
from colony.tokens import Scope

router = router_for("fleet")


@router.get("/stats", operation_id="get_stats", **operation(Scope.READ, examples.STATS))
async def get_stats(runtime: Runtime) -> FleetStats:
    """The colony in numbers."""
    return await runtime.get_stats()


@router.get("/nodes", operation_id="list_nodes", **operation(Scope.READ, [examples.NODE]))
async def list_nodes(runtime: Runtime) -> list[NodeInfo]:
    """The nodes with their leases."""
    return await runtime.list_nodes()


@router.post(
    "/nodes/{node}/drain",
    operation_id="drain_node",
    **operation(Scope.ADMIN, {"node": examples.NODE["node"]}, status=202),
)
async def drain_node(
    node: Annotated[str, Path(max_length=256, examples=["host-1"])], runtime: Runtime
) -> Drained:
    """End a node in order: it takes nothing new and hands over what it runs. The beginning of a name
    will do that no other node shares."""
    return Drained(node=await runtime.drain_node(node))


@router.get("/limits", operation_id="get_limits", **operation(Scope.READ, examples.LIMITS))
async def get_limits(runtime: Runtime) -> list[Limit]:
    """How many workers may run at once: what the definition says, and what holds now."""
    return await runtime.get_limits()


@router.put(
    "/limits/{name}",
    operation_id="set_limit",
    **operation(Scope.ADMIN, examples.LIMITS, body=True),
)
async def set_limit(
    name: Annotated[str, Path(pattern=IDS, examples=["max_concurrent_workers"])],
    body: SetLimit,
    runtime: Runtime,
) -> list[Limit]:
    """Set `max_concurrent_workers`, `max_concurrent_per_key` or `agent:<name>` while the fleet runs."""
    await runtime.set_limit(name, body.most)
    return await runtime.get_limits()


@router.post(
    "/intake/pause", operation_id="pause_intake", **operation(Scope.ADMIN, {"paused": True})
)
async def pause_intake(runtime: Runtime) -> Paused:
    """Refuse new work; what was accepted goes on."""
    await runtime.pause_intake()
    return Paused(paused=True)


@router.post(
    "/intake/resume", operation_id="resume_intake", **operation(Scope.ADMIN, {"paused": False})
)
async def resume_intake(runtime: Runtime) -> Paused:
    """Accept new work again."""
    await runtime.resume_intake()
    return Paused(paused=False)
