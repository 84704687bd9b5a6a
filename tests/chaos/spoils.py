"""What the evidence of a green run is spoilt with, so that one invariant each must notice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tests.chaos.history import Evidence, name_of

Spoil = Callable[[Evidence], Evidence]


def _store(evidence: Evidence, **changes: Any) -> Evidence:
    return replace(evidence, store=replace(evidence.store, **changes))


def _worker(evidence: Evidence, **fields: str) -> Evidence:
    worker, record = next(iter(evidence.store.workers.items()))
    return _store(evidence, workers={**evidence.store.workers, worker: {**record, **fields}})


def _a_worker_twice(evidence: Evidence) -> Evidence:
    record = next(iter(evidence.store.workers.values()))
    return _store(evidence, workers={**evidence.store.workers, "w-again": record})


def _a_batch(evidence: Evidence, **fields: str) -> Evidence:
    batches = evidence.store.batches
    batch = next(b for b, r in batches.items() if r["policy"] == "all" and int(r["size"]) > 1)
    return _store(evidence, batches={**batches, batch: {**batches[batch], **fields}})


def _members_reversed(evidence: Evidence) -> Evidence:
    members = {batch: list(reversed(ids)) for batch, ids in evidence.store.members.items()}
    return _store(evidence, members=members)


def _events(evidence: Evidence, change: Callable[[list[Any]], list[Any]]) -> Evidence:
    others = [entry for entry in evidence.history if entry["kind"] != "event"]
    return replace(evidence, history=[*others, *change(list(evidence.of("event")))])


def _report_again(evidence: Evidence) -> Evidence:
    again = next(e for e in evidence.of("event") if e["type"] == "subagent_report")
    return replace(evidence, history=[*evidence.history, again])


def _stale(evidence: Evidence) -> Evidence:
    trace = list(evidence.trace)
    at = next(i for i, line in enumerate(trace) if line.script == "checkpoint" and line.changed)
    trace[at] = replace(trace[at], token="of-a-claim-that-was-lost")
    return replace(evidence, trace=trace)


def _claimed_while_running(evidence: Evidence) -> Evidence:
    trace = list(evidence.trace)
    at = next(i for i, line in enumerate(trace) if line.script == "claim" and line.changed)
    trace[at] = replace(trace[at], before=replace(trace[at].before, state="RUNNING"))
    return replace(evidence, trace=trace)


def _counted_for_one_who_lives(evidence: Evidence) -> Evidence:
    attempt = {"epoch": 1, "node": "n", "started_at": 1, "ended_at": 2, "outcome": "node n died"}
    event = {"type": "node_exonerated", "data": {"node": "n"}, "redis_at": 1.0}
    spoilt = _worker(evidence, attempts=json.dumps(attempt), resurrections="1", spared="1")
    entry = {"at": 1.0, "kind": "event", "id": None, "worker_id": None, **event}
    return replace(spoilt, history=[*evidence.history, entry])


def _asked_again(evidence: Evidence) -> Evidence:
    worker = next(w for w, parts in evidence.store.conversations.items() if len(parts) > 2)
    call = {"task": name_of(evidence.store.workers[worker]), "answers": 0, "pid": 1, "at": 1e11}
    return replace(evidence, calls=[*evidence.calls, call])


def _result_twice(evidence: Evidence) -> Evidence:
    talks = evidence.store.conversations
    worker, result = next((w, p) for w, ps in talks.items() for p in ps if p["kind"] == "result")
    return _store(evidence, conversations={**talks, worker: [*talks[worker], result]})


def _no_joins(evidence: Evidence) -> Evidence:
    return replace(evidence, trace=[line for line in evidence.trace if line.script != "join"])


def _one_more_accepted(evidence: Evidence) -> Evidence:
    total = int(evidence.store.meta["total:accepted"]) + 1
    return _store(evidence, meta={**evidence.store.meta, "total:accepted": str(total)})


def _nobody_was_told(evidence: Evidence) -> Evidence:
    worker = next(iter(evidence.store.workers))
    entry = {"at": 1e11, "kind": "unanswered", "workers": [worker]}
    return replace(evidence, history=[*evidence.history, entry])


def _fired_for_another(evidence: Evidence, start: str) -> Evidence:
    """One of the workers whose names begin so, from the middle, was for something else."""
    workers = evidence.store.workers
    named = sorted((name_of(r), w) for w, r in workers.items() if name_of(r).startswith(start))
    worker = named[len(named) // 2][1]
    return _store(evidence, workers={**workers, worker: {**workers[worker], "task": "plain x.0"}})


def _never_delivered(evidence: Evidence) -> Evidence:
    lost = next(evidence.of("delivered"))["event"]
    return replace(evidence, history=[e for e in evidence.history if e.get("event") != lost])


SPOILS: Mapping[str, Spoil] = {
    "every_accepted_worker_ends": lambda e: _worker(e, state="PENDING"),
    "waiters_are_answered": _nobody_was_told,
    "each_request_is_accepted_once": _a_worker_twice,
    "one_report_each": _report_again,
    "no_stale_write": _stale,
    "one_owner_at_a_time": _claimed_while_running,
    "killers_are_quarantined": lambda e: _worker(e, task="killer r0.0", status="success"),
    "deaths_are_counted_exactly": _counted_for_one_who_lives,
    "no_answer_is_paid_twice": _asked_again,
    "conversations_are_whole": _result_twice,
    "no_effect_is_repeated": lambda e: replace(e, effects=[*e.effects, *e.effects]),
    "each_batch_is_joined_once": lambda e: _a_batch(e, state="OPEN"),
    "batches_are_in_input_order": _members_reversed,
    "batches_are_joined_when_all_are_in": lambda e: _a_batch(e, joined="0"),
    "parents_wake_after_their_last_child": _no_joins,
    "each_due_time_fires_once": lambda e: _fired_for_another(e, "t."),
    "each_event_fires_its_trigger_once": lambda e: _fired_for_another(e, "e."),
    "each_event_is_delivered": _never_delivered,
    "events_have_no_hidden_gap": lambda e: _events(e, lambda told: told[:10] + told[11:]),
    "counters_are_exact": _one_more_accepted,
    "nothing_is_leaked": lambda e: _store(e, left=["held: 1"]),
}
"""By the name of the invariant that must notice."""
