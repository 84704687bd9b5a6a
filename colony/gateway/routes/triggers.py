"""Triggers: what spawns workers by the clock, by webhooks, by events, or when it is fired here."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Path

from colony.errors import InvalidTrigger
from colony.gateway import examples
from colony.gateway.describe import link, operation
from colony.gateway.models import Fire, Fired, Paused, PutTrigger
from colony.gateway.problems import Refused
from colony.gateway.routes.common import (
    Caller,
    Cursor,
    IdempotencyKey,
    Limit,
    Opened,
    Runtime,
    Settings,
    router_for,
)
from colony.listing import Page, make_cursor, read_cursor
from colony.models import FireRecord, TriggerInfo
from colony.tokens import Scope
from colony.triggers import TriggerSpec, WebhookConfig

router = router_for("triggers")

TriggerId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["morning"])]


@router.get("/triggers", operation_id="list_triggers", **operation(Scope.READ, examples.TRIGGERS))
async def list_triggers(opened: Opened, limit: Limit, cursor: Cursor = None) -> Page[TriggerInfo]:
    """All triggers, by id: what each is, when it is due, how often it fired and what it missed."""
    after = "" if cursor is None else read_cursor("triggers", cursor)[1]
    page, last = await opened.feed.store.page_triggers(after, limit)
    more = None if last is None else make_cursor("triggers", 0, last)
    return Page(items=tuple(page), next_cursor=more)


@router.get(
    "/triggers/{trigger_id}",
    operation_id="get_trigger",
    **operation(Scope.READ, examples.TRIGGER),
)
async def get_trigger(trigger_id: TriggerId, runtime: Runtime) -> TriggerInfo:
    """One trigger."""
    return await runtime.get_trigger(trigger_id)


@router.put(
    "/triggers/{trigger_id}",
    operation_id="put_trigger",
    **operation(Scope.ADMIN, examples.TRIGGER, body=True),
)
async def put_trigger(
    trigger_id: TriggerId, body: PutTrigger, runtime: Runtime, settings: Settings
) -> TriggerInfo:
    """Add a trigger, or change it while the fleet runs."""
    if body.id not in ("", trigger_id):
        raise InvalidTrigger(f"id: expected {trigger_id!r} as in the URL, or none, got {body.id!r}")
    spec = TriggerSpec.of({**body.model_dump(), "id": trigger_id})
    _must_stay_within(runtime.colony_id, spec)
    _must_be_taken(settings.max_body_bytes, body.webhook)
    await runtime.put_trigger(spec)
    return await runtime.get_trigger(trigger_id)


def _must_stay_within(colony_id: str, spec: TriggerSpec) -> None:
    """A token is good for one colony: it may not have another's events told to its workers."""
    other = spec.event.colony if spec.event is not None else None
    if other not in (None, colony_id):
        raise Refused(
            HTTPStatus.FORBIDDEN,
            f"a token of {colony_id!r} may not watch the events of {other!r}: declare the trigger in the "
            "colony's definition, or put it with `colony trigger put` or the runtime where Redis is",
            field="body.trigger_config.colony",
        )


def _must_be_taken(most: int, config: WebhookConfig | None) -> None:
    """Bodies of a size that is asked for can come through the gateway."""
    if config is not None and "max_bytes" in config.model_fields_set and config.max_bytes > most:
        raise InvalidTrigger(
            f"trigger_config.max_bytes: this gateway takes bodies of at most {most} bytes "
            f"(COLONY_GATEWAY_MAX_BODY_BYTES), got {config.max_bytes}"
        )


@router.delete(
    "/triggers/{trigger_id}",
    operation_id="remove_trigger",
    **operation(Scope.ADMIN, None, status=204),
)
async def remove_trigger(trigger_id: TriggerId, runtime: Runtime) -> None:
    """Forget a trigger and its history; its workers live on."""
    await runtime.remove_trigger(trigger_id)


@router.post(
    "/triggers/{trigger_id}/fire",
    operation_id="fire_trigger",
    **operation(
        Scope.SPAWN,
        examples.FIRED,
        status=202,
        body=True,
        also=(409,),
        links={"worker": link("get_worker", "worker_id", "$response.body#/worker_id")},
    ),
)
async def fire_trigger(
    trigger_id: TriggerId,
    runtime: Runtime,
    caller: Caller,
    key: IdempotencyKey,
    body: Fire | None = None,
) -> Fired:
    """Fire a trigger of any type now. Its task may name what is in `input`."""
    given = {} if body is None else body.input
    worker_id = await runtime.trigger(
        trigger_id, given, idempotency_key=key and f"{key}:{trigger_id}", caller=caller
    )
    return Fired(trigger_id=trigger_id, worker_id=worker_id)


@router.get(
    "/triggers/{trigger_id}/fires",
    operation_id="get_fires",
    **operation(Scope.READ, [examples.FIRE]),
)
async def get_fires(trigger_id: TriggerId, runtime: Runtime, limit: Limit) -> list[FireRecord]:
    """The trigger's latest fires, newest first, those too that came to nothing. The last 100 are kept."""
    return await runtime.get_fires(trigger_id, limit)


@router.post(
    "/triggers/{trigger_id}/pause",
    operation_id="pause_trigger",
    **operation(Scope.ADMIN, {"paused": True}),
)
async def pause_trigger(trigger_id: TriggerId, runtime: Runtime) -> Paused:
    """It fires no more, whatever comes, until it is resumed."""
    await runtime.pause_trigger(trigger_id)
    return Paused(paused=True)


@router.post(
    "/triggers/{trigger_id}/resume",
    operation_id="resume_trigger",
    **operation(Scope.ADMIN, {"paused": False}, also=(409,)),
)
async def resume_trigger(trigger_id: TriggerId, runtime: Runtime) -> Paused:
    """It fires again; what a timer missed in the pause is not made good."""
    await runtime.resume_trigger(trigger_id)
    return Paused(paused=False)


@router.post(
    "/timers/pause", operation_id="pause_timers", **operation(Scope.ADMIN, {"paused": True})
)
async def pause_timers(runtime: Runtime) -> Paused:
    """No timer fires until they are resumed."""
    await runtime.pause_timers()
    return Paused(paused=True)


@router.post(
    "/timers/resume", operation_id="resume_timers", **operation(Scope.ADMIN, {"paused": False})
)
async def resume_timers(runtime: Runtime) -> Paused:
    """Timers fire again, from their next times on."""
    await runtime.resume_timers()
    return Paused(paused=False)
