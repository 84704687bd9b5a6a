"""From the event log to the webhooks of subscriptions: each event once, in pages, behind a cursor that is
kept.

Any node may do it, at any time: the script that owes the deliveries moves the cursor, and refuses whoever
comes second. What the capped log no longer has is told by a webhook of type ``gap``.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue
from pydantic_core import to_json

from colony.events import Filter, position_of, read_events
from colony.metrics.names import EVENT_LAG
from colony.models import Event, EventType, Subscription, to_ms
from colony.store import Store
from colony.store.deliveries import NewDelivery
from colony.triggers import EventConfig

PAGE = 500
PAGES = 4
"""Most pages in one round."""
BACKLOG = 1000
"""A subscription that is owed so much is not followed further: its cursor waits, the log remembers."""
EMBEDDED_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Page:
    """Events behind a cursor, each with the id of the one before it; `to`: the cursor behind them."""

    events: Sequence[tuple[str, Event]]
    to: str
    last: bool


async def follow_events(store: Store, *, interval: timedelta) -> None:
    """Owe the subscriptions what has happened, if no other node has done so within the interval."""
    latest, behind = await store.behind(interval=interval, backlog=BACKLOG)
    by_cursor: defaultdict[str, list[Subscription]] = defaultdict(list)
    for each in behind:
        by_cursor[each.cursor].append(each.subscription)
    for cursor, subscriptions in by_cursor.items():
        await _catch_up(store, cursor, latest, subscriptions)


async def _catch_up(
    store: Store, cursor: str, latest: str, subscriptions: list[Subscription]
) -> None:
    for _ in range(PAGES):
        page = await read_page(store, cursor, latest)
        subscriptions = [
            s
            for s in subscriptions
            if await store.follow(s.id, cursor, page.to, deliveries_of(s, page.events))
        ]
        if page.last or not subscriptions:
            return
        cursor = page.to


async def read_page(store: Store, cursor: str, latest: str) -> Page:
    """A page from behind the cursor. One that ends the log also passes `latest`, which was read before."""
    events: list[tuple[str, Event]] = []
    at = cursor
    reading = read_events(store, Filter(), after=cursor, follow=False)
    async with contextlib.aclosing(reading):
        async for event in reading:
            events.append((at, event))
            at = event.id or at
            if len(events) >= PAGE and event.id is not None:
                return Page(events, at, last=False)
    return Page(events, max(at, latest, key=position_of), last=True)


def just_before(event_id: str) -> str:
    """A cursor from which this event is the next; a gap before it was told."""
    generation, sequence = position_of(event_id)
    return f"{generation}-{sequence - 1}"


def deliveries_of(
    subscription: Subscription, events: Sequence[tuple[str, Event]]
) -> list[NewDelivery]:
    """What a subscription is owed for these events."""
    wanted = [(b, e) for b, e in events if e.type == EventType.GAP or wants(subscription, e)]
    now = datetime.now(UTC)
    for _, event in wanted:
        EVENT_LAG.observe(max(0.0, (now - event.at).total_seconds()), "subscription")
    return [_delivery(subscription.id, before, event) for before, event in wanted]


def wants(what: Subscription | EventConfig, event: Event) -> bool:
    """Whether an event is one of those that are meant."""
    if what.types and event.type not in what.types:
        return False
    whole = event.model_dump()
    return all(_stands(whole, path, value) for path, value in what.where.items())


def _stands(whole: JsonValue, path: str, expected: JsonValue) -> bool:
    for name in path.split("."):
        if not isinstance(whole, dict) or name not in whole:
            return False
        whole = whole[name]
    return whole in expected if isinstance(expected, list) else whole == expected


def _delivery(subscription_id: str, before: str, event: Event) -> NewDelivery:
    told = event.model_dump(exclude={"type", "at", "execution_id"})
    data = to_json(told)
    if len(data) > EMBEDDED_BYTES:
        data = to_json({**told, "data": {}, "data_omitted": True})
    name = event.id or f"gap_{before}"
    return NewDelivery(f"{subscription_id}_{name}", str(event.type), to_ms(event.at), data.decode())
