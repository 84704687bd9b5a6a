"""What routes share: the colony that is meant, pages, ids, waiting, and the caller's idempotency keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from colony.deliveries import why_not_named
from colony.gateway import examples
from colony.gateway.auth import GuardedRoute
from colony.gateway.colonies import Open
from colony.gateway.feed import TOKENS_EVERY_SECONDS
from colony.gateway.models import NAMES, Running, SpawnOptions, Stop
from colony.gateway.problems import Refused
from colony.gateway.settings import GatewaySettings
from colony.listing import MAX_PAGE
from colony.runtime import ColonyRuntime

T = TypeVar("T")

IDS = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"


def router_for(tag: str) -> APIRouter:
    """A router whose routes are guarded."""
    return APIRouter(tags=[tag], route_class=GuardedRoute)


ColonyId = Annotated[
    str, Path(pattern=NAMES, examples=["survey"], description="The colony's name.")
]
WorkerId = Annotated[str, Path(pattern=IDS, examples=["w0019a1b2c3d4e5f6a7b8c"])]
BatchId = Annotated[str, Path(pattern=IDS, examples=["b0019a1b2c3d4e5f6a7b8c"])]


async def _opened(colony: ColonyId, request: Request) -> AsyncIterator[Open]:
    async with request.app.state.colonies.using(colony) as opened:
        yield opened


Opened = Annotated[Open, Depends(_opened)]


def _runtime(opened: Opened) -> ColonyRuntime:
    return opened.runtime


Runtime = Annotated[ColonyRuntime, Depends(_runtime)]


def _settings(request: Request) -> GatewaySettings:
    settings: GatewaySettings = request.app.state.gateway
    return settings


Settings = Annotated[GatewaySettings, Depends(_settings)]


def caller_of(request: Request) -> str | None:
    """The id of the token that asks; None on a gateway without tokens."""
    caller: str | None = request.state.caller
    return caller


Caller = Annotated[str | None, Depends(caller_of)]

Cursor = Annotated[
    str | None,
    Query(max_length=512, description="The `next_cursor` of the page before. Default: the first."),
]


def _limit(
    settings: Settings,
    limit: Annotated[
        int | None, Query(ge=1, le=MAX_PAGE, description="At most so many on a page.")
    ] = None,
) -> int:
    return limit or settings.page_size


Limit = Annotated[int, Depends(_limit)]


def _key(
    request: Request,
    caller: Caller,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            description="The same request with the same key, within five minutes (the colony's "
            "idempotency_ttl), is answered like the first, and spawns nothing.",
        ),
    ] = None,
) -> str | None:
    """Nobody gets another caller's answer, nor that of another kind of request."""
    if idempotency_key is None:
        return None
    return f"http:{caller or ''}:{request.scope['route'].name}:{idempotency_key}"


IdempotencyKey = Annotated[str | None, Depends(_key)]


def _wait(
    settings: Settings,
    wait: Annotated[
        float,
        Query(ge=0, le=86_400, description="Seconds to wait for it; the gateway bounds them."),
    ] = 0.0,
) -> timedelta:
    return min(timedelta(seconds=wait), settings.max_wait)


Wait = Annotated[timedelta, Depends(_wait)]


NOT_YET: dict[int | str, dict[str, Any]] = {
    202: {
        "model": Running,
        "description": "It has not ended yet: ask again.",
        "content": {"application/json": {"example": examples.RUNNING}},
    }
}
"""The second answer of routes that wait."""


def not_yet(id_: str, state: str) -> Response:
    """That answer."""
    return JSONResponse(Running(id=id_, state=state).model_dump(), 202)


def _reason(body: Annotated[Stop | None, Body()] = None) -> str | None:
    return None if body is None else body.reason


Reason = Annotated[str | None, Depends(_reason)]


def options_of(body: SpawnOptions, runtime: ColonyRuntime) -> dict[str, Any]:
    """What applies to all workers of a request. Raises `Refused` for a secret that callbacks may not name."""
    options = body.options()
    if wrong := why_not_named(options["on_complete"], runtime.settings.callback_secrets):
        where = "body.on_complete.secret"
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {wrong}", field=where)
    return options


async def unless_ending(request: Request, answer: Coroutine[Any, Any, T]) -> T | None:
    """What is waited for; None as soon as the gateway is told to end. Raises `Refused` where the token of who
    asks has ended in a wait of more than a moment."""
    began = time.monotonic()
    waiting = asyncio.ensure_future(answer)
    ending = asyncio.ensure_future(request.app.state.ending.wait())
    try:
        await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
        if time.monotonic() - began > TOKENS_EVERY_SECONDS:
            await request.app.state.doorkeeper.see_again(request)
        return waiting.result() if waiting.done() else None
    finally:
        for task in (waiting, ending):
            task.cancel()
        await asyncio.gather(waiting, ending, return_exceptions=True)
