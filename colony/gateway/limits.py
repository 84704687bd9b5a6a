"""What is refused before anybody looks at a request: too long, too large, too slow. Pure ASGI.

Also the headers that every answer has. A body is counted as it comes in, so one without a Content-Length
cannot be larger either.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from colony.gateway.problems import HEADERS, Refused, of_refusal
from colony.gateway.settings import GatewaySettings

LINGER_SECONDS = 2.0
"""For how long the rest of a body that is too large is taken and forgotten, at most as much again."""


class Limits:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        lingers = False

        async def send_and_linger(message: Message) -> None:
            """A client that is still sending when its connection is closed would not see the answer."""
            nonlocal lingers
            if message["type"] == "http.response.start":
                lingers = message["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            elif lingers and not message.get("more_body", False):
                await send_with_headers({**message, "more_body": True})
                await self._discard(receive)
                message = {"type": "http.response.body"}
            await send_with_headers(message)

        refused = self._refused(scope)
        if refused is not None:
            await of_refusal(refused)(scope, receive, send_with_headers)
            return
        await self._app(scope, self._bounded(scope, receive), send_and_linger)

    def _refused(self, scope: Scope) -> Refused | None:
        most = self._settings
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > most.max_url_bytes:
            return Refused(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"the URL has more than {most.max_url_bytes} bytes",
            )
        if sum(len(n) + len(v) for n, v in scope["headers"]) > most.max_header_bytes:
            return Refused(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the headers have more than {most.max_header_bytes} bytes",
            )
        return None

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The body, for as long and as much as is allowed; later it only tells of a disconnect."""
        settings = self._settings
        declared = Headers(scope=scope).get("content-length", "")
        got, whole, until = 0, False, 0.0

        async def receive_some() -> Message:
            nonlocal got, whole, until
            if whole:
                return await receive()
            if declared.isdigit() and int(declared) > settings.max_body_bytes:
                raise self._too_large()
            loop = asyncio.get_running_loop()
            until = until or loop.time() + settings.body_timeout.total_seconds()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError as error:
                raise Refused(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the body did not come within {settings.body_timeout.total_seconds():g} s",
                    headers={"Connection": "close"},
                ) from error
            got += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if got > settings.max_body_bytes:
                raise self._too_large()
            return message

        return receive_some

    async def _discard(self, receive: Receive) -> None:
        got = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while got <= self._settings.max_body_bytes:
                    message = await receive()
                    got += len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return

    def _too_large(self) -> Refused:
        return Refused(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body has more than {self._settings.max_body_bytes} bytes",
            headers={"Connection": "close"},
        )
