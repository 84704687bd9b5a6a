"""A worker's transitions. One function, one script, one atomic step each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic_core import to_json

from colony.conversation import Filed, Part, Step, dump_parts, load_parts
from colony.errors import (
    FleetFull,
    IntakePaused,
    NoNodes,
    SpawnRefused,
    StaleToken,
    TreeLimit,
    UnknownColony,
)
from colony.models import ReportStatus, WorkerRecord, to_ms
from colony.store.base import StoreBase, millis, pairs
from colony.store.records import to_record
from colony.store.triggers import Fire, NotFired

STAGE = 500
"""Up to this many workers are accepted by one script; more are staged first, this many at a time."""
STAGE_TTL = timedelta(minutes=1)

NewWorker = tuple[str, Mapping[str, str]]
"""A worker's id and its fields (`colony.store.records.new_record`)."""


class Batch(list[str]):
    """The ids of workers that were spawned together, in input order; `id` is the batch's own."""

    def __init__(self, batch_id: str, worker_ids: Iterable[str]) -> None:
        super().__init__(worker_ids)
        self.id = batch_id

    def __repr__(self) -> str:
        return f"Batch({self.id!r}, {super().__repr__()})"


class Accepted(StrEnum):
    """What became of an accept."""

    NOW = "now"
    LATER = "later"
    KNOWN = "known"


class Refusal(StrEnum):
    """Why a claim was refused; otherwise it is the state that the worker is in."""

    UNKNOWN = "unknown"
    LEASE = "lease"
    VERSION = "version"
    DRAINING = "draining"


REFUSALS = {refusal.value: refusal for refusal in Refusal}


class Stopped(StrEnum):
    """What a stop found: nothing, an ended worker, one that waited (settled), one that runs (told)."""

    UNKNOWN = "unknown"
    ENDED = "ended"
    SETTLED = "settled"
    TOLD = "told"


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a worker, with all that is known of it."""

    record: WorkerRecord
    parts: list[Part]
    token: str
    remaining: timedelta | None
    soft_remaining: timedelta | None = None
    age: timedelta = timedelta(0)
    """Since it was accepted, or might begin (not_before), by Redis' clock."""


@dataclass(frozen=True, slots=True)
class Ring:
    """A doorbell to be rung: whom for, the label that Flower shows, and its place in a batch."""

    worker_id: str
    agent: str
    batch: str = ""
    index: int = 0


class Policy(StrEnum):
    """When a batch is joined: with all its members, or with the first good report(s)."""

    ALL = "all"
    ANY = "any"
    FIRST_N = "first_n"


@dataclass(frozen=True, slots=True)
class Background:
    """A place among the batches that a parent has in the background: at most so many at once; one
    more is refused, or queued until another is joined."""

    most: int
    queue: bool


@dataclass(frozen=True, slots=True)
class NewBatch:
    """A batch as it is accepted: `need` good reports join it early; `on_complete` is JSON. One with
    `background` is not what its parent waits for in the call that spawns it."""

    batch_id: str
    policy: Policy
    need: int
    on_complete: str = ""
    background: Background | None = None


