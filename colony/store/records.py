"""Between Redis' hashes of strings and the models of `colony.models`."""

from __future__ import annotations

import hashlib
import itertools
import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, JsonValue
from pydantic_core import from_json, to_json

from colony.models import (
    Attempt,
    BatchRecord,
    BatchResult,
    Limit,
    NodeInfo,
    Report,
    WorkerRecord,
    from_ms,
)

LABEL_CHARACTERS = 200
"""How much of a task stands in events and lists."""


_derived: ContextVar[Iterator[str] | None] = ContextVar("derived", default=None)


@contextmanager
def ids_from(source: str) -> Iterator[None]:
    """New ids derive from `source` in here: the same ones each time, in the order they are asked for."""
    digest = hashlib.sha256(f"ids\0{source}".encode(errors="surrogatepass")).hexdigest()[:20]
    token = _derived.set(f"{digest}{number:03x}" for number in itertools.count())
    try:
        yield
    finally:
        _derived.reset(token)


def _new_suffix() -> str:
    derived = _derived.get()
    if derived is not None:
        return next(derived)
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(5)}"


def new_worker_id() -> str:
    """A fresh id; ids sort by the time they were made (of this host's clock: a convenience only)."""
    return f"w{_new_suffix()}"


def new_batch_id() -> str:
    """A fresh id of a batch."""
    return f"b{_new_suffix()}"


def is_batch_id(some_id: str) -> bool:
    """Whether an id is one of a batch, by its first letter; others are of workers."""
    return some_id.startswith("b")


def derived_ids(parent_id: str, tool_call_id: str, count: int) -> tuple[str, list[str]]:
    """The ids of the batch that a tool call spawns, and of its workers: the same each time."""
    digest = hashlib.sha256(f"{parent_id}\0{tool_call_id}".encode()).hexdigest()[:20]
    return f"b{digest}", [f"w{digest}{index:03x}" for index in range(count)]


def derived_id(*of: str | int) -> str:
    """The id of the worker that follows from these: the same each time."""
    return "w" + hashlib.sha256("\0".join(map(str, of)).encode()).hexdigest()[:23]


def new_record(
    worker_id: str,
    task: str,
    *,
    data: Mapping[str, JsonValue],
    agent: str | None,
    correlation_id: str | None,
    stream_id: str | None,
    priority: int,
    soft_deadline: timedelta | None = None,
    concurrency_key: str | None = None,
    trigger_id: str | None = None,
    max_resurrections: int | None = None,
    cause: Sequence[str] = (),
    traceparent: str | None = None,
) -> dict[str, str]:
    """The fields of a worker as its producer knows them; the accepting script adds the rest."""
    fields = {
        "task": task,
        "label": task[:LABEL_CHARACTERS],
        "data": to_json(data).decode(),
        "stream": stream_id or f"worker:{worker_id}",
        "root": worker_id,
        "priority": str(priority),
    }
    if agent is not None:
        fields["agent"] = agent
    if concurrency_key is not None:
        fields["ckey"] = concurrency_key
    if trigger_id is not None:
        fields["trigger"] = trigger_id
    if max_resurrections is not None:
        fields["max_resurrections"] = str(max_resurrections)
    if cause:
        fields["cause"] = json.dumps(list(cause))
    if traceparent is not None:
        fields["traceparent"] = traceparent
    if soft_deadline is not None:
        fields["soft_ms"] = str(int(soft_deadline.total_seconds() * 1000))
    if correlation_id is not None:
        fields["correlation"] = correlation_id
    return fields


RECORD_FIELDS, ATTEMPT_FIELDS = set(WorkerRecord.model_fields), set(Attempt.model_fields)

M = TypeVar("M", bound=BaseModel)


def _sharing(model: M, fields: set[str]) -> M:
    """Each would have a set of its own of the names of its fields: kilobytes of each agent that waits."""
    object.__setattr__(model, "__pydantic_fields_set__", fields)
    return model


