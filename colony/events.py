"""The bridge: what happens in a colony, told live and replayed without repeat and without a silent gap.

Lifecycle events are written by the script that changes the state: to a capped log and to a
pub/sub channel, with consecutive sequence numbers. A reader subscribes first and then reads the
log, so nothing falls between; afterwards the numbers tell it when something was missed (a lost
connection), and it reads the log again. What the cap has taken, or a Redis that lost its last
second, is announced by an event of type ``gap`` that says how many are missing. Text deltas and
progress have no id: they are heard by those who listen, or not at all.

A reader has a connection of its own. One that is slow is disconnected by Redis when its buffer is
full, reconnects, and reads on from the log: it delays nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from colony.models import Event, EventType
from colony.store import Store
from colony.store.listen import listen

log = logging.getLogger("colony.events")

PAGE = 500
START = "0"

Position = tuple[int, int]
"""(generation, sequence) of the last event that a reader has passed."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a reader wants; empty fields want all. Gaps pass every filter."""

    types: frozenset[str] = frozenset()
    stream_id: str | None = None
    worker_id: str | None = None

    @classmethod
    def of(
        cls, types: Iterable[str] | None, stream_id: str | None, worker_id: str | None
    ) -> Filter:
        """A filter of the arguments as the runtime's verbs take them."""
        return cls(frozenset(str(t) for t in types or ()), stream_id, worker_id)

    def wants(self, raw: dict[str, Any]) -> bool:
        """Whether a raw event passes."""
        return (
            (not self.types or raw["type"] in self.types)
            and (self.stream_id is None or raw["stream_id"] == self.stream_id)
            and (self.worker_id is None or raw["worker_id"] == self.worker_id)
        )


def position_of(event_id: str) -> Position:
    """Where an event id stands. Raises `ValueError` that shows what an id looks like."""
    generation, _, sequence = event_id.partition("-")
    try:
        return int(generation), int(sequence or 0)
    except ValueError as error:
        raise ValueError(
            f"{event_id!r} is no event id: expected generation-sequence such as 1-42, or 0"
        ) from error


async def read_events(
    store: Store, wanted: Filter, *, after: str | None, follow: bool
) -> AsyncGenerator[Event, None]:
    """Events after an id (``"0"``: all that is kept; None: from now on), then live ones if `follow`."""
    reader = Reader(store, wanted)
    if not follow:
        await reader.start(after or START)
        async for event in reader.catch_up():
            yield event
        return
    async with contextlib.aclosing(listen(store.link, store.keys("live"))) as heard:
        async for message in heard:
            if message is None:
                if not reader.started:
                    await reader.start(after)
                async for event in reader.catch_up():
                    yield event
            else:
                async for event in reader.hear(json.loads(message)):
                    yield event


class Reader:
    """Where one reader stands in the log: `at` is behind the last event that it has passed.

    It says nothing by itself: `catch_up` reads what the log holds (after each confirmation of the
    subscription, and whenever something heard was lost), `hear` takes a message of the channel ``live``.
    """

    def __init__(self, store: Store, wanted: Filter) -> None:
        self.store = store
        self.wanted = wanted
        self.at: Position = (0, 0)
        self.started = False

    async def start(self, after: str | None) -> None:
        """Take position: behind `after`, or at the end of the log for None."""
        if after is None:
            generation, sequence = await self.store.link.call(
                "HMGET", self.store.keys("meta"), "generation", "events"
            )
            self.at = (int(generation or 1), int(sequence or 0))
        else:
            self.at = position_of(after)
        self.started = True

    async def catch_up(self) -> AsyncIterator[Event]:
        """Everything in the log that comes after the position, gaps announced."""
        lost = await self._lost_to_a_restart()
        if lost is not None:
            yield lost
        while True:
            entries = await self.store.link.call(
                "XRANGE",
                self.store.keys("events"),
                f"({self.at[0]}-{self.at[1]}",
                "+",
                "COUNT",
                PAGE,
            )
            for event_id, fields in entries:
                position = position_of(event_id)
                missed = position[1] - self.at[1] - 1
                if missed > 0:
                    yield self._gap(missed, "no longer in the log (max_history)")
                self.at = position
                raw = json.loads(_field(fields, "e"))
                if self.wanted.wants(raw):
                    yield Event.model_validate(raw)
            if len(entries) < PAGE:
                return

    async def hear(self, raw: dict[str, Any]) -> AsyncIterator[Event]:
        """One live message: passed on, skipped as known, or the sign that the log must be read."""
        if raw.get("id") is None:
            if self.wanted.wants(raw):
                yield Event.model_validate(raw)
            return
        position = position_of(raw["id"])
        if position <= self.at:
            return
        if position == (self.at[0], self.at[1] + 1):
            self.at = position
            if self.wanted.wants(raw):
                yield Event.model_validate(raw)
            return
        async for event in self.catch_up():
            yield event

    async def _lost_to_a_restart(self) -> Event | None:
        """After a restart of Redis that lost its last second, a reader may be ahead of the log. One whose
        generation never began here comes from another Redis, and begins anew."""
        meta = await self.store.face()
        generation, events = int(meta.get("generation", 1)), int(meta.get("events", 0))
        if self.at[0] > generation:
            self.at = (0, 0)
            reason = (
                "this reader's position is of another log: all that is kept in this one follows"
            )
            return self._gap(events, reason, repeated=True)
        # Until a node has noticed the restart, the generation is the old one.
        began = events if self.at[0] == generation else meta.get(f"since:{self.at[0] + 1}")
        if self.at[0] == 0 or began is None or self.at[1] <= int(began):
            return None
        lost = self.at[1] - int(began)
        self.at = (self.at[0], int(began))
        return self._gap(
            lost, "seen by this reader but lost by Redis when it was restarted", repeated=True
        )

    def _gap(self, missed: int, reason: str, *, repeated: bool = False) -> Event:
        return Event(
            type=EventType.GAP,
            colony_id=self.store.colony_id,
            at=datetime.now(UTC),
            data={"missed": missed, "reason": reason, "lost_by_server": repeated},
        )


def _field(fields: Any, name: str) -> str:
    """A field of a stream entry: redis-py gives a dict, or a flat list."""
    if isinstance(fields, dict):
        return str(fields[name])
    return str(fields[list(fields).index(name) + 1])


Handler = Callable[[Event], Awaitable[None] | None]


class Subscription:
    """A handler that is called for each event, in order, until `close`.

    What the handler raises is logged and harms nobody; a slow handler delays only itself.
    """

    def __init__(self, events: AsyncIterator[Event], handler: Handler) -> None:
        self._task = asyncio.create_task(self._pump(events, handler), name="colony-subscription")

    async def close(self) -> None:
        """End it; the handler is not called again."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    @staticmethod
    async def _pump(events: AsyncIterator[Event], handler: Handler) -> None:
        async for event in events:
            try:
                result = handler(event)
                if result is not None:
                    await result
            except Exception:
                log.exception(
                    "a subscriber failed on event %s (%s); it goes on", event.id, event.type
                )