@dataclass(frozen=True, slots=True)
class Parent:
    """A running worker that spawns, and the token of its claim."""

    worker_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settle leaves to do: a batch to join ("" for none), doorbells to ring."""

    joinable: str
    rings: list[Ring]


@dataclass(frozen=True, slots=True)
class Parked:
    """What a park leaves to do. `again`: what it waits for is there, it is PENDING again."""

    rings: list[Ring]
    again: bool = False


class WorkerTransitions(StoreBase):
    """accept → claim → checkpoint … → settle, and the ways out and back: park, wake, give back, stop."""

    async def accept(
        self,
        workers: Sequence[NewWorker],
        *,
        ring_again_after: timedelta,
        idempotency_key: str | None = None,
        idempotency_ttl: timedelta = timedelta(minutes=5),
        deadline: timedelta | datetime | None = None,
        not_before: timedelta | datetime | None = None,
        require_node: bool = False,
        batch: NewBatch | None = None,
        parent: Parent | None = None,
        fire: Fire | None = None,
    ) -> tuple[Accepted, list[str]]:
        """All of them or none: records, indexes and event, before any doorbell is rung.

        Returns the ids that count: those given, or those of the first answer to the same
        `idempotency_key` (a `Batch` where that was one). Raises a `SpawnRefused`, `NotFired`, or `StaleToken`
        for a parent that has lost its claim or is being stopped. Sent again (same ids) it changes nothing.
        """
        ids = [worker_id for worker_id, _ in workers]
        staged = len(workers) > STAGE
        if staged:
            await self._stage(workers)
        reply = await self.run(
            "accept",
            idempotency_key or "",
            millis(idempotency_ttl),
            int(require_node),
            millis(ring_again_after),
            _moment(deadline),
            _moment(not_before),
            ids[0] if staged else "",
            len(ids),
            *(("", "", 0, "") if batch is None else _batch(batch)),
            *(("", "") if parent is None else (parent.worker_id, parent.token)),
            *(("", 0) if batch is None else _background(batch.background)),
            "" if fire is None else fire.to_json(),
            *(() if staged else _flatten(workers)),
        )
        match reply:
            case ["accepted", when]:
                return Accepted(when), ids
            case ["known", first, of]:
                return Accepted.KNOWN, first_answer(first, of)
            case ["not_fired", reason]:
                raise NotFired(reason)
            case ["stale"]:
                raise StaleToken(
                    "this worker may not spawn any more: its claim is lost or it is being stopped"
                )
            case _:
                raise _refused(self.colony_id, reply)

    async def _stage(self, workers: Sequence[NewWorker]) -> None:
        batch = workers[0][0]
        for start in range(0, len(workers), STAGE):
            chunk = workers[start : start + STAGE]
            await self.run("stage", batch, millis(STAGE_TTL), start, *_flatten(chunk))

    async def claim(
        self, worker_id: str, *, node: str, token: str, version: str
    ) -> Claim | Refusal | str:
        """The right to run this worker now, or why not: a `Refusal` or the state it is in."""
        reply = await self.run("claim", worker_id, node, token, version)
        if reply[0] == "refused":
            reason = str(reply[1])
            return REFUSALS.get(reason, reason)
        _, raw, parts, now = reply
        record = to_record(self.colony_id, worker_id, pairs(raw))
        left, soft_left = _until(record.deadline, now), _until(record.soft_deadline, now)
        begin = record.created_at if record.not_before is None else record.not_before
        age = timedelta(milliseconds=int(now) - to_ms(begin))
        return Claim(record, load_parts(parts), token, left, soft_left, age)

    async def checkpoint(
        self, worker_id: str, token: str, step: Step, *, after: int
    ) -> ReportStatus | None:
        """Append a step to a conversation that is `after` parts long; written once, however often sent.

        Returns the status with which the worker has been told to stop, if it has. Raises `StaleToken`.
        """
        filed = step.filed
        reply = await self.run(
            "checkpoint",
            worker_id,
            token,
            after,
            step.requests,
            step.tokens,
            "" if step.cost_usd is None else repr(step.cost_usd),
            *(("", "", "", "") if filed is None else _filed(filed)),
            "1" if filed is not None and filed.provisional else "",
            len(step.parts),
            *dump_parts(step.parts),
            *(text for kind, data in step.events for text in (kind, to_json(data).decode())),
        )
        match reply:
            case ["ok"]:
                return None
            case ["stop", status]:
                return ReportStatus(status)
            case _:
                raise StaleToken(
                    f"worker {worker_id} is no longer run by this claim: its checkpoint was refused"
                )

    async def settle(self, worker_id: str, token: str, outcome: Filed) -> Settled:
        """End the worker with this report (or the one it filed before). Raises `StaleToken`.

        The caller joins the batch whose last missing member it was, and rings for those who found a
        place by it.
        """
        reply = await self.run("settle", worker_id, token, *_filed(outcome))
        if reply[0] == "stale":
            raise StaleToken(
                f"worker {worker_id} is no longer run by this claim: its report was refused"
            )
        return Settled(str(reply[1]), rings(reply[2]))

    async def park(
        self,
        worker_id: str,
        token: str,
        waits_for: timedelta | tuple[str, ...],
        *,
        ring_again_after: timedelta,
    ) -> Parked | ReportStatus:
        """Let it wait without a slot, for a time or until one of these batches is joined.

        Returns whom to ring for (itself, when one is joined already and it is PENDING again; those who
        found a place by it), or the status it must stop with instead. Raises `StaleToken`.
        """
        if isinstance(waits_for, timedelta):
            reason, until = "time", str(millis(waits_for))
        else:
            reason, until = "children", " ".join(waits_for)
        reply = await self.run("park", worker_id, token, reason, until, millis(ring_again_after))
        match reply:
            case ["parked", flat]:
                return Parked(rings(flat))
            case ["ready", flat]:
                return Parked(rings(flat), again=True)
            case ["told", status]:
                return ReportStatus(status)
            case _:
                raise StaleToken(
                    f"worker {worker_id} is no longer run by this claim: it was not parked"
                )

    async def join(self, batch_id: str, *, ring_again_after: timedelta) -> list[Ring]:
        """Join a batch if it has what it needs; any number may try, one does it. Returns the rings of
        the parent that it wakes, and of queued batches of that parent that may run now."""
        reply = await self.run("join", batch_id, millis(ring_again_after))
        return rings(reply[1]) if reply[0] == "joined" else []

    async def wake(self, worker_id: str, *, ring_again_after: timedelta) -> Ring | None:
        """Make a parked worker PENDING; the caller rings the doorbell that is returned."""
        woken = rings(await self.run("wake", worker_id, millis(ring_again_after)))
        return woken[0] if woken else None

    async def give_back(
        self, worker_id: str, token: str, why: str, *, counted: bool, ring_again_after: timedelta
    ) -> Ring | None:
        """Return a claim so that another can take it; the ring to be rung, or None when it has ended.
        `counted`: as a death, see max_resurrections."""
        reply = await self.run(
            "give_back", worker_id, token, why, int(counted), millis(ring_again_after)
        )
        return rings(reply[1])[0] if reply[0] == "pending" else None

    async def drop(self, worker_id: str) -> None:
        """Forget a worker from quarantine; one that is not there is as it was."""
        await self.run("drop", worker_id)

    async def stop(
        self, worker_id: str, *, status: ReportStatus, reason: str, grace: timedelta
    ) -> Stopped:
        """Stop one that waits at once; tell one that runs, and end it after `grace` (0: at once, too)."""
        return Stopped(await self.run("stop", worker_id, status.value, reason, millis(grace)))


def _until(moment: datetime | None, now_ms: str | int) -> timedelta | None:
    return None if moment is None else timedelta(milliseconds=to_ms(moment) - int(now_ms))


def rings(flat: Iterable[str]) -> list[Ring]:
    """A flat worker id, agent, batch, index, … reply as doorbells."""
    items = [iter(flat)] * 4
    return [Ring(w, a, b, int(i or 0)) for w, a, b, i in zip(*items, strict=True)]


def first_answer(ids: Iterable[str], batch: str) -> list[str]:
    """The ids of an answer as the store kept it; of a batch ("-": none) with the batch's own."""
    return list(ids) if batch == "-" else Batch(batch, ids)


