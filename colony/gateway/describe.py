"""What the OpenAPI description says beside what FastAPI reads from the code: scopes, examples, problems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from colony.gateway import problems
from colony.gateway.auth import SCHEME
from colony.gateway.problems import OF_STATUS, URN, Problem
from colony.tokens import Scope

WORDS: Mapping[int, str] = {
    400: "The body is not JSON.",
    401: "No token, or one that is malformed, unknown here, revoked or expired.",
    403: "The token has not the scope that this needs, or it asks for another colony.",
    404: "There is no such colony, or no such thing in it.",
    408: "The body did not come in time.",
    409: "Not in this state: the worker or the batch has not ended, the trigger is paused or unreadable.",
    413: "The body is too large.",
    414: "The URL is too long.",
    415: "The body is not declared as application/json.",
    422: "The request is not valid; `field` and `errors` say where.",
    429: "The token's rate is used up, or the pipeline's rate limit refused it.",
    431: "The headers are too large.",
    500: "A bug: see the gateway's log.",
    503: "Not now: Redis is away, the fleet is full or paused, or the gateway has no room.",
}
ALWAYS = (401, 403, 404, 414, 422, 429, 431, 500, 503)
WITH_BODY = (400, 408, 413, 415)


def operation(
    scope: Scope,
    example: Any,
    *,
    status: int = 200,
    body: bool = False,
    also: Iterable[int] = (),
    links: Mapping[str, Any] | None = None,
    responses: Mapping[int | str, Any] | None = None,
) -> dict[str, Any]:
    """The arguments of a route: the scope it needs (this is what is checked), an example of its answer, and
    the problems it may answer with: those of every route, of one with a `body`, and `also`."""
    good: dict[str, Any] = {}
    if example is not None:
        good["content"] = {"application/json": {"example": example}}
    if links:
        good["links"] = dict(links)
    statuses = sorted({*ALWAYS, *(WITH_BODY if body else ()), *also})
    described: dict[int | str, Any] = {
        status: good,
        **(responses or {}),
        **{code: _problem(code) for code in statuses},
    }
    return {
        "status_code": status,
        "responses": described,
        "openapi_extra": {"security": [{SCHEME: [scope.value]}]},
    }


def link(operation_id: str, parameter: str, expression: str) -> dict[str, Any]:
    """A link from an answer to what can be asked next."""
    return {"operationId": operation_id, "parameters": {parameter: expression}}


def _problem(code: int) -> dict[str, Any]:
    name = OF_STATUS[code].name if code in OF_STATUS else "not-ended"
    example = {
        "type": URN + name,
        "title": name.replace("-", " ").capitalize(),
        "status": code,
        "detail": WORDS[code],
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    headers: dict[str, Any] = {}
    if code in (429, 503):
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer"}}
    if code == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}}
    content = {problems.MEDIA_TYPE: {"schema": schema, "example": example}}
    return {
        "description": WORDS[code],
        "content": content,
        **({"headers": headers} if headers else {}),
    }


def install(app: FastAPI) -> None:
    """Have ``/openapi.json`` tell of problems and tokens, too."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=app.openapi_tags,
            )
            parts = made.setdefault("components", {})
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            parts.setdefault("schemas", {}).update(schema.pop("$defs", {}), Problem=schema)
            parts["securitySchemes"] = {
                SCHEME: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token of the colony: `colony token create NAME --scope read`. "
                    "The scope `admin` allows everything.",
                }
            }
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
