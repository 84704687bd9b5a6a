"""What can be read of a colony, without changing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from colony.conversation import Part, load_parts
from colony.models import (
    BatchRecord,
    BatchResult,
    FleetStats,
    NodeInfo,
    Rejected,
    Report,
    WorkerRecord,
    WorkerState,
)
from colony.store.base import StoreBase, millis, pairs
from colony.store.records import to_batch, to_node, to_record


class Reads(StoreBase):
    """Reads. Each is a snapshot of its moment."""

    async def get(self, worker_id: str) -> WorkerRecord | None:
        """One worker, or None when there is no such record (any more)."""
        raw = pairs(await self._hash(self.keys("worker", worker_id)))
        if not raw or raw.get("state", "STAGED") == "STAGED":
            return None
        return to_record(self.colony_id, worker_id, raw)

    async def conversation(
        self, worker_id: str, start: int = 0, count: int | None = None
    ) -> list[Part]:
        """The parts of a worker's conversation, in order: all of them, or a page."""
        last = -1 if count is None else start + count - 1
        key = self.keys("parts", worker_id)
        return load_parts(await self.link.call("LRANGE", key, start, last))

    async def wait_for(
        self, ids: Sequence[str], *, ttl: timedelta
    ) -> list[Report | BatchResult | bool]:
        """Per worker its report, per batch its result; True while there is none, False when there is
        no such worker or batch. Those named are safe from retention for `ttl`."""
        if not ids:
            return []
        replies = await self.run("wait_for", millis(ttl), *ids)
        return [_report_or_flag(reply) for reply in replies]

    async def batch(self, batch_id: str) -> BatchRecord | None:
        """One batch, or None when there is no such record (any more)."""
        raw, members, arrived = await asyncio.gather(
            self._hash(self.keys("batch", batch_id)),
            self.link.call("LRANGE", self.keys("members", batch_id), 0, -1),
            self.link.call("SCARD", self.keys("arrived", batch_id)),
        )
        return to_batch(batch_id, pairs(raw), members, int(arrived)) if raw else None

    async def members(self, batch_id: str, start: int, count: int) -> list[str]:
        """A page of a batch's workers, in input order."""
        key = self.keys("members", batch_id)
        return list(await self.link.call("LRANGE", key, start, start + count - 1))

    async def children(self, worker_id: str) -> list[str]:
        """The workers that a worker has spawned."""
        return sorted(await self.link.call("SMEMBERS", self.keys("children", worker_id)))

    async def newest(self, state: WorkerState | None, limit: int) -> list[WorkerRecord]:
        """The workers that entered their state last, newest first."""
        states = list(WorkerState) if state is None else [state]
        replies = await asyncio.gather(
            *(
                self.link.call("ZREVRANGE", self.keys("state", s.value), 0, limit - 1, "WITHSCORES")
                for s in states
            )
        )
        entries = sorted((e for reply in replies for e in _scored(reply)), key=lambda e: -e[1])
        records = await asyncio.gather(*(self.get(worker_id) for worker_id, _ in entries[:limit]))
        return [record for record in records if record is not None]

    async def page(
        self, index: str, after: tuple[int, str] | None, limit: int, fields: Sequence[str]
    ) -> list[tuple[str, int, dict[str, str]]]:
        """A page of ``listed``, ``quarantine`` or a state, newest first, behind (when, worker id): per
        worker its id, when (ms) and those of the fields that it has."""
        score, last = after or ("", "")
        flat = iter(await self.run("page", index, score, last, limit, *fields))
        return [
            (w, int(when), {k: v for k, v in zip(fields, values, strict=True) if v is not None})
            for w, when, values in zip(flat, flat, flat, strict=True)
        ]

    async def fields(self, ids: Sequence[str], fields: Sequence[str]) -> list[dict[str, str]]:
        """Those of the fields that each of these workers has; none for one that is not there."""
        found = await asyncio.gather(
            *(self.link.call("HMGET", self.keys("worker", w), *fields) for w in ids)
        )
        return [
            {k: v for k, v in zip(fields, values, strict=True) if v is not None} for values in found
        ]

    async def quarantined(self, limit: int) -> list[WorkerRecord]:
        """The workers in quarantine, newest first."""
        ids = await self.link.call("ZREVRANGE", self.keys("quarantine"), 0, limit - 1)
        found = await asyncio.gather(*(self.get(worker_id) for worker_id in ids))
        return [record for record in found if record is not None]

    async def is_quarantined(self, worker_id: str) -> bool:
        """Whether a worker is in quarantine."""
        key = self.keys("quarantine")
        return await self.link.call("ZSCORE", key, worker_id) is not None

    async def living(self) -> list[str]:
        """The ids of all that have not ended at this one moment: those that wait first, those that run
        last."""
        return [worker_id for ids in await self.run("living") for worker_id in ids]

    async def ids_in(self, state: WorkerState) -> list[str]:
        """The ids in a state at this moment, oldest first."""
        return list(await self.link.call("ZRANGE", self.keys("state", state.value), 0, -1))

    async def oldest_in(self, state: WorkerState, limit: int) -> list[str]:
        """The ids that have been in a state for the longest, those first."""
        key = self.keys("state", state.value)
        return list(await self.link.call("ZRANGE", key, 0, limit - 1))

    async def nodes(self) -> list[NodeInfo]:
        """The nodes that have a lease, or had one that nobody has cleared away yet."""
        now = await self._now()
        leases = _scored(await self.link.call("ZRANGE", self.keys("nodes"), 0, -1, "WITHSCORES"))
        out = []
        for node, until in leases:
            raw = pairs(await self._hash(self.keys("node", node)))
            running = int(await self.link.call("HLEN", self.keys("held", node)))
            if raw:
                out.append(to_node(node, raw, (until - now) / 1000, running))
        return out

    async def stats(self) -> FleetStats | None:
        """The colony in numbers; None when it was never registered."""
        meta = pairs(await self._hash(self.keys("meta")))
        if "id" not in meta:
            return None
        counts = await asyncio.gather(
            *(self.link.call("ZCARD", self.keys("state", s.value)) for s in WorkerState)
        )
        oldest = _scored(
            await self.link.call("ZRANGE", self.keys("state", "PENDING"), 0, 0, "WITHSCORES")
        )
        quarantined = int(await self.link.call("ZCARD", self.keys("quarantine")))
        now = await self._now()
        live = [node for node in await self.nodes() if node.lease_seconds > 0]
        return FleetStats(
            colony_id=self.colony_id,
            states={s: int(n) for s, n in zip(WorkerState, counts, strict=True)},
            nodes=len(live),
            slots=sum(node.concurrency for node in live),
            intake_paused=meta.get("paused") == "1",
            oldest_pending_seconds=(now - oldest[0][1]) / 1000 if oldest else None,
            totals={
                k.removeprefix("total:"): int(v) for k, v in meta.items() if k.startswith("total:")
            },
            events=int(meta.get("events", 0)),
            quarantined=quarantined,
        )

    async def figures(self, *, set_aside: bool) -> dict[str, float]:
        """What the colony's metrics are made of (`colony.metrics.figures`); `set_aside`: also how many
        messages were. Empty when it is unknown."""
        found = pairs(await self.run("figures", int(set_aside)))
        return {name: float(value) for name, value in found.items()}

    async def face(self) -> dict[str, str]:
        """What the definition says of itself: version, limits, agents, goal. Empty when unknown."""
        return pairs(await self._hash(self.keys("meta")))

    async def latest_event(self) -> str:
        """The id of the latest event that was written."""
        found = await self.link.call("HMGET", self.keys("meta"), "generation", "events")
        return f"{found[0] or 1}-{found[1] or 0}"

    async def recent_events(self, most: int, after: str | None) -> list[str]:
        """The last so many events of the log behind one of them, as JSON, the oldest first."""
        first = "-" if after is None else f"({after}"
        found = await self.link.call(
            "XREVRANGE", self.keys("events"), "+", first, "COUNT", str(most)
        )
        return [
            fields["e"] if isinstance(fields, dict) else fields[1] for _, fields in reversed(found)
        ]

    async def rejected(self, limit: int) -> list[Rejected]:
        """Messages that were set aside, newest first."""
        raw = await self.link.call("LRANGE", self.keys("rejected"), 0, limit - 1)
        return [Rejected.model_validate_json(entry) for entry in raw]

    async def _now(self) -> float:
        seconds, micros = await self.link.call("TIME")
        return int(seconds) * 1000 + int(micros) / 1000


def _scored(reply: Sequence[Any]) -> list[tuple[str, float]]:
    """Members with scores: flat in RESP2, nested pairs in RESP3."""
    if reply and isinstance(reply[0], (list, tuple)):
        return [(str(pair[0]), float(pair[1])) for pair in reply]
    return [(str(m), float(s)) for m, s in zip(reply[::2], reply[1::2], strict=True)]


def _report_or_flag(reply: str | None) -> Report | BatchResult | bool:
    if reply is None:
        return False
    return ended_from(reply) if reply else True


def ended_from(text: str) -> Report | BatchResult:
    """A report or a batch's result, as stored and as published."""
    kind: type[Report] | type[BatchResult] = (
        BatchResult if text.startswith('{"batch_id"') else Report
    )
    return kind.model_validate_json(text)