def _batch(batch: NewBatch) -> tuple[str, str, int, str]:
    return batch.batch_id, batch.policy.value, batch.need, batch.on_complete


def _background(background: Background | None) -> tuple[int | str, int]:
    return ("", 0) if background is None else (background.most, int(background.queue))


def _filed(filed: Filed) -> tuple[str, str, str, str]:
    data = to_json(filed.data).decode()
    return filed.status.value, filed.summary, data, filed.error or ""


def _flatten(workers: Sequence[NewWorker]) -> Iterable[str | int]:
    for worker_id, fields in workers:
        yield worker_id
        yield 2 * len(fields)
        for name, value in fields.items():
            yield name
            yield value


def _moment(when: timedelta | datetime | None) -> str:
    if when is None:
        return ""
    return f"in:{millis(when)}" if isinstance(when, timedelta) else f"at:{to_ms(when)}"


def _refused(colony_id: str, reply: Sequence[str]) -> SpawnRefused:
    match reply:
        case ["unknown_colony"]:
            return UnknownColony(
                f"no node has ever served a colony named {colony_id!r} in this Redis: check the name, "
                "or start a node with: colony worker module:colony"
            )
        case ["paused"]:
            return IntakePaused(
                f"the intake of colony {colony_id!r} is paused: an operator opens it with: colony resume"
            )
        case ["no_nodes"]:
            return NoNodes(
                f"no node of colony {colony_id!r} is alive: start one with: colony worker module:colony "
                "(or queue the work anyway)"
            )
        case ["full", pending, most]:
            return FleetFull(
                f"colony {colony_id!r} has {pending} workers waiting, at most {most} may (max_pending): "
                "try again later, or add nodes"
            )
        case ["depth", most]:
            return TreeLimit(
                f"a worker at this depth may not spawn: a tree has at most {most} levels (max_depth)"
            )
        case ["descendants", have, most]:
            return TreeLimit(
                f"this tree has {have} descendants already, at most {most} are allowed (max_descendants)"
            )
        case ["background", have, most]:
            return TreeLimit(
                f"{have} units of background work are out, at most {most} may be (max_async_children): "
                "wait for one to end, or do it with run_parallel_workers"
            )
        case _:
            return SpawnRefused(
                f"the staged workers were lost before they were committed ({reply}): spawn again"
            )
