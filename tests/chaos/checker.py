"""The invariants: pure functions of the evidence, one promise each; what they return are its breaches.

They know what Colony promises and nothing of how it keeps it. `check` asks all of them.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise, product
from typing import Any

from colony.models import EventType
from tests.chaos.definition import TOKENS
from tests.chaos.history import Entry, Evidence, kind_of, name_of
from tests.chaos.standing import FOLLOWED
from tests.chaos.witness import Line

TERMINAL = {"COMPLETED", "FAILED", "STOPPED"}
STATUS_TOTALS = ("success", "partial", "failed", "timeout", "stopped")
DIED = (" died", " was lost")
"""How the attempts end that count: with the node, or in it."""
SPARED_MOST = 10
Invariant = Callable[[Evidence], Iterable[str]]


def check(evidence: Evidence) -> dict[str, list[str]]:
    """The breaches of each invariant that does not hold; empty when all hold."""
    found = {invariant.__name__: list(invariant(evidence)) for invariant in INVARIANTS}
    return {name: breaches for name, breaches in found.items() if breaches}


# -- workers ---------------------------------------------------------------------------------


def every_accepted_worker_ends(evidence: Evidence) -> Iterator[str]:
    """Whom a producer was told to be accepted, and whom the store knows, is in a terminal state."""
    workers = evidence.store.workers
    for entry in evidence.of("answer"):
        for worker in entry.get("workers", ()):
            if worker not in workers:
                yield f"{worker} was accepted and is gone"
    for worker, record in workers.items():
        if record["state"] not in TERMINAL:
            yield f"{worker} ({record['task']}) is {record['state']}: {_why(record)}"


def waiters_are_answered(evidence: Evidence) -> Iterator[str]:
    """Who waited for a worker was given its report, once it had ended."""
    for entry in evidence.of("unanswered"):
        for worker in entry["workers"]:
            record = evidence.store.workers.get(worker)
            if record is not None and record["state"] in TERMINAL:
                ago = entry["at"] - int(record["ended"]) / 1000
                yield f"{worker} ended {ago:.1f} s before its waiter gave up"


def each_request_is_accepted_once(evidence: Evidence) -> Iterator[str]:
    """No task was accepted twice, however often its spawn was tried; each that is there was asked for."""
    names = Counter(name_of(record) for record in evidence.store.workers.values())
    yield from (
        f"{count} workers have the task {name}" for name, count in names.items() if count > 1
    )
    asked = {name for entry in evidence.of("call") for name in entry.get("names", ())}
    yield from (
        f"nobody asked for {name}" for name in names if "." not in name and name not in asked
    )


def one_report_each(evidence: Evidence) -> Iterator[str]:
    """Each worker that ended was told of once, with the report that is kept; every waiter got the same."""
    told = Counter(e["worker_id"] for e in evidence.of("event") if e["type"] == "subagent_report")
    gaps = any(e["type"] == EventType.GAP for e in evidence.of("event"))
    for worker, record in evidence.store.workers.items():
        if record["state"] in TERMINAL:
            if "report" not in record:
                yield f"{worker} is {record['state']} and has no report"
            if told[worker] != 1 and not (gaps and told[worker] == 0):
                yield f"{worker} was reported {told[worker]} times"
    for entry in evidence.of("answer"):
        for worker, status in entry.get("reports", {}).items():
            kept = evidence.store.workers.get(worker, {}).get("status")
            if kept != status:
                yield f"a waiter was told that {worker} ended with {status}, kept is {kept}"


def no_stale_write(evidence: Evidence) -> Iterator[str]:
    """Whatever changed a worker under a token found it RUNNING under that very token."""
    for line in evidence.trace:
        if line.script in ("claim", "join") or not line.changed:
            continue
        if line.before.state != "RUNNING" or line.before.token != line.token:
            yield (
                f"{line.script} of {line.of} with token {line.token} changed it while it was "
                f"{line.before.state} with token {line.before.token or 'none'}"
            )


def one_owner_at_a_time(evidence: Evidence) -> Iterator[str]:
    """A claim found its worker PENDING and counted its epoch up by one; attempts follow each other."""
    for line in evidence.trace:
        claimed = line.script == "claim" and line.changed and line.verdict == "claimed"
        next_epoch = line.before.epoch + 1
        if claimed and (line.before.state, line.after.epoch) != ("PENDING", next_epoch):
            yield f"a claim of {line.of} went from {line.before} to {line.after}"
    for worker, record in evidence.store.workers.items():
        lines = [json.loads(text) for text in record.get("attempts", "").splitlines()]
        begun = [line["epoch"] for line in lines if "node" in line]
        if begun != list(range(1, len(begun) + 1)) or int(record.get("epoch", 0)) != len(begun):
            yield f"{worker}: attempts {begun} of epoch {record.get('epoch')}"
        if list(dict.fromkeys((li["epoch"], "node" in li) for li in lines)) != [
            (epoch, begins) for epoch in begun for begins in (True, False)
        ]:
            yield f"{worker}: attempts overlap or do not end: {record.get('attempts')}"


def killers_are_quarantined(evidence: Evidence) -> Iterator[str]:
    """A worker that kills its node each time is settled as lost, unless it was stopped before."""
    for worker, record in evidence.store.workers.items():
        if kind_of(record) == "killer" and record.get("status") not in ("failed", "stopped"):
            yield f"{worker} kills its nodes and ended with {record.get('status')}"


def deaths_are_counted_exactly(evidence: Evidence) -> Iterator[str]:
    """A worker is counted for the attempts that died, and for no others; with a node that was exonerated
    none had died, since it had joined, that went on after it."""
    lives = _lives_of_the_exonerated(evidence)
    for worker, record in evidence.store.workers.items():
        died = [a for a in _attempts(record) if str(a.get("outcome")).endswith(DIED)]
        if len(died) != (counted := int(record.get("resurrections", 0))):
            yield f"{worker}: {len(died)} attempts died, {counted} are counted"
        if int(record.get("spared", 0)) > SPARED_MOST:
            continue
        for (node, joined, exonerated), attempt in product(lives, died):
            lost_then = attempt["node"] == node and joined < attempt["ended_at"] < exonerated
            if lost_then and int(record.get("ended", 0)) > exonerated:
                yield f"{worker} died with {node}, which was only cut off"


# -- what was paid for -------------------------------------------------------------------------


def no_answer_is_paid_twice(evidence: Evidence) -> Iterator[str]:
    """Once the answer to a question is in the conversation, that question is not asked again, but by a
    process that could not know that it had lost its claim."""
    written = _answers_written(evidence)
    names = evidence.names
    for call in evidence.calls:
        worker = names.get(call["task"])
        since = written.get((worker, call["answers"] + 1)) if worker else None
        if since is None or call["at"] <= since or _unaware(evidence, call):
            continue
        yield (
            f"{worker} ({call['task']}): answer {call['answers'] + 1} was asked for by process "
            f"{call['pid']} {call['at'] - since:.3f} s after it was written"
        )


def conversations_are_whole(evidence: Evidence) -> Iterator[str]:
    """Every call has one result at most, in a conversation of one answer a turn; its price is exact."""
    for worker, parts in evidence.store.conversations.items():
        results = Counter(p["part"]["tool_call_id"] for p in parts if p["kind"] == "result")
        yield from (f"{worker}: {n} results of {call}" for call, n in results.items() if n > 1)
        calls = Counter(call for p in parts if p["kind"] == "answer" for call in _called(p))
        yield from (
            f"{worker}: call {call} is there {n} times" for call, n in calls.items() if n > 1
        )
        answers = sum(part["kind"] == "answer" for part in parts)
        paid = int(evidence.store.workers[worker].get("tokens", 0))
        if paid != answers * sum(TOKENS):
            yield f"{worker}: {answers} answers, and {paid} tokens counted"


def no_effect_is_repeated(evidence: Evidence) -> Iterator[str]:
    """A tool that does not say that it may be repeated has run once at most for each call."""
    done = Counter(entry["key"] for entry in evidence.effects)
    yield from (f"the effect {key} was done {n} times" for key, n in done.items() if n > 1)


# -- batches and trees -------------------------------------------------------------------------


def each_batch_is_joined_once(evidence: Evidence) -> Iterator[str]:
    """Every batch is joined, by one join; it is told of once."""
    told = Counter(
        e["data"].get("batch_id") for e in evidence.of("event") if e["type"] == "batch_completed"
    )
    joined = Counter(line.of for line in _joins(evidence))
    for batch, record in evidence.store.batches.items():
        if record.get("state") != "JOINED":
            yield f"batch {batch} is {record.get('state')}: it was never joined"
        elif joined[batch] != 1:
            yield f"batch {batch} was joined {joined[batch]} times"
        elif told[batch] != 1:
            yield f"the join of batch {batch} was told {told[batch]} times"


def batches_are_in_input_order(evidence: Evidence) -> Iterator[str]:
    """The members of a batch, and of its result, are in the order in which they were asked for."""
    names = evidence.names
    for entry in evidence.of("answer"):
        if "batch" in entry:
            expected = [names.get(name) for name in entry["names"]]
            if list(evidence.store.members.get(entry["batch"], ())) != expected:
                yield f"batch {entry['batch']} is not in the order of its tasks"
    for batch, record in evidence.store.batches.items():
        members = list(evidence.store.members[batch])
        indexes = [int(evidence.store.workers[worker]["index"]) for worker in members]
        if indexes != list(range(len(members))):
            yield f"batch {batch}: indexes {indexes}"
        if "statuses" in record and [w for w, _ in json.loads(record["statuses"])] != members:
            yield f"batch {batch}: its result is not in the order of its members"
        if record.get("parent"):
            last = [int(name_of(evidence.store.workers[w]).rpartition(".")[2]) for w in members]
            if last != list(range(len(members))):
                yield f"batch {batch} of {record['parent']} is not in the order of its tasks"


def batches_are_joined_when_all_are_in(evidence: Evidence) -> Iterator[str]:
    """A batch that waits for all is joined after the last of them has ended; each says how each ended."""
    for batch, record in evidence.store.batches.items():
        if record.get("state") != "JOINED":
            continue
        for worker, status in json.loads(record["statuses"]):
            member = evidence.store.workers[worker]
            waits_for_all = record["policy"] == "all"
            if waits_for_all and int(member.get("ended", 1 << 60)) > int(record["joined"]):
                yield f"batch {batch} was joined before {worker} had ended"
            if member.get("status") != status:
                yield f"batch {batch} says {worker} ended {status}, it ended {member.get('status')}"


def parents_wake_after_their_last_child(evidence: Evidence) -> Iterator[str]:
    """A parent that parked for its children is claimed again only after one of the batches it waits for
    was joined, and it is claimed then, or ends otherwise."""
    waits: dict[str, set[str]] = {}
    joined: set[str] = set()
    for line in evidence.trace:
        if line.script == "join" and line.verdict == "joined":
            joined.add(line.of)
        elif line.script == "park" and line.changed and line.arguments[1] == "children":
            waits[line.of] = set(line.arguments[2].split())
        elif line.script == "claim" and line.verdict == "claimed" and line.of in waits:
            woken_early = not waits.pop(line.of) & joined
            yield from [f"{line.of} was woken before any of its batches was joined"] * woken_early
    for worker in waits:
        record = evidence.store.workers[worker]
        # Either may be the other way of ending: a stop overruled what it had filed; or its batch did not need
        # it, which overruled the report that it filed before it parked.
        if not {record.get("status"), record.get("overruled")} & {"stopped", "timeout"}:
            yield f"{worker} parked for its children and was not woken"


# -- what goes on by itself --------------------------------------------------------------------


def each_due_time_fires_once(evidence: Evidence) -> Iterator[str]:
    """The timer fired for every second from its first to its last, each once."""
    due = sorted(datetime.fromisoformat(name[2:]) for name in _named(evidence, "t."))
    if not due and any(evidence.of("standing")):
        yield "the timer never fired"
    for one, following in pairwise(due):
        if (following - one).total_seconds() != 1:
            yield f"after {one:%X} the timer fired for {following:%X}"


def each_event_fires_its_trigger_once(evidence: Evidence) -> Iterator[str]:
    """For every batch that was told to be joined the trigger has spawned one worker, and no others."""
    if any(evidence.of("standing")):
        fired = Counter(name[2:] for name in _named(evidence, "e."))
        told = {e["id"] for e in evidence.of("event") if e["type"] == FOLLOWED}
        yield from (f"event {event} fired nothing" for event in told - fired.keys())
        yield from (f"{event}, of which nobody was told, fired" for event in fired.keys() - told)
        yield from (f"event {event} fired {n} times" for event, n in fired.items() if n > 1)


def each_event_is_delivered(evidence: Evidence) -> Iterator[str]:
    """Every batch that was told to be joined was told by webhook, each time under the same id."""
    if any(entry["subscribed"] for entry in evidence.of("standing")):
        told = {e["id"] for e in evidence.of("event") if e["type"] == FOLLOWED}
        webhooks: dict[str, set[str]] = {}
        for entry in evidence.of("delivered"):
            webhooks.setdefault(entry["event"], set()).add(entry["webhook"])
        yield from (f"event {event} was not delivered" for event in told - webhooks.keys())
        for event, ids in webhooks.items():
            if len(ids) > 1:
                yield f"event {event} was delivered under the ids {sorted(ids)}"


# -- the fleet -------------------------------------------------------------------------------


def events_have_no_hidden_gap(evidence: Evidence) -> Iterator[str]:
    """A follower gets every event once, in order; what it cannot get is announced with its number."""
    generation, sequence, missed = 0, 0, 0
    for event in evidence.of("event"):
        if event["type"] == EventType.GAP:
            missed += int(event["data"]["missed"])
        if event["id"] is None:
            continue
        now = tuple(int(part) for part in event["id"].split("-"))
        if now[0] < generation or now[1] != sequence + missed + 1:
            yield f"event {event['id']} follows {generation}-{sequence} ({missed} said to be missing)"
        (generation, sequence), missed = now, 0
    if (written := int(evidence.store.meta.get("events", 0))) != sequence:
        yield f"the last event that was told is {sequence}, the last one written {written}"


def counters_are_exact(evidence: Evidence) -> Iterator[str]:
    """The colony's totals are what the records say."""
    workers, batches = evidence.store.workers.values(), evidence.store.batches.values()
    statuses = Counter(record.get("status") for record in workers)
    lost = sum(json.loads(r.get("report", "{}")).get("error") == "lost" for r in workers)
    expected = {
        "accepted": len(workers),
        "joined": sum(batch.get("state") == "JOINED" for batch in batches),
        "lost": lost,
        **{status: statuses[status] for status in STATUS_TOTALS},
    }
    for name, count in expected.items():
        if int(evidence.store.meta.get(f"total:{name}", 0)) != count:
            yield f"total {name}: {evidence.store.meta.get(f'total:{name}', 0)}, the records say {count}"


