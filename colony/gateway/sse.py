"""Events as Server-Sent Events: the text, and how long a stream lives.

Every kept event has its id on the ``id:`` line, so a client that connects again with ``Last-Event-ID``
goes on behind it. The first line and each heartbeat carry the reader's position, too: one whose filter passes
nothing does not fall behind the capped log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from colony.errors import StoreUnavailable
from colony.events import Position, Reader
from colony.gateway.feed import Inbox
from colony.models import Event

log = logging.getLogger("colony.gateway")

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 1000
"""After how long a browser connects again."""
PAUSE_SECONDS = 0.5
"""Between two attempts to read the log while Redis is away."""


async def stream(reader: Reader, inbox: Inbox, heartbeat: timedelta) -> AsyncGenerator[bytes, None]:
    """What a reader that has started is told, until its inbox is ended."""
    yield f"retry: {RETRY_MS}\n{_position(reader.at)}".encode()
    while inbox.ended is None:
        if not await inbox.came(heartbeat):
            yield f": alive\n{_position(reader.at)}".encode()
            continue
        if inbox.ended is not None:
            break
        message = inbox.take()
        try:
            async for event in reader.catch_up() if message is None else reader.hear(message):
                yield text_of(event)
                if inbox.ended is not None:
                    break
        except StoreUnavailable as error:
            log.warning("a stream waits for the store: %s", error)
            await asyncio.sleep(PAUSE_SECONDS)
            inbox.put(None)
    yield f": {inbox.ended}\n\n".encode()


def text_of(event: Event) -> bytes:
    """One event; JSON has no line break of its own. The type is a word, whoever wrote the event."""
    kept = f"id: {event.id}\n" if event.id else ""
    kind = "".join(str(event.type).splitlines())
    return f"{kept}event: {kind}\ndata: {event.model_dump_json()}\n\n".encode()


def _position(at: Position) -> str:
    return f"id: {at[0]}-{at[1]}\n\n"


class EventStream(StreamingResponse):
    """A stream whose client must take what it is sent, or is disconnected. `leave` is called at its end."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        content: AsyncGenerator[bytes, None],
        send_timeout: timedelta,
        leave: Callable[[], None],
    ) -> None:
        super().__init__(content, headers={"X-Accel-Buffering": "no"})
        self._content = content
        self._leave = leave
        self._send_timeout = send_timeout.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._send_timeout):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            log.info("a reader of events took nothing for %g s: disconnected", self._send_timeout)
        finally:
            self._leave()
            await self._content.aclose()
