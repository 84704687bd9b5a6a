"""The history of a run: what was asked and answered, what was told, what went wrong, on disk as it happens.

``history.jsonl`` has one entry a line, in the order in which they came about::

    {"at": seconds since the epoch, "kind": "call", "verb": "spawn", "of": request, …}
    {"kind": "answer", "of": request, …}          or "error": what came of it
    {"kind": "event", "id": …, "type": …, …}      every event, as followed
    {"kind": "fault", "what": …, …}               what was done to the fleet

`Evidence` is all that the checker looks at: the history, the files that models and tools wrote, the
witness's trace, and what was in the store when everything had ended.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from colony.store.keys import Keys
from tests.chaos.witness import TRACE, Found, Line
from tests.fleet.helpers import leaks, leftovers

Entry = dict[str, Any]


class History:
    """Appends entries to a file, each at once."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", buffering=1)

    def add(self, kind: str, **entry: Any) -> None:
        """One entry."""
        line = {"at": time.clock_gettime(time.CLOCK_REALTIME), "kind": kind, **entry}
        self._file.write(json.dumps(line, default=str) + "\n")

    def close(self) -> None:
        """No more is added."""
        self._file.close()


def read_lines(file: Path) -> list[Entry]:
    """The entries of a file of JSON lines, which may be missing."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@dataclass(frozen=True, slots=True)
class Store:
    """What is in the store at the end, raw: hashes as they are."""

    workers: Mapping[str, Mapping[str, str]]
    conversations: Mapping[str, Sequence[Mapping[str, Any]]]
    batches: Mapping[str, Mapping[str, str]]
    members: Mapping[str, Sequence[str]]
    meta: Mapping[str, str]
    active: Mapping[str, str]
    left: Sequence[str]
    """What a fleet at rest must not have, in words."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the checker looks at."""

    history: Sequence[Entry]
    calls: Sequence[Entry]
    effects: Sequence[Entry]
    trace: Sequence[Line]
    store: Store
    unaware: Mapping[int, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Process id → from when to when it could not know that its lease was over: it was frozen, or the
    lease was taken behind its back (seconds since the epoch)."""

    def of(self, kind: str) -> Iterator[Entry]:
        """The entries of a kind."""
        return (entry for entry in self.history if entry["kind"] == kind)

    @property
    def names(self) -> dict[str, str]:
        """Name of a task → worker. A name that two workers have is a breach of its own."""
        return {name_of(record): w for w, record in self.store.workers.items()}


def name_of(record: Mapping[str, str]) -> str:
    """The name in a worker's task."""
    return record["task"].split()[1]


def kind_of(record: Mapping[str, str]) -> str:
    """The kind in a worker's task."""
    return record["task"].split()[0]


def read_store(redis_url: str, colony_id: str, left: Sequence[str]) -> Store:
    """The store as it is now, and what was `left` over when all had ended."""
    keys = Keys(colony_id)
    with Redis.from_url(redis_url, decode_responses=True) as redis:

        def named(name: str) -> dict[str, str]:
            start = keys(name, "")
            return {
                key.removeprefix(start): key for key in redis.scan_iter(start + "*", count=1000)
            }

        workers = {w: redis.hgetall(key) for w, key in named("worker").items()}
        parts = {
            w: [json.loads(part) for part in redis.lrange(key, 0, -1)]
            for w, key in named("parts").items()
        }
        batches = {b: redis.hgetall(key) for b, key in named("batch").items()}
        members = {b: redis.lrange(key, 0, -1) for b, key in named("members").items()}
        meta, active = redis.hgetall(keys("meta")), redis.hgetall(keys("active"))
    return Store(workers, parts, batches, members, meta, active, left)


def left_over(redis_url: str, colony_id: str) -> list[str]:
    """What a fleet at rest must not have: messages, claims, slots, due items, keys of work under way."""
    counts = [f"{name}: {count}" for name, count in leftovers(redis_url, colony_id).items()]
    return counts + leaks(redis_url, colony_id)


def read_trace(redis_url: str) -> list[Line]:
    """The witness's notes, in the order in which Redis ran the scripts."""
    with Redis.from_url(redis_url, decode_responses=True) as redis:
        return [Line.read(text) for text in redis.lrange(TRACE, 0, -1)]


def save(evidence: Evidence, folder: Path) -> None:
    """Keep what is not in the folder of the run already."""
    lines = "".join(f"{json.dumps(asdict(line))}\n" for line in evidence.trace)
    (folder / "trace.jsonl").write_text(lines)
    (folder / "store.json").write_text(json.dumps(asdict(evidence.store)))
    (folder / "unaware.json").write_text(json.dumps(evidence.unaware))


def load(folder: Path) -> Evidence:
    """The evidence of a run, from its folder."""
    unaware = json.loads((folder / "unaware.json").read_text())
    return Evidence(
        history=read_lines(folder / "history.jsonl"),
        calls=read_lines(folder / "calls.jsonl"),
        effects=read_lines(folder / "effects.jsonl"),
        trace=[_line(entry) for entry in read_lines(folder / "trace.jsonl")],
        store=Store(**json.loads((folder / "store.json").read_text())),
        unaware={int(pid): windows for pid, windows in unaware.items()},
    )


def _line(entry: Entry) -> Line:
    found = {name: Found(**entry[name]) for name in ("before", "after")}
    return Line(**{**entry, **found, "arguments": tuple(entry["arguments"])})
