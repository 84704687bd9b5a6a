"""From the event log of a colony, this one's or another's, to the triggers that events fire.

Any node may do it, at any time. A trigger's cursor is moved after its fires, which are known by the
event's id: one who dies between, or comes second, fires nothing twice. Loops are refused: an event says
which triggers led to it, to its worker or its batch, and none of them fires upon it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from colony.errors import (
    ColonyError,
    SpawnRefused,
    StoreUnavailable,
    TriggerBusy,
    TriggerPaused,
    UnknownTrigger,
    UnreadableTrigger,
)
from colony.logs import Seldom
from colony.models import Event, EventType
from colony.store import Store
from colony.store.triggers import Fire
from colony.triggers.firing import Firing, Occasion
from colony.triggers.keeping import watched
from colony.triggers.spec import TriggerSpec
from workers.node.following import PAGES, Page, just_before, read_page, wants

log = logging.getLogger("colony.triggers")
waits = Seldom(log)

REMEMBER = timedelta(days=1)
LONGEST_CAUSE = 16
"""Triggers in a row that may lead to one another."""


async def watch_events(
    store: Store, made: Callable[[], Awaitable[Firing]], *, interval: timedelta
) -> None:
    """Fire what has happened since the cursors. `made` is asked only where there is
    something, and the events only by one node per interval."""
    for trigger_id, text, cursor in await store.watchers(interval):
        try:
            spec = TriggerSpec.kept(trigger_id, text)
        except UnreadableTrigger as error:
            log.error("it does not fire: %s", error)
            continue
        if spec.event is None:
            continue
        source = watched(store, spec.event)
        latest = await source.latest_event()
        if cursor != latest:
            await _watch(await made(), spec, source, cursor, latest)


async def _watch(
    firing: Firing, spec: TriggerSpec, source: Store, cursor: str, latest: str
) -> None:
    store = firing.spawner.store
    for _ in range(PAGES):
        page = await read_page(source, cursor, latest)
        seen = await _look_through(firing, spec, source, page)
        moved = await store.set_cursor(spec.id, source.colony_id, cursor, seen)
        if page.last or seen != page.to or not moved:
            return
        cursor = page.to


async def _look_through(firing: Firing, spec: TriggerSpec, source: Store, page: Page) -> str:
    """Fire upon what is wanted; returns up to where it is done with."""
    assert spec.event is not None
    for _, event in page.events:
        if event.type == EventType.GAP:
            await _note_gap(firing.spawner.store, spec, event)
        elif wants(spec.event, event) and not await _fire(firing, spec, source, event):
            return just_before(event.id or page.to)
    return page.to


async def _note_gap(store: Store, spec: TriggerSpec, gap: Event) -> None:
    """In its history and in the log; it missed none that anybody knows of: most of them were of others."""
    lost, why = gap.data.get("missed"), gap.data.get("reason")
    log.warning("trigger %s: %s events of %s: %s", spec.id, lost, gap.colony_id, why)
    await store.pass_over(Fire(spec.id, "event"), f"not looked at: {lost} events, {why}")


async def _fire(firing: Firing, spec: TriggerSpec, source: Store, event: Event) -> bool:
    """Whether the event is done with; False: it is tried again in the next round."""
    store = firing.spawner.store
    try:
        if refusal := _refusal(f"{store.colony_id}/{spec.id}", event):
            await store.pass_over(Fire(spec.id, "event"), refusal)
            return True
        values = {"event": event.model_dump(mode="json")}
        key = f"{source.colony_id}/{event.id}"
        await firing.fire(spec, Occasion("event", values, key, REMEMBER, event.cause))
    except (TriggerBusy, TriggerPaused, UnknownTrigger):
        return True
    except (SpawnRefused, StoreUnavailable) as error:
        waits.warn("trigger %s waits with event %s: %s", spec.id, event.id, error)
        return False
    except ColonyError as error:
        await store.pass_over(Fire(spec.id, "event"), f"refused: {error}"[:500])
    return True


def _refusal(trigger: str, event: Event) -> str | None:
    """Why it must not fire upon this event: it would be a loop, or nobody can tell."""
    if trigger in event.cause or len(event.cause) >= LONGEST_CAUSE:
        return f"refused: a loop ({' > '.join(event.cause)})"
    if event.worker_id is not None and event.stream_id is None:
        return f"refused: the record of {event.worker_id} was gone, perhaps a loop"
    return None
