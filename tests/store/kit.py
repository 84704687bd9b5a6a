"""What tests of the store share: a colony of their own, short cuts, and the keys laid open.

`check_keys` is the guard behind every test: each key is on the map of `colony.store.keys`, and
each index agrees with each worker's record.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from redis import Redis

from colony.conversation import Filed, Part, Step
from colony.models import TERMINAL, ReportStatus, WorkerState
from colony.store import Claim, Link, Store
from colony.store.records import new_record, new_worker_id
from colony.store.workers import NewWorker
from tests.store.batch_keys import check_admission, check_batches
from tests.store.delivery_keys import check_deliveries

VERSION = "1"
SOON = timedelta(seconds=2)
LEASE = timedelta(minutes=5)
NOW = timedelta(0)

HASHES = (
    "meta",
    "tokens",
    "idem_ids",
    "worker",
    "node",
    "held",
    "counted",
    "batch",
    "notices",
    "tried",
    "active",
)
LISTS = ("parts", "staged", "rejected", "members")
ZSETS = (
    "listed",
    "ended",
    "quarantine",
    "nodes",
    "doorbells",
    "due",
    "idem",
    "waited",
    "state",
    "joins",
    "outbox",
    "capacity",
    "lines",
    "line",
    "units",
)
TYPES = {
    **dict.fromkeys(HASHES, "hash"),
    **dict.fromkeys(LISTS, "list"),
    **dict.fromkeys(ZSETS, "zset"),
    "events": "stream",
    **dict.fromkeys(("permits", "drained"), "string"),
    **dict.fromkeys(("rates", "rate"), "zset"),
    "arrived": "set",
    "children": "set",
    **dict.fromkeys(("triggers", "trigger", "routes", "declared"), "hash"),
    **dict.fromkeys(("timers", "ringing"), "zset"),
    **dict.fromkeys(("watchers", "busy"), "set"),
    "fires": "list",
    **dict.fromkeys(("delivery", "subscription"), "hash"),
    **dict.fromkeys(("deliveries", "dead", "lanes", "lane", "sending", "subscriptions"), "zset"),
    "owed": "set",
}
"""The key map of `colony.store.keys`, said a second time: a new key must be known here, too."""
OF_ONE = {
    *("state", "worker", "parts", "node", "drained", "held", "counted", "staged"),
    *("batch", "members", "arrived", "children", "units", "permits", "rate"),
    *("trigger", "busy", "fires"),
    *("line", "delivery", "lane", "sending", "subscription", "owed"),
}
WAITS = ("time", "children", "capacity", "siblings")
NOISE = (
    *("total:", "events", "swept", "followed", "last_turn"),
    *("run_id", "hold_until", "restarted", "quiet_from", "last_registered"),
)
"""Fields of ``meta`` that count and keep time; no state of the colony."""

Dump = dict[str, Any]


def new_colony_id() -> str:
    """An id that no other test has."""
    return f"c{secrets.token_hex(6)}"


def new_workers(count: int = 1, *, task: str = "a task", **fields: str) -> list[NewWorker]:
    """Workers as their producer knows them."""
    made: list[NewWorker] = []
    for _ in range(count):
        worker_id = new_worker_id()
        record = new_record(
            worker_id,
            task,
            data={},
            agent=None,
            correlation_id=None,
            stream_id=None,
            priority=0,
        )
        made.append((worker_id, {**record, **fields}))
    return made


async def accepted(store: Store, count: int = 1, **options: Any) -> list[str]:
    """Accept that many workers; their ids."""
    options.setdefault("ring_again_after", SOON)
    _, ids = await store.accept(new_workers(count), **options)
    return ids


async def one(store: Store, **options: Any) -> str:
    """Accept one worker; its id."""
    [worker_id] = await accepted(store, **options)
    return worker_id


async def join(store: Store, node: str = "n1", *, lease: timedelta = LEASE) -> dict[str, str]:
    """Give a node its lease; what it holds."""
    held = await store.beat(node, lease=lease, about={"host": "h"}, join=True)
    assert held is not None
    return held


async def claim(store: Store, worker_id: str, *, node: str = "n1", token: str = "t1") -> Claim:
    """Claim; the node joins for it."""
    await join(store, node)
    got = await store.claim(worker_id, node=node, token=token, version=VERSION)
    assert isinstance(got, Claim), got
    return got


async def running(store: Store, *, node: str = "n1", token: str = "t1", **options: Any) -> str:
    """Accept and claim one worker; its id."""
    worker_id = await one(store, **options)
    await claim(store, worker_id, node=node, token=token)
    return worker_id


async def die(store: Store, node: str) -> None:
    """Let a node's lease run out, now."""
    await store.link.call("ZADD", store.keys("nodes"), 1, node)