def to_record(colony_id: str, worker_id: str, raw: Mapping[str, str]) -> WorkerRecord:
    """A stored hash as a `WorkerRecord`."""
    report = raw.get("report")
    record = WorkerRecord.model_validate(
        {
            "worker_id": worker_id,
            "colony_id": colony_id,
            "state": raw["state"],
            "agent": raw["agent"],
            "task": raw["task"],
            "data": from_json(raw["data"]),
            "correlation_id": raw.get("correlation"),
            "stream_id": raw["stream"],
            "batch_id": raw.get("batch"),
            "batch_index": raw.get("index"),
            "parent_id": raw.get("parent"),
            "root_id": raw["root"],
            "trigger_id": raw.get("trigger"),
            "cause": from_json(raw.get("cause", "[]")),
            "traceparent": raw.get("traceparent"),
            "depth": raw.get("depth", 0),
            "priority": raw["priority"],
            "concurrency_key": raw.get("ckey"),
            "version": raw["version"],
            "created_at": _moment(raw, "created"),
            "since": _moment(raw, "since"),
            "started_at": _moment(raw, "started"),
            "ended_at": _moment(raw, "ended"),
            "not_before": _moment(raw, "not_before"),
            "deadline": _moment(raw, "deadline"),
            "soft_deadline": _soft_deadline(raw),
            "waits_for": raw.get("waits_for") or ("slot" if raw["state"] == "PENDING" else None),
            "stopping": raw.get("stop_status"),
            "overruled": raw.get("overruled"),
            "node": raw.get("node"),
            "epoch": raw.get("epoch", 0),
            "resurrections": raw.get("resurrections", 0),
            "max_resurrections": raw.get("max_resurrections"),
            "rings": raw.get("rings", 0),
            "rung_at": _moment(raw, "rung"),
            "requests": raw.get("requests", 0),
            "tokens_used": raw.get("tokens", 0),
            "cost_usd": raw.get("cost"),
            "attempts": _attempts(raw.get("attempts", "")),
            "report": None if report is None else Report.model_validate_json(report),
        }
    )
    return _sharing(record, RECORD_FIELDS)


def to_batch(
    batch_id: str, raw: Mapping[str, str], members: Sequence[str], arrived: int
) -> BatchRecord:
    """A stored batch as a `BatchRecord`."""
    result = None
    if "result" in raw:
        statuses = dict(from_json(raw["statuses"]))
        order = [{"worker_id": w, "status": statuses[w]} for w in members]
        need = min(int(raw["need"]), len(members))
        told = {"need": need, **from_json(raw["result"]), "members": order}
        result = BatchResult.model_validate(told)
    return BatchRecord(
        batch_id=batch_id,
        state=raw["state"],
        size=int(raw["size"]),
        arrived=arrived if result is None else sum(result.counts.values()),
        policy=raw["policy"],
        need=int(raw["need"]),
        parent_id=raw["parent"] or None,
        created_at=from_ms(raw["created"]),
        deadline=_moment(raw, "deadline"),
        result=result,
    )


CAPS = {"max_concurrent_workers": "colony", "max_concurrent_per_key": "key"}
"""The names of caps for people, and in the store; an agent's is ``agent:<name>`` in both."""


def limits_of(face: Mapping[str, str]) -> list[Limit]:
    """The caps in a colony's face: the definition's, and those that were set while it runs."""
    defined = {k.removeprefix("cap:"): v for k, v in face.items() if k.startswith("cap:")}
    names = {stored: name for name, stored in CAPS.items()}
    return [
        Limit(
            name=names.get(cap, cap),
            defined=_cap(value),
            most=_cap(face.get(f"override:{cap}", value)),
        )
        for cap, value in sorted(defined.items(), key=lambda item: (item[0] not in names, item))
    ]


def _cap(text: str) -> int | None:
    return int(text) if text else None


def to_node(node: str, raw: Mapping[str, str], lease_seconds: float, running: int) -> NodeInfo:
    """A node's own description, with what the store knows of it."""
    return NodeInfo.model_validate(
        {
            **raw,
            "draining": "draining" in raw,
            "node": node,
            "started_at": _moment(raw, "started_at"),
            "lease_seconds": lease_seconds,
            "running": running,
        }
    )


def _moment(raw: Mapping[str, str], field: str) -> datetime | None:
    value = raw.get(field)
    return None if value is None else from_ms(value)


def _soft_deadline(raw: Mapping[str, str]) -> datetime | None:
    """Counted from the acceptance, by Redis' clock."""
    after = raw.get("soft_ms")
    return None if after is None else from_ms(int(raw["created"]) + int(after))


def _attempts(lines: str) -> tuple[Attempt, ...]:
    """Each claim wrote a line, the end of each attempt another with the same epoch."""
    by_epoch: dict[int, dict[str, Any]] = {}
    for line in lines.splitlines():
        entry = from_json(line)
        by_epoch.setdefault(entry["epoch"], {}).update(entry)
    return tuple(
        _sharing(
            Attempt(
                epoch=entry["epoch"],
                node=entry["node"],
                started_at=from_ms(entry["started_at"]),
                ended_at=from_ms(entry["ended_at"]) if "ended_at" in entry else None,
                outcome=entry.get("outcome"),
            ),
            ATTEMPT_FIELDS,
        )
        for entry in by_epoch.values()
        if "node" in entry  # else its beginning was too long ago
    )
