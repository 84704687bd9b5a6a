"""Every answer that is not a success: problem details (RFC 9457), from one table.

``type`` is a URN that names the kind of problem and stays what it is; ``title`` says the kind in words,
``detail`` what was wrong this time. Further members: ``field`` and ``errors`` of a request that is not valid,
``stage`` of one that the pipeline refused, ``retry_after`` (seconds) where trying again makes sense.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from colony import errors
from colony.errors import ColonyError, PipelineRejected, StoreUnavailable

log = logging.getLogger("colony.gateway")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Of every answer, good or bad: nothing that programs are told is to be kept, framed, or taken for
something else."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MEDIA_TYPE = "application/problem+json"
URN = "urn:colony:problem:"


class InvalidField(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="Where, as a path: body.tasks.0.task, query.limit, header.…")
    message: str


class Problem(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="A URN that names the kind of problem.")
    title: str
    status: int
    detail: str
    field: str | None = Field(None, description="The (first) part of the request that is wrong.")
    errors: list[InvalidField] | None = Field(None, description="All parts that are wrong.")
    stage: str | None = Field(None, description="The stage of the pipeline that refused.")
    retry_after: float | None = Field(None, description="Seconds after which to try again.")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem. `retry_after`: seconds, where waiting may help."""

    name: str
    status: HTTPStatus
    retry_after: float | None = None


UNAVAILABLE = HTTPStatus.SERVICE_UNAVAILABLE
NOT_FOUND = HTTPStatus.NOT_FOUND

TABLE: Mapping[type[ColonyError], Kind] = {
    errors.InvalidTask: Kind("invalid-task", HTTPStatus.UNPROCESSABLE_ENTITY),
    errors.InvalidTrigger: Kind("invalid-trigger", HTTPStatus.UNPROCESSABLE_ENTITY),
    errors.InvalidSubscription: Kind("invalid-subscription", HTTPStatus.UNPROCESSABLE_ENTITY),
    errors.PipelineRejected: Kind("rejected", HTTPStatus.UNPROCESSABLE_ENTITY),
    errors.UnknownColony: Kind("unknown-colony", NOT_FOUND),
    errors.UnknownWorker: Kind("unknown-worker", NOT_FOUND),
    errors.UnknownBatch: Kind("unknown-batch", NOT_FOUND),
    errors.UnknownTrigger: Kind("unknown-trigger", NOT_FOUND),
    errors.UnreadableTrigger: Kind("unreadable-trigger", HTTPStatus.CONFLICT),
    errors.UnknownNode: Kind("unknown-node", NOT_FOUND),
    errors.NotQuarantined: Kind("not-quarantined", NOT_FOUND),
    errors.UnknownSubscription: Kind("unknown-subscription", NOT_FOUND),
    errors.UnknownDelivery: Kind("unknown-delivery", NOT_FOUND),
    errors.UnknownToken: Kind("unknown-token", NOT_FOUND),
    errors.NotEnded: Kind("not-ended", HTTPStatus.CONFLICT),
    errors.TreeLimit: Kind("tree-limit", HTTPStatus.UNPROCESSABLE_ENTITY),
    errors.IntakePaused: Kind("intake-paused", UNAVAILABLE, 10),
    errors.FleetFull: Kind("fleet-full", UNAVAILABLE, 5),
    errors.NoNodes: Kind("no-nodes", UNAVAILABLE, 10),
    errors.TriggerPaused: Kind("trigger-paused", HTTPStatus.CONFLICT),
    errors.TriggerBusy: Kind("trigger-busy", HTTPStatus.TOO_MANY_REQUESTS, 5),
    errors.SpawnRefused: Kind("spawn-refused", UNAVAILABLE, 1),
    errors.StoreUnavailable: Kind("store-unavailable", UNAVAILABLE, 2),
    errors.PipelineIncomplete: Kind("pipeline-incomplete", UNAVAILABLE, 30),
    errors.ColonyError: Kind("internal-error", HTTPStatus.INTERNAL_SERVER_ERROR),
}
"""Every error of the runtime. A subclass that is not named here counts as the nearest that is."""

