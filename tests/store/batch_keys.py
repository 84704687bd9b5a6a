"""The guard's part for batches and admission: they agree with the records of their workers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

GOOD = "COMPLETED"
TERMINAL = {GOOD, "FAILED", "STOPPED"}

Records = Mapping[str, Mapping[str, str]]


def check_batches(records: Records, whole: Mapping[str, Any]) -> None:
    """Fail when a batch, its members, a parent that waits for it, or a notice disagree."""
    batches = _of(whole, "batch")
    for batch_id, batch in batches.items():
        members = whole[f"members:{batch_id}"]
        assert len(members) == len(set(members)) == int(batch["size"])
        for worker_id in set(members) & set(records):
            record = records[worker_id]
            place = (record["batch"], members[int(record["index"])])
            assert place == (batch_id, worker_id)
        if batch["state"] == "OPEN":
            _check_open(batch_id, batch, records, whole)
        else:
            _check_joined(batch_id, batch, members, records, whole)
    for name in ("members", "arrived"):
        assert set(_of(whole, name)) <= set(batches), f"{name} of a batch that is gone"
    assert set(_of(whole, "children")) <= set(records), "children of a worker that is gone"
    assert set(whole.get("outbox", ())) == set(whole.get("notices", ()))
    assert set(whole.get("tried", ())) <= set(whole.get("notices", ()))
    for worker_id, record in records.items():
        assert record.get("batch", "") in {*batches, ""}, f"the batch of {worker_id} is gone"
        if record.get("waits_for") == "children":
            for batch_id in record["waits_batch"].split():
                waited = batches.get(batch_id, {})
                assert waited.get("state") == "OPEN", f"{worker_id} waits for {batch_id}: joined"
    _check_units(batches, records, whole)


def check_admission(records: Records, whole: Mapping[str, Any]) -> None:
    """Fail when somebody lines up who is not there, in no line or in two, in a line that nobody calls, or
    when the count of the active ones has drifted."""
    waiting, lines = whole.get("capacity", {}), _of(whole, "line")
    assert set(waiting) <= set(records)
    stand = Counter(worker_id for line in lines.values() for worker_id in line)
    assert stand == Counter(set(waiting)), f"{waiting} wait, and stand in {lines}"
    assert set(whole.get("lines", {})) == set(lines) - {"colony"}
    for cap, line in lines.items():
        for worker_id, turn in line.items():
            assert turn == waiting[worker_id]
            assert cap in ("colony", *_caps_over(records[worker_id]))
        if cap != "colony" and _has_room(cap, next(iter(line)), whole):
            called = [w for w in lines.get("colony", ()) if cap in _caps_over(records[w])]
            assert called, f"there is room under {cap}, and nobody of its line was called"
    active = [r for r in records.values() if r["state"] in ("PENDING", "RUNNING")]
    agents = [f"agent:{record['agent']}" for record in active]
    keys = [f"key:{record['ckey']}" for record in active if "ckey" in record]
    assert whole.get("active", {}) == {w: str(n) for w, n in Counter(agents + keys).items()}


def _caps_over(record: Mapping[str, str]) -> list[str]:
    named = (("agent", "agent"), ("key", "ckey"), ("trigger", "trigger"))
    return [f"{kind}:{record[field]}" for kind, field in named if field in record]


def _has_room(cap: str, worker_id: str, whole: Mapping[str, Any]) -> bool:
    kind, _, of = cap.partition(":")
    if kind == "trigger":
        trigger, busy = whole.get(f"trigger:{of}", {}), whole.get(f"busy:{of}", ())
        capped = trigger.get("policy") == "queue" and trigger["most"] != ""
        return not capped or worker_id in busy or len(busy) < int(trigger["most"])
    name = "key" if kind == "key" else cap
    most = whole["meta"].get(f"override:{name}", whole["meta"].get(f"cap:{name}", ""))
    return most == "" or int(whole.get("active", {}).get(cap, 0)) < int(most)


def _check_open(
    batch_id: str, batch: Mapping[str, str], records: Records, whole: Mapping[str, Any]
) -> None:
    members = whole[f"members:{batch_id}"]
    assert set(members) <= set(records), f"{batch_id} is open, and a member is forgotten"
    ended = {w for w in members if records[w]["state"] in TERMINAL}
    good = sum(records[w]["state"] == GOOD for w in members)
    assert set(whole.get(f"arrived:{batch_id}", ())) == ended
    assert int(batch["good"]) == good
    enough = len(ended) == len(members) or good >= int(batch["need"])
    assert (batch_id in whole.get("joins", ())) == enough
    assert f"rest:{batch_id}" not in whole.get("due", ())


def _check_joined(
    batch_id: str,
    batch: Mapping[str, str],
    members: list[str],
    records: Records,
    whole: Mapping[str, Any],
) -> None:
    statuses = json.loads(batch["statuses"])
    assert [worker_id for worker_id, _ in statuses] == members
    for worker_id, status in statuses:
        record = records.get(worker_id, {})
        said = record.get("status", record.get("filed_status", status))
        assert said == status, f"{batch_id} was joined with {worker_id} {status}, and it is {said}"
    counts = json.loads(batch["result"])["counts"]
    assert sum(counts.values()) == len(members)
    assert batch_id not in whole.get("joins", ())
    assert f"batch:{batch_id}" not in whole.get("due", ())


def _check_units(
    batches: Mapping[str, Mapping[str, str]], records: Records, whole: Mapping[str, Any]
) -> None:
    """What is in the background is open, each under its parent; one queues only while no place is free."""
    out = {
        (b["parent"], i) for i, b in batches.items() if "background" in b and b["state"] == "OPEN"
    }
    units = _of(whole, "units")
    assert {(by, batch_id) for by, of in units.items() for batch_id in of} == out
    assert set(units) <= set(records), "background work of a worker that is gone"
    for by, of in units.items():
        running = [batch_id for batch_id, queues_since in of.items() if queues_since == 0]
        most = int(batches[next(iter(of))]["background"])  # tests give each parent one capacity
        assert len(running) == most if len(running) < len(of) else len(running) <= most, (by, of)
        members = [w for batch_id in running for w in whole[f"members:{batch_id}"]]
        assert not [w for w in members if records[w].get("waits_for") == "siblings"]


def _of(whole: Mapping[str, Any], name: str) -> dict[str, Any]:
    start = name + ":"
    return {k.removeprefix(start): v for k, v in whole.items() if k.startswith(start)}