def part(text: str = "x") -> Part:
    """A small part of a conversation."""
    return {"kind": "result", "tool_call_id": text}


def step(*texts: str, **options: Any) -> Step:
    """A checkpoint of small parts that cost one request and five tokens."""
    return Step([part(t) for t in texts], requests=1, tokens=5, cost_usd=0.5, **options)


def success(summary: str = "done", **data: Any) -> Filed:
    """A good end."""
    return Filed(ReportStatus.SUCCESS, summary, data)


async def now_ms(store: Store) -> float:
    """Redis' clock."""
    seconds, micros = await store.link.call("TIME")
    return int(seconds) * 1000 + int(micros) / 1000


async def told(store: Store) -> list[dict[str, Any]]:
    """The events in the log, in order."""
    entries = await store.link.call("XRANGE", store.keys("events"), "-", "+")
    return [json.loads(f["e"] if isinstance(f, dict) else f[1]) for _, f in entries]


async def events_of(store: Store, worker_id: str | None = None) -> list[str]:
    """The types of the events in the log, in order."""
    events = await told(store)
    return [e["type"] for e in events if worker_id is None or e["worker_id"] == worker_id]


# -- the keys laid open -----------------------------------------------------------------------


def dump(url: str, store: Store) -> Dump:
    """Every key of the colony with its whole content, by its name without the prefix."""
    prefix = store.keys.prefix
    with Redis.from_url(url, decode_responses=True) as client:
        names = sorted(client.scan_iter(prefix + "*", count=1000))
        pipeline = client.pipeline(transaction=False)
        for name in names:
            _ask(pipeline, name, name.removeprefix(prefix).partition(":")[0])
        contents = pipeline.execute(raise_on_error=False)
    whole = dict(zip((n.removeprefix(prefix) for n in names), contents, strict=True))
    return {n: dict(c) if TYPES.get(_kind(n)) == "zset" else c for n, c in whole.items()}


def state(url: str, store: Store) -> Dump:
    """The same without what may differ when nothing happened: counters, events, renewed times."""
    whole = dump(url, store)
    whole.pop("events", None)
    whole["meta"] = {k: v for k, v in whole["meta"].items() if not k.startswith(NOISE)}
    for renewed in ("nodes", "waited"):
        whole[renewed] = sorted(whole.get(renewed, {}))
    return whole


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _ask(pipeline: Any, name: str, kind: str) -> None:
    """Ask for the content as the key map has its type; a key of another type answers an error."""
    match TYPES.get(kind):
        case "hash":
            pipeline.hgetall(name)
        case "list":
            pipeline.lrange(name, 0, -1)
        case "set":
            pipeline.smembers(name)
        case "zset":
            pipeline.zrange(name, 0, -1, withscores=True)
        case "stream":
            pipeline.xrange(name)
        case "string":
            pipeline.get(name)
        case _:
            pipeline.type(name)


def check_keys(url: str, store: Store) -> None:
    """Fail when a key is not on the map, or an index and a record disagree."""
    whole = dump(url, store)
    with Redis.from_url(url) as client:
        for name in check_whole(whole):
            assert client.pttl(store.keys.prefix + name) > 0, f"{name} would stay for ever"


def check_whole(whole: Dump) -> list[str]:
    """The same for a dump; returns the keys that must have a time to live."""
    fleeting = []
    for name, content in whole.items():
        kind, _, of = name.partition(":")
        assert kind in TYPES, f"{name} is not on the key map"
        assert bool(of) == (kind in OF_ONE), f"{name} is not on the key map"
        assert not isinstance(content, Exception), f"{name} is no {TYPES[kind]}: {content}"
        if kind in ("staged", "drained", "counted") or (
            kind == "worker" and content.get("state") == "STAGED"
        ):
            fleeting.append(name)
    records = {w: r for w, r in _of(whole, "worker").items() if r.get("state") != "STAGED"}
    states = _of(whole, "state")
    for worker_id, record in records.items():
        _check_record(worker_id, record, states, whole)
    _check_indexes(records, whole)
    check_batches(records, whole)
    check_admission(records, whole)
    check_deliveries(whole)
    return fleeting