OF_STATUS: Mapping[int, Kind] = {
    kind.status: kind
    for kind in (
        Kind("malformed-request", HTTPStatus.BAD_REQUEST),
        Kind("unauthorized", HTTPStatus.UNAUTHORIZED),
        Kind("forbidden", HTTPStatus.FORBIDDEN),
        Kind("not-found", HTTPStatus.NOT_FOUND),
        Kind("method-not-allowed", HTTPStatus.METHOD_NOT_ALLOWED),
        Kind("request-timeout", HTTPStatus.REQUEST_TIMEOUT),
        Kind("body-too-large", HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
        Kind("url-too-long", HTTPStatus.REQUEST_URI_TOO_LONG),
        Kind("unsupported-media-type", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        Kind("invalid-request", HTTPStatus.UNPROCESSABLE_ENTITY),
        Kind("rate-limited", HTTPStatus.TOO_MANY_REQUESTS),
        Kind("headers-too-large", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        Kind("internal-error", HTTPStatus.INTERNAL_SERVER_ERROR),
        Kind("unavailable", HTTPStatus.SERVICE_UNAVAILABLE, 2),
    )
}
"""Problems that HTTP itself names."""

FIELD = re.compile(
    r"(?:tasks\[\d+\](?:\.\w+)?|task|data|agent|count|policy|first_n|cursor|limit"
    r"|trigger_config\.\w+|id(?=:))\b"
)
"""How an `InvalidTask` or `InvalidTrigger` begins that is about one field."""


class Refused(HTTPException):
    """A refusal by the gateway itself; `more` are further members of the problem."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.retry_after = retry_after
        self.more = more


def kind_of(error: ColonyError) -> Kind:
    """The row of the table for an error."""
    found = next(TABLE[base] for base in type(error).__mro__ if base in TABLE)
    if isinstance(error, PipelineRejected) and error.retry_after is not None:
        return Kind(found.name, HTTPStatus.TOO_MANY_REQUESTS, error.retry_after)
    return found


def status_of(error: Exception) -> int:
    """With which status an error is answered."""
    if isinstance(error, ColonyError):
        return kind_of(error).status
    return error.status_code if isinstance(error, HTTPException) else 422


def problem(
    kind: Kind, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """The answer for a problem. Members that are None are left out."""
    if kind.retry_after is not None:
        more["retry_after"] = kind.retry_after
        headers = {**(headers or {}), "Retry-After": str(math.ceil(kind.retry_after))}
    content = {
        "type": URN + kind.name,
        "title": kind.name.replace("-", " ").capitalize(),
        "status": int(kind.status),
        "detail": detail,
        **{name: value for name, value in more.items() if value is not None},
    }
    return JSONResponse(content, kind.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of this app with a problem."""
    app.add_exception_handler(ColonyError, _colony_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(Exception, _bug)


def of_error(error: ColonyError) -> JSONResponse:
    """The problem that an error of the runtime is."""
    kind, detail = kind_of(error), str(error)
    if isinstance(error, StoreUnavailable):  # its text says where Redis is: for the log alone
        log.warning("answered 503: %s", error)
        detail = (
            "the store cannot be reached or refuses: nothing was changed that you were not told of"
        )
    elif kind.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("answered 500", exc_info=error)
        detail = "the gateway failed; its log says why"
    is_about_input = isinstance(error, errors.InvalidTask | errors.InvalidTrigger)
    field = _field(detail) if is_about_input else None
    return problem(kind, detail, stage=getattr(error, "stage", None), field=field)


def _field(detail: str) -> str | None:
    """Which field such an error is about, if it begins with one."""
    match = FIELD.match(detail)
    if match is None:
        return None
    return f"{'query' if match[0] in ('cursor', 'limit') else 'body'}.{match[0]}"


def of_refusal(error: HTTPException) -> JSONResponse:
    """The problem that a refusal of the gateway, or of Starlette's router, is."""
    status = HTTPStatus(error.status_code)
    kind = OF_STATUS.get(status) or Kind(status.phrase.lower().replace(" ", "-"), status)
    after = getattr(error, "retry_after", None)
    if after is not None:
        kind = Kind(kind.name, kind.status, after)
    return problem(kind, error.detail, headers=error.headers, **getattr(error, "more", {}))


async def _colony_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ColonyError)
    return of_error(error)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if not isinstance(error, Refused):  # Starlette's router says no more than the status
        if error.status_code == HTTPStatus.NOT_FOUND:
            error.detail = f"there is nothing at {request.scope['path']}: see /openapi.json"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            error.detail = f"{request.method} is not for {request.scope['path']}"
            error.headers = {"Allow": ", ".join(_allowed(request))}
    return of_refusal(error)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes of a path: the router tells those of the first."""

    def is_taken(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.routes)

    return [method for method in METHODS if is_taken(method)]


async def _invalid_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    wrong = [
        {"field": ".".join(str(part) for part in each["loc"]), "message": each["msg"]}
        for each in error.errors()[:20]
    ]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in wrong[:3])
    kind = OF_STATUS[HTTPStatus.UNPROCESSABLE_ENTITY]
    return problem(kind, detail, field=wrong[0]["field"], errors=wrong)


async def _bug(_: Request, error: Exception) -> JSONResponse:
    kind = OF_STATUS[HTTPStatus.INTERNAL_SERVER_ERROR]  # answered outside of all layers
    return problem(kind, "the gateway failed; its log says why", headers=HEADERS)
