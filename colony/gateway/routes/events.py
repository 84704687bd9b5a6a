"""What happens in the colony, as Server-Sent Events."""

from __future__ import annotations

from contextlib import ExitStack
from http import HTTPStatus
from typing import Annotated

from fastapi import Header, Query, Request

from colony.events import Filter, Reader
from colony.gateway import examples, sse
from colony.gateway.colonies import Colonies
from colony.gateway.describe import operation
from colony.gateway.problems import Refused
from colony.gateway.routes.common import Caller, Opened, Settings, router_for
from colony.tokens import Scope

router = router_for("events")

ID = r"^[0-9]{1,15}(-[0-9]{1,15})?$"
"""An event id, or 0."""


@router.get(
    "/events",
    operation_id="follow_events",
    response_class=sse.EventStream,
    **operation(
        Scope.READ,
        None,
        responses={200: {"content": {sse.MEDIA_TYPE: {"example": examples.EVENT}}}},
    ),
)
async def follow_events(
    opened: Opened,
    caller: Caller,
    settings: Settings,
    request: Request,
    after: Annotated[
        str | None,
        Query(
            pattern=ID, description="Begin behind this event; 0: all that is kept. Default: now."
        ),
    ] = None,
    last_event_id: Annotated[
        str | None, Header(pattern=ID, description="As browsers send it; counts more than `after`.")
    ] = None,
    type: Annotated[list[str] | None, Query(max_length=50, description="Only these types.")] = None,
    worker: Annotated[str | None, Query(max_length=128, description="Only of this worker.")] = None,
    stream: Annotated[str | None, Query(max_length=256, description="Only of this stream.")] = None,
) -> sse.EventStream:
    """Follow what happens. Each kept event comes once and in order, also over a new connection with
    `Last-Event-ID`. What the capped log no longer has is announced by an event of type `gap`, which passes
    every filter. Text as it streams, and progress, have no id and are heard live only."""
    colonies: Colonies = request.app.state.colonies
    if colonies.streams() >= settings.max_streams:
        raise Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"this gateway has {settings.max_streams} streams open, as many as it may",
            retry_after=5,
        )
    reader = Reader(opened.feed.store, Filter.of(type, stream, worker))
    with ExitStack() as stack:  # its place is taken before anything is waited for
        inbox = stack.enter_context(opened.feed.inbox(caller))
        await reader.start(last_event_id or after)
        leave = stack.pop_all().close
    content = sse.stream(reader, inbox, settings.heartbeat)
    return sse.EventStream(content, settings.send_timeout, leave)
