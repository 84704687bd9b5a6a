"""The gateway's metrics: each request by its operation, and ``/metrics`` with those of every colony.

Anybody who reaches the gateway may read them, unless COLONY_GATEWAY_METRICS_TOKEN is set: then it must be
given as a bearer. Without it a request that came through a proxy is refused: what is public are the verbs.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Iterator
from http import HTTPStatus

from fastapi import Request, Response
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colony import tracing
from colony.gateway.auth import PROXIED
from colony.gateway.problems import Refused
from colony.gateway.settings import GatewaySettings
from colony.metrics.exposition import page
from colony.metrics.fleet import Family, FleetReader
from colony.metrics.names import HTTP_REQUESTS
from colony.settings import Settings


class Measured:
    """Counts each request by the operation that answers it; those that no route takes as "none". The
    trace of a request goes on in what it spawns; the request's own span is FastAPI's, if it makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, seconds, status = time.monotonic(), None, "cut"

        async def send_on(message: Message) -> None:
            nonlocal seconds, status
            if message["type"] == "http.response.start":
                seconds, status = time.monotonic() - began, str(message["status"])
            await send(message)

        with tracing.inherited(Headers(scope=scope).get("traceparent")):
            try:
                await self._app(scope, receive, send_on)
            finally:
                route = scope.get("route")
                operation = getattr(route, "operation_id", None) or getattr(route, "name", "none")
                took = time.monotonic() - began if seconds is None else seconds
                HTTP_REQUESTS.observe(took, str(operation), status)


class Metrics:
    """What ``/metrics`` answers, for one gateway."""

    def __init__(self, settings: Settings, gateway: GatewaySettings) -> None:
        self._token = gateway.metrics_token
        self._fleet = FleetReader(settings.store_url, settings.queue_url)
        self._one = asyncio.Lock()

    async def answer(self, request: Request) -> Response:
        """The page. Raises `Refused`."""
        self._admit(request)
        async with self._one:
            fleet = await self._fleet.families()
        found = page([*fleet, *_measured(request)], request.headers.get("accept"))
        return Response(found.body, found.status, media_type=found.content_type)

    def _admit(self, request: Request) -> None:
        if self._token is not None:
            given = request.headers.get("authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self._token.get_secret_value()}".encode()):
                raise Refused(
                    HTTPStatus.UNAUTHORIZED,
                    "metrics are for who gives COLONY_GATEWAY_METRICS_TOKEN as a bearer",
                    headers={"WWW-Authenticate": "Bearer"},
                )
        elif not PROXIED.isdisjoint(request.headers):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "metrics are given through a proxy only where COLONY_GATEWAY_METRICS_TOKEN is set",
            )


def _measured(request: Request) -> Iterator[Family]:
    yield Family(
        "colony_gateway_streams",
        "Readers of events that are connected.",
        samples=[({}, request.app.state.colonies.streams())],
    )
