"""The routes, one module per thing that is asked about. All stand below ``/v1/colonies/{colony}``."""

from __future__ import annotations

from fastapi import APIRouter

from colony.gateway.routes import (
    batches,
    events,
    fleet,
    hooks,
    quarantine,
    trees,
    triggers,
    workers,
)

PREFIX = "/v1/colonies/{colony}"

ROUTERS: tuple[APIRouter, ...] = (
    workers.router,
    batches.router,
    trees.router,
    triggers.router,
    events.router,
    quarantine.router,
    fleet.router,
    hooks.router,
)
"""What is served. A route whose caller proves itself otherwise than by a token (a signature) is not a
`GuardedRoute`: it has a router of its own."""
