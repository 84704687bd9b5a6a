"""Lists in pages that stay put while the fleet works.

A cursor says what the last worker of a page was, in an order that a worker does not leave: all workers by
when they were accepted, those of one state by when they entered it. So whoever is on the list from the first
page to the last comes exactly once, however much begins and ends meanwhile.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Generic, TypeVar

from colony.errors import InvalidTask
from colony.models import Event, Model, ReportStatus, WorkerState, from_ms
from colony.operations import Operations

T = TypeVar("T")

MAX_PAGE = 500

FIELDS = {
    "state": "state",
    "status": "status",
    "agent": "agent",
    "label": "task",
    "correlation": "correlation_id",
    "stream": "stream_id",
    "batch": "batch_id",
    "parent": "parent_id",
    "root": "root_id",
    "priority": "priority",
    "node": "node",
    "waits_for": "waits_for",
    "tokens": "tokens_used",
    "cost": "cost_usd",
}
TIMES = {"created": "created_at", "since": "since", "started": "started_at", "ended": "ended_at"}


class Page(Model, Generic[T]):
    """Some of a list, and where the next page begins; `next_cursor` is None on the last."""

    items: tuple[T, ...]
    next_cursor: str | None = None


class WorkerSummary(Model):
    """One line of a list: a worker without what may be large. `task` is cut at 200 characters, `status`
    is that of its report."""

    worker_id: str
    state: WorkerState
    status: ReportStatus | None = None
    agent: str
    task: str
    correlation_id: str | None = None
    stream_id: str
    batch_id: str | None = None
    parent_id: str | None = None
    root_id: str
    priority: int = 0
    node: str | None = None
    waits_for: str | None = None
    tokens_used: int = 0
    cost_usd: float | None = None
    created_at: datetime
    since: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class ListVerbs(Operations):
    """The verbs that list in pages, part of `ColonyRuntime`."""

    async def page_workers(
        self, *, status: WorkerState | None = None, cursor: str | None = None, limit: int = 100
    ) -> Page[WorkerSummary]:
        """Workers, newest first: accepted last, or with `status` entered that state last. At most 500.
        Raises `InvalidTask` for a cursor of another list."""
        return await self._page("listed" if status is None else status.value, cursor, limit)

    async def page_quarantine(
        self, *, cursor: str | None = None, limit: int = 100
    ) -> Page[WorkerSummary]:
        """The workers in quarantine, newest first. Raises `InvalidTask` for a cursor of another list."""
        return await self._page("quarantine", cursor, limit)

    async def get_summaries(self, ids: Sequence[str]) -> list[WorkerSummary | None]:
        """These workers, in the order of `ids`; None for one that is not there (any more)."""
        rows = await self._store.fields(ids, [*FIELDS, *TIMES])
        return [
            _summary(w, raw) if "since" in raw else None for w, raw in zip(ids, rows, strict=True)
        ]

    async def longest_in(self, status: WorkerState, limit: int = 100) -> list[WorkerSummary]:
        """The workers that have been in a state for the longest, those first. At most 500."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidTask(f"limit: expected 1 to {MAX_PAGE}, got {limit}")
        found = await self.get_summaries(await self._store.oldest_in(status, limit))
        return [worker for worker in found if worker is not None and worker.state is status]

    async def recent_events(self, most: int, *, after: str | None = None) -> list[Event]:
        """The latest events that are kept, at most so many, behind the event `after`; the oldest first."""
        texts = await self._store.recent_events(most, after)
        return [Event.model_validate_json(text) for text in texts]

    async def _page(self, index: str, cursor: str | None, limit: int) -> Page[WorkerSummary]:
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidTask(f"limit: expected 1 to {MAX_PAGE}, got {limit}")
        after = None if cursor is None else read_cursor(index, cursor)
        rows = await self._store.page(index, after, limit + 1, [*FIELDS, *TIMES])
        items = tuple(_summary(worker_id, raw) for worker_id, _, raw in rows[:limit])
        more = rows[limit - 1] if len(rows) > limit else None
        return Page(items=items, next_cursor=more and make_cursor(index, more[1], more[0]))


def make_cursor(of: str, position: int, item: str = "") -> str:
    """An opaque cursor of the list `of`, behind this item."""
    return base64.urlsafe_b64encode(f"{of} {position} {item}".encode()).decode().rstrip("=")


def read_cursor(of: str, cursor: str) -> tuple[int, str]:
    """The position and the item of a cursor. `InvalidTask` unless it is one of the list `of`."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode()
        found, position, item = text.split(" ")
        if found == of and position.isascii() and position.isdigit() and len(position) < 16:
            return int(position), item
    except (binascii.Error, ValueError):
        pass
    raise InvalidTask(
        "cursor: expected the next_cursor of the page before, of the same list with the same filters"
    )


def _summary(worker_id: str, raw: dict[str, str]) -> WorkerSummary:
    found = {name: raw[field] for field, name in FIELDS.items() if field in raw}
    times = {name: from_ms(raw[field]) for field, name in TIMES.items() if field in raw}
    return WorkerSummary.model_validate({"worker_id": worker_id, **found, **times})