def nothing_is_leaked(evidence: Evidence) -> Iterator[str]:
    """When everything has ended no key, claim, slot, message or due item is left."""
    yield from (f"left over: {what}" for what in evidence.store.left)
    yield from (f"{n} of {what} count as active" for what, n in evidence.store.active.items())


INVARIANTS: tuple[Invariant, ...] = (
    every_accepted_worker_ends,
    waiters_are_answered,
    each_request_is_accepted_once,
    one_report_each,
    no_stale_write,
    one_owner_at_a_time,
    killers_are_quarantined,
    deaths_are_counted_exactly,
    no_answer_is_paid_twice,
    conversations_are_whole,
    no_effect_is_repeated,
    each_batch_is_joined_once,
    batches_are_in_input_order,
    batches_are_joined_when_all_are_in,
    parents_wake_after_their_last_child,
    each_due_time_fires_once,
    each_event_fires_its_trigger_once,
    each_event_is_delivered,
    events_have_no_hidden_gap,
    counters_are_exact,
    nothing_is_leaked,
)


def _why(record: Mapping[str, str]) -> str:
    return (
        f"waits for {record.get('waits_for', 'a node')}, rung {record.get('rings', 0)} times again"
    )


def _attempts(record: Mapping[str, str]) -> list[dict[str, Any]]:
    """What is noted of each attempt, its lines taken together."""
    by_epoch: dict[int, dict[str, Any]] = defaultdict(dict)
    for line in record.get("attempts", "").splitlines():
        by_epoch[json.loads(line)["epoch"]] |= json.loads(line)
    return list(by_epoch.values())