def _of(whole: Mapping[str, Any], name: str) -> dict[str, Any]:
    start = name + ":"
    return {k.removeprefix(start): v for k, v in whole.items() if k.startswith(start)}


def _check_record(
    worker_id: str, record: Mapping[str, str], states: Dump, whole: Mapping[str, Any]
) -> None:
    where = WorkerState(record["state"])
    found = [s for s, members in states.items() if worker_id in members]
    assert found == [where], f"{worker_id} is {where}, but listed in {found}"
    due = whole.get("due", {})
    facts = {
        "in doorbells": (worker_id in whole.get("doorbells", {}), where == "PENDING"),
        "has a token": ("token" in record, where == "RUNNING"),
        "has a node": ("node" in record, where == "RUNNING"),
        "wakes": (
            f"wake:{worker_id}" in due,
            record.get("waits_for") == "time"
            or (record.get("waits_for") == "children" and "soft_ms" in record),
        ),
        "waits": (record.get("waits_for") in WAITS, where == "PARKED"),
        "lines up": (worker_id in whole.get("capacity", {}), record.get("waits_for") == "capacity"),
        "in ended": (
            worker_id in whole.get("ended", {}),
            where in TERMINAL and worker_id not in whole.get("quarantine", {}),
        ),
        "has a report": ("report" in record, where in TERMINAL),
        "will be killed": (
            f"kill:{worker_id}" in due,
            where == "RUNNING" and "stop_status" in record,
        ),
        "has a deadline": (
            f"deadline:{worker_id}" in due,
            "deadline" in record and where not in TERMINAL and "stop_status" not in record,
        ),
    }
    for fact, (is_so, should_be) in facts.items():
        if fact == "has a deadline" and "stop_status" in record:
            continue  # told to stop, by its deadline or before it
        if fact == "wakes" and record.get("waits_for") == "children" and not is_so:
            continue  # its soft deadline has passed
        assert is_so == should_be, f"{worker_id} is {where}: {fact} is {is_so}"
    if where == "RUNNING":
        assert whole[f"held:{record['node']}"][worker_id] == record["token"]
    if where in TERMINAL:
        report = json.loads(record["report"])
        assert ReportStatus(report["status"]).state == where
        gone = {"stop_status", "waits_for", "waits_batch", "filed_data", "filed_provisional"}
        assert not gone & set(record)
    if worker_id in whole.get("quarantine", {}):
        assert json.loads(record["report"])["error"] == "lost"


def _check_indexes(records: Mapping[str, Mapping[str, str]], whole: Mapping[str, Any]) -> None:
    for where, members in _of(whole, "state").items():
        assert where in set(WorkerState), f"there is no state {where}"
        assert set(members) <= set(records), f"{where} lists workers without a record"
    assert set(whole.get("listed", {})) == set(records)
    assert set(whole.get("doorbells", {})) <= set(records)
    batches = _of(whole, "batch")
    for kind, _, of in (item.partition(":") for item in whole.get("due", {})):
        known = batches if kind in ("batch", "rest") else records
        assert of in known, f"{kind}:{of} is due, but {of} is gone"
    assert set(_of(whole, "parts")) <= set(records), "a conversation without its worker"
    for node, held in _of(whole, "held").items():
        assert node in whole.get("nodes", {}), f"{node} holds workers without a lease"
        for worker_id, token in held.items():
            assert records[worker_id].get("token") == token, f"{node} holds {worker_id} no more"
    assert set(_of(whole, "node")) == set(whole.get("nodes", {}))
    assert set(whole.get("idem", {})) == set(whole.get("idem_ids", {}))


async def open_store(url: str, colony_id: str, **face: str | int) -> Store:
    """A registered colony on a link of its own; `face` are its limits."""
    link = Link(url, patience=timedelta(seconds=1.5))
    store = Store(link, colony_id)
    await store.register({"version": VERSION, **face})
    return store
