"""Who asks, and whether they may: before a body is read, for every route below ``/v1``.

A route says which scope it needs in its OpenAPI description (`colony.gateway.describe`), and this is what is
checked: the two cannot differ, and a route that says nothing cannot be made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from colony.definition import NAME
from colony.errors import ColonyError, StoreUnavailable
from colony.gateway.colonies import Colonies
from colony.gateway.problems import Refused, status_of
from colony.gateway.settings import GatewaySettings
from colony.tokens import Scope, is_alive, token_holder
from colony.urls import is_loopback

SCHEME = "token"
"""The name of the security scheme in the OpenAPI description."""
PROXIED = frozenset({"forwarded", "via", "x-forwarded-for", "x-real-ip"})
"""Headers by which a proxy says that it asks for somebody else."""
REFUSALS = (ColonyError, HTTPException, RequestValidationError)
"""What is answered with a problem, and counted by its status."""
BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Lets a request in, or says why not. Without `guarded` everybody on this machine may do everything."""

    colonies: Colonies
    settings: GatewaySettings
    guarded: bool = True

    async def admit(self, request: Request, scope: Scope) -> str | None:
        """The id of the token that asks; None where none is needed. Raises `Refused`."""
        if not self.guarded:
            _must_be_local(request)
            return None
        colony_id = str(request.path_params["colony"])
        match = BEARER.fullmatch(request.headers.get("authorization", ""))
        if match is None:
            raise _unauthorized("give a token: Authorization: Bearer colony_…")
        if not NAME.fullmatch(colony_id):
            raise _unauthorized("unknown token", "invalid_token")
        holder = await token_holder(self.colonies.store(colony_id), match[1])
        if isinstance(holder, str):
            raise _unauthorized(f"{holder} token for colony {colony_id!r}", "invalid_token")
        most = self.settings
        await self._pay(colony_id, holder.token_id, "this token may make", most.rate, most.burst)
        if not holder.allows(scope):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"this needs a token with the scope {scope.value!r}; yours has: {', '.join(holder.scopes)}",
                headers={
                    "WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope.value}"'
                },
            )
        return holder.token_id

    async def see_again(self, request: Request) -> None:
        """After a wait: the token that asked may have ended meanwhile. Raises `Refused`."""
        colony_id, caller = str(request.path_params["colony"]), request.state.caller
        if caller is not None and not await is_alive(self.colonies.store(colony_id), caller):
            raise _unauthorized("this token was revoked, or has expired", "invalid_token")

    async def admit_hook(self, colony_id: str, trigger_id: str) -> None:
        """For a webhook that is rightly signed: whoever cannot sign uses up nobody's share. Raises `Refused`
        for one too many; its sender asks again."""
        who, most = f"hook:{trigger_id}", self.settings
        await self._pay(colony_id, who, "this trigger takes", most.hook_rate, most.hook_burst)

    async def _pay(self, colony_id: str, who: str, may: str, rate: float, burst: int) -> None:
        wait = await self.colonies.store(colony_id).take_permit(who, rate=rate, burst=burst)
        if wait:
            raise Refused(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{may} {rate:g} requests a second",
                retry_after=wait.total_seconds(),
            )

    async def count(self, request: Request, error: Exception, what: str = "http") -> None:
        """Add a refusal to the totals of the colony (``http_401``, … in ``colony stats``)."""
        colony_id = str(request.path_params.get("colony", ""))
        if NAME.fullmatch(colony_id) and not isinstance(error, StoreUnavailable):
            try:
                await self.colonies.store(colony_id).tally(f"{what}_{int(status_of(error))}")
            except StoreUnavailable:
                pass  # the answer matters more than its count


def _unauthorized(detail: str, error: str | None = None) -> Refused:
    challenge = 'Bearer realm="colony"' + (f', error="{error}"' if error else "")
    return Refused(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": challenge})


def _must_be_local(request: Request) -> None:
    """Without tokens, neither a page in a browser of this machine nor a proxy on it may ask for others."""
    origin = request.headers.get("origin")
    hosts = [request.client and request.client.host, _host_in(f"//{request.headers.get('host')}")]
    if origin is not None:
        hosts.append(_host_in(origin))
    is_proxied = not PROXIED.isdisjoint(request.headers)
    if is_proxied or not all(is_loopback(host or "") for host in hosts):
        raise Refused(
            HTTPStatus.FORBIDDEN, "a gateway without tokens answers this machine alone, by its name"
        )


def _host_in(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


class _JsonRequest(Request):
    """A request whose JSON is read strictly: no NaN, no lone surrogates, no endless nesting."""

    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from error


class GuardedRoute(APIRoute):
    """A route that asks the app's `Doorkeeper` first, then for query parameters that it knows and no others,
    and for JSON where it takes a body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler behind its guard."""
        inner = super().get_route_handler()
        [security] = (self.openapi_extra or {})["security"]
        scope = Scope(security[SCHEME][0])
        known = sorted(_query_of(self.dependant))

        async def guarded(request: Request) -> Response:
            doorkeeper: Doorkeeper = request.app.state.doorkeeper
            try:
                request.state.caller = await doorkeeper.admit(request, scope)
                _must_be_known(request, known)
                if self.body_field is not None:
                    _must_be_json(request)
                return await inner(_JsonRequest(request.scope, request.receive))
            except REFUSALS as error:
                await doorkeeper.count(request, error)
                raise

        return guarded


def _query_of(dependant: Dependant) -> Iterator[str]:
    """The query parameters of a route and of what it depends on."""
    yield from (field.alias for field in dependant.query_params)
    for each in dependant.dependencies:
        yield from _query_of(each)


def _must_be_known(request: Request, known: Sequence[str]) -> None:
    """A misspelt filter would answer with everything."""
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        there = f"expected {', '.join(known)}" if known else "there are none here"
        raise RequestValidationError(
            [{"loc": ("query", name), "msg": f"unknown parameter; {there}"} for name in unknown]
        )


class HookRoute(APIRoute):
    """A route that asks for no token. What it refuses is counted as ``webhook_401`` and the like."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, counted."""
        inner = super().get_route_handler()

        async def counted(request: Request) -> Response:
            doorkeeper: Doorkeeper = request.app.state.doorkeeper
            try:
                return await inner(request)
            except REFUSALS as error:
                await doorkeeper.count(request, error, "webhook")
                raise

        return counted


def _must_be_json(request: Request) -> None:
    given = request.headers.get("content-type")
    has_length = request.headers.get("content-length", "0") != "0"
    if given is None and not has_length and "transfer-encoding" not in request.headers:
        return  # no body: whether it may be left out is the route's business
    message = Message()
    message["content-type"] = given or ""
    if given is None or message.get_content_type() != "application/json":
        raise Refused(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON: Content-Type: application/json",
        )
