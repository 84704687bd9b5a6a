"""The fleet's metrics, read from Redis when somebody scrapes: the same from any node and any gateway.

They are kept for `KEEP_SECONDS`, so that however many scrape, a process asks once in that time: one script
and a few lengths for each colony. While Redis does not answer there is
``colony_store_up 0``, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from kombu.transport.redis import Channel
from redis.exceptions import RedisError

from colony.doorbell import intake_of, queue_of
from colony.errors import StoreDenied, StoreUnavailable
from colony.metrics import figures
from colony.store import Link, Store
from colony.store.keys import COLONIES

KEEP_SECONDS: Final = 2.0
PATIENCE: Final = timedelta(seconds=1.5)
MOST_COLONIES: Final = 50
MOST_NAMES: Final = 100
"""Agents, or totals, of one colony; what comes more is left out, and how much that is is a metric."""

Sample = tuple[Mapping[str, str], float]
Figures = Mapping[str, float]


@dataclass(slots=True)
class Family:
    """A metric with its samples, by their labels; a counter or a gauge."""

    name: str
    help: str
    is_counter: bool = False
    samples: list[Sample] = field(default_factory=list)


class FleetReader:
    """Reads the figures of these colonies, or of all that the store knows: then without those that only a
    node may read (see deploy/redis/users.acl). For one thread or event loop at a time: each reading opens
    connections of its own."""

    def __init__(
        self, store_url: str, queue_url: str, colonies: Sequence[str] | None = None
    ) -> None:
        self._store_url, self._queue_url = store_url, queue_url
        self._colonies = colonies
        self._kept: list[Family] = []
        self._until = 0.0

    async def families(self) -> list[Family]:
        """The metrics of the fleet, not older than `KEEP_SECONDS`."""
        if time.monotonic() > self._until:
            self._kept = await self._read()
            self._until = time.monotonic() + KEEP_SECONDS
        return self._kept

    async def _read(self) -> list[Family]:
        store = Link(self._store_url, patience=PATIENCE)
        queue = Link(self._queue_url, patience=PATIENCE)
        try:
            names = self._colonies or sorted(await store.call("SMEMBERS", COLONIES))
            read = await asyncio.gather(
                *(self._figures_of(Store(store, name), queue) for name in names[:MOST_COLONIES])
            )
        except (StoreUnavailable, RedisError):
            return [Family(*figures.STORE_UP, samples=[({}, 0)])]
        finally:
            await asyncio.gather(store.close(), queue.close())
        up = Family(*figures.STORE_UP, samples=[({}, 1)])
        told = {name: of for name, of in zip(names, read, strict=False) if of is not None}
        return [up, *_families_of(told, known=len(names))]

    async def _figures_of(self, store: Store, queue: Link) -> Figures | None:
        """None for a colony that is not for this user of Redis, where it is one of all."""
        try:
            own = await store.figures(set_aside=self._colonies is not None)
        except StoreDenied:
            if self._colonies is not None:
                raise
            return None
        return {**own, **await _figures_of_queue(store.colony_id, queue)}


async def _figures_of_queue(colony_id: str, queue: Link) -> Figures:
    """Empty while the broker does not answer: the store's figures are told all the same."""
    bells, intake = queue_of(colony_id), intake_of(colony_id)
    lists = [f"{intake}{Channel.sep}{step}" if step else intake for step in Channel.priority_steps]
    try:
        waiting, taken, leads, *sent = await asyncio.gather(
            queue.call("LLEN", bells),
            queue.call("HLEN", f"{bells}.unacked"),
            queue.call("EXISTS", f"{bells}.beat::lock"),  # RedBeat's
            *(queue.call("LLEN", name) for name in lists),
        )
    except (StoreUnavailable, RedisError):
        return {}
    return {
        "queue": int(waiting),
        "unacknowledged": int(taken),
        "beat_leads": int(leads),
        "intake": sum(map(int, sent)),
    }


def _families_of(read: Mapping[str, Figures], known: int) -> list[Family]:
    """The metrics of the colonies that were read, out of so many that there are."""
    others = (*figures.TOTALS, *figures.STATUSES)
    left_out = {
        "colonies": known - len(read),
        "agents": _beyond(read, "active:"),
        "counts": _beyond(read, "total:", but=others),
    }
    families = [
        *_named(figures.GAUGES, read, prefix="", is_counter=False),
        *_named(figures.TOTALS, read, prefix="total:", is_counter=True),
        _labelled(figures.BY_STATE, read, "state:", "state"),
        _labelled(figures.BY_AGENT, read, "active:", "agent"),
        _labelled(figures.BY_STATUS, read, "total:", "status", of=figures.STATUSES),
        _labelled(figures.OTHERS, read, "total:", "what", but=others),
        Family(*figures.LEFT_OUT, samples=[({"what": what}, n) for what, n in left_out.items()]),
    ]
    return [family for family in families if family.samples]


def _rest_of(found: Figures, prefix: str, but: Sequence[str] = ()) -> dict[str, float]:
    """The figures of a prefix, by the rest of their names, but some."""
    named = {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    return {name: named[name] for name in sorted(named) if name not in but}


def _beyond(read: Mapping[str, Figures], prefix: str, but: Sequence[str] = ()) -> int:
    """How many of them no metric tells."""
    return sum(max(0, len(_rest_of(found, prefix, but)) - MOST_NAMES) for found in read.values())


def _named(
    table: Mapping[str, tuple[str, str]],
    read: Mapping[str, Figures],
    *,
    prefix: str,
    is_counter: bool,
) -> Iterator[Family]:
    """One metric for each figure of a table; a total that the store has not begun is 0."""
    for figure, (name, words) in table.items():
        samples: list[Sample] = []
        for colony_id, found in read.items():
            value = found.get(prefix + figure, 0.0 if is_counter and found else None)
            if value is not None:
                samples.append(({"colony": colony_id}, value))
        yield Family(name, words, is_counter, samples)


def _labelled(
    what: tuple[str, str],
    read: Mapping[str, Figures],
    prefix: str,
    label: str,
    *,
    of: Sequence[str] | None = None,
    but: Sequence[str] = (),
) -> Family:
    """One metric for the figures of a prefix, the rest of their names as a label."""
    samples: list[Sample] = []
    for colony_id, found in read.items():
        named = _rest_of(found, prefix, but)
        if of is not None:
            named = {name: named.get(name, 0) for name in of} if found else {}
        samples += [({"colony": colony_id, label: n}, named[n]) for n in list(named)[:MOST_NAMES]]
    return Family(*what, is_counter=prefix == "total:", samples=samples)