def _lives_of_the_exonerated(evidence: Evidence) -> list[tuple[str, float, float]]:
    """Node, when it had joined last, when it was exonerated (Redis' ms). None where events are missing."""
    joined: dict[str, float] = {}
    lives = []
    for event in evidence.of("event"):
        if event["type"] == EventType.GAP:
            return []
        if event["type"] == EventType.NODE_JOINED:
            joined[event["data"]["node"]] = 1000 * event["redis_at"]
        elif event["type"] == EventType.NODE_EXONERATED:
            node = event["data"]["node"]
            lives.append((node, joined.get(node, 0.0), 1000 * event["redis_at"]))
    return lives


def _joins(evidence: Evidence) -> Iterator[Line]:
    return (li for li in evidence.trace if li.script == "join" and li.verdict == "joined")


def _named(evidence: Evidence, start: str) -> Iterator[str]:
    """The names of tasks, of each worker, that begin so."""
    names = map(name_of, evidence.store.workers.values())
    return (name for name in names if name.startswith(start))


def _called(part: Mapping[str, Any]) -> list[str]:
    said = part["message"]["parts"]
    return [p["tool_call_id"] for p in said if p["part_kind"] == "tool-call"]


def _answers_written(evidence: Evidence) -> dict[tuple[str, int], float]:
    """(Worker, which answer) → when it was written, in seconds since the epoch."""
    lengths: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for line in evidence.trace:
        if line.script == "checkpoint" and line.changed:
            lengths[line.of].append((line.after.length, line.at / 1000))
    written = {}
    for worker, parts in evidence.store.conversations.items():
        answers = 0
        for position, part in enumerate(parts, 1):
            if part["kind"] == "answer":
                answers += 1
                at = next((at for length, at in lengths[worker] if length >= position), None)
                if at is not None:
                    written[worker, answers] = at + 0.001  # Redis' milliseconds are cut off
    return written


def _unaware(evidence: Evidence, call: Entry) -> bool:
    windows = evidence.unaware.get(call["pid"], ())
    return any(begun < call["at"] < ended for begun, ended in windows)
