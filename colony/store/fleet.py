"""The fleet's housekeeping: definitions, leases, and what the janitors find due."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic_core import to_json

from colony.models import EventType
from colony.sizes import storable
from colony.store.base import StoreBase, _newer_schema, millis, pairs
from colony.store.keys import COLONIES
from colony.store.scripts import SCHEMA
from colony.store.workers import Ring, rings

REJECTED_KEPT = 1000


@dataclass(frozen=True, slots=True)
class Due:
    """What a sweep found: nodes whose lease ran out, items whose time has come, how many wait."""

    dead_nodes: Sequence[str]
    items: Sequence[str]
    pending: int
    joins: Sequence[str]
    notices: bool


class FleetKeeping(StoreBase):
    """What nodes and janitors do. Every one of these may be done by any node, any number of times."""

    async def register(self, face: Mapping[str, str | int]) -> None:
        """Make the colony known to producers: its limits, agents and version."""
        flat = [
            text
            for item in {"id": self.colony_id, **face, "schema": SCHEMA}.items()
            for text in item
        ]
        reply = await self.run("register", *flat)
        if reply != "ok":
            raise _newer_schema(self.colony_id, reply[1])
        await self.link.call("SADD", COLONIES, self.colony_id)

    async def last_registered(self) -> int:
        """When a definition of the colony was last registered (ms); 0 when nobody knows the colony."""
        return int(await self.link.call("HGET", self.keys("meta"), "last_registered") or 0)

    async def beat(
        self, node: str, *, lease: timedelta, about: Mapping[str, str | int], join: bool = False
    ) -> dict[str, str] | None:
        """Renew (or, with `join`, take) a node's lease. Returns what the store thinks it runs, worker
        id → claim token; None when the lease was taken away, or the colony's data are gone: this node is
        dead and must start anew."""
        flat = [text for item in about.items() for text in item]
        reply = await self.run("beat", node, millis(lease), int(join), *flat)
        return pairs(reply[1]) if reply[0] == "ok" else None

    async def drain(self, node: str, *, by_word: bool = False) -> bool:
        """Have a node refused every claim, hand over what it runs, and end; False: there is none. For an
        hour also after it has lost its lease. `by_word`: it was told so, and another one says it; then each
        worker is spared only so often."""
        return bool(await self.run("drain", node, int(by_word)) == "ok")

    async def is_draining(self, node: str) -> bool:
        """Whether a node is to drain: the durable flag behind the hint."""
        return await self.link.call("HGET", self.keys("node", node), "draining") is not None

    async def sweep(self, *, interval: timedelta, lease: timedelta, cap: int) -> Due | None:
        """What is due now; None when another node has just looked. Nothing is while Redis is out of
        memory: the round may go on to `retain`, which is let through and makes room."""
        reply = await self.run("sweep", millis(interval), millis(lease), cap)
        if reply[0] == "full":
            return Due([], [], 0, [], notices=False)
        return (
            Due(reply[1], reply[2], int(reply[3]), reply[4], reply[5] == "1")
            if reply[0] == "go"
            else None
        )

    async def rescue(
        self,
        node: str,
        *,
        cap: int,
        ring_again_after: timedelta,
        died: bool = True,
        witnessed: bool = False,
    ) -> tuple[int, list[Ring]]:
        """Take up to `cap` workers of a dead (or leaving) node; returns how many, and whom to ring for.
        `witnessed`: it is known that nobody had told it to end."""
        after = millis(ring_again_after)
        taken, flat = await self.run("rescue", node, cap, after, int(died), int(witnessed))
        return int(taken), rings(flat)

    async def exonerate(self, node: str, what: str, *, cap: int = 1000) -> tuple[int, int]:
        """Take back what a rescue of a node has counted as deaths in the last week: it did not die, but
        `what` ("was cut off"). Returns how many were counted, and how many could be taken back: not of
        those that have ended since, nor of one that was spared ten times."""
        counted, taken_back, more = 0, 0, True
        while more:
            reply = await self.run("exonerate", node, cap, what)
            more = bool(reply[0])
            counted, taken_back = counted + reply[0], taken_back + reply[1]
        return counted, taken_back

    async def uphold(self, node: str) -> None:
        """What a rescue of a node has counted as deaths stands, whatever comes later."""
        await self.link.call("DEL", self.keys("counted", node))

    async def has_lease(self, node: str) -> bool:
        """Whether a node is known: alive, or dead and not yet rescued whole."""
        return await self.link.call("ZSCORE", self.keys("nodes"), node) is not None

    async def expire(self, item: str, *, grace: timedelta, cap: int = 200) -> list[Ring]:
        """Do one due item (deadlines, stops: see lua/expire.lua); returns whom to ring for."""
        return rings(await self.run("expire", item, millis(grace), cap))

    async def due_items(self, cap: int) -> list[str]:
        """What has become due since the sweep, by what the round itself has done."""
        seconds, _ = await self.link.call("TIME")
        now = (int(seconds) + 1) * 1000
        key = self.keys("due")
        return list(await self.link.call("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, cap))

    async def notices(self, *, again_after: timedelta, cap: int) -> dict[str, str]:
        """What is to be sent now, notice → JSON; each comes again until `notice_sent`, each time after
        twice as long, up to 32 times."""
        return pairs(await self.run("notices", millis(again_after), cap))

    async def notice_sent(self, notice: str) -> None:
        """It was sent and need not be sent again."""
        await self.run("notice_sent", notice)

    async def ring_again(self, *, after: timedelta, cap: int) -> list[Ring]:
        """Doorbells that went unanswered. Only ask when the queue was seen empty."""
        return rings(await self.run("ring_again", millis(after), cap))

    async def retain(self, *, most: int, ttl: timedelta | None, cap: int) -> int:
        """Forget ended workers beyond what is kept. Returns how many."""
        return int(await self.run("retain", most, "" if ttl is None else millis(ttl), cap))

    async def reject(self, reason: str, message: str, *, counter: str = "rejected") -> None:
        """Set a message aside that is not ours or malformed, with its reason, and count it. Any text will
        do: half of a surrogate pair is kept as "?"."""
        kept = {"reason": storable(reason[:1000]), "message": storable(message[:2000])}
        entry = to_json(kept).decode()
        await self.run("reject", entry, REJECTED_KEPT, counter)

    async def tell(
        self, kind: EventType, data: Mapping[str, Any], worker_id: str | None = None
    ) -> None:
        """Write one lifecycle event that belongs to no transition."""
        await self.run("tell", kind.value, worker_id or "", to_json(data).decode())

    async def say(
        self,
        kind: str,
        data: Mapping[str, Any],
        *,
        worker_id: str,
        stream_id: str,
        correlation_id: str | None,
    ) -> None:
        """Tell those who listen right now; nothing is kept, nothing is numbered."""
        event = {
            "id": None,
            "type": kind,
            "colony_id": self.colony_id,
            "stream_id": stream_id,
            "execution_id": worker_id,
            "worker_id": worker_id,
            "correlation_id": correlation_id,
            "at": time.time_ns() // 1_000_000,
            "data": dict(data),
        }
        await self.link.call("PUBLISH", self.keys("live"), to_json(event).decode())

    async def set_limit(self, name: str, most: int | None) -> bool:
        """Set a cap (None: the definition's again). False when the colony is unknown."""
        reply = await self.run("set_limit", name, "" if most is None else most)
        return bool(reply == "ok")

    async def set_intake(self, *, paused: bool) -> bool:
        """Close or open the intake. False when the colony is unknown."""
        return bool(await self.run("set_intake", int(paused)) == "ok")
