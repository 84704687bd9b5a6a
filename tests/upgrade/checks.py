"""What must hold after an upgrade: nothing lost, nothing twice, and it did happen under load."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import pairwise

from pydantic import JsonValue

from colony.models import FireRecord, WorkerRecord
from tests.fleet.helpers import assert_at_rest, assert_told_once, records
from tests.upgrade.definition import CALLS
from tests.upgrade.journey import NEW, OLD, Seen
from tests.upgrade.load import TIMER


async def check(seen: Seen) -> str:
    """What was found, in words. Raises `AssertionError`."""
    runtime, load = seen.fleet.runtime, seen.load
    fires = await runtime.get_fires(TIMER)
    ids = [*load.spawned.values(), *(fire.worker_id for fire in fires if fire.worker_id)]
    accepted = (await runtime.get_stats()).totals["accepted"]
    assert len(set(ids)) == len(ids) == accepted, "what was answered is what was accepted, once"
    workers = await records(runtime, ids)
    assert {(w.report and w.report.status, w.resurrections) for w in workers} == {("success", 0)}
    await assert_told_once(runtime, ids)
    heard = [event["worker_id"] for event in load.listener.events]
    assert sorted(heard) == sorted(ids), "the reader heard each report once"
    asked = seen.asked()
    assert {key: times for key, times in asked.items() if times > 1} == {}, "a call was repeated"
    assert len(asked) == CALLS * len(ids)
    _check_timer(fires[::-1])
    handed_over = [w for w in workers if len(w.attempts) > 1]
    assert handed_over, "no worker was under way when its node ended"
    releases = Counter(_release(worker) for worker in workers)
    assert set(releases) == {OLD, NEW}, releases
    assert min(releases.values()) > 1, releases
    for known in (seen.was_running, ids[0], list(load.spawned.values())[-1]):
        await seen.flower.until(known, state="SUCCESS")
    await assert_at_rest(seen.fleet.redis_url, seen.fleet.colony_id)
    slowest = max(took for _, took in load.took)
    return (
        f"{len(ids)} workers, {len(handed_over)} handed over, {len(asked)} model calls: none lost, none "
        f"twice; ended by the old release {releases[OLD]}, by the new {releases[NEW]}; {len(fires)} seconds "
        f"of the timer, none missing; slowest answer over HTTP {slowest:.1f} s, while there was no gateway"
    )


def _release(worker: WorkerRecord) -> JsonValue:
    """Which release made its last call."""
    assert worker.report is not None
    assert isinstance(worker.report.data, dict)
    return worker.report.data["release"]


def _check_timer(fires: list[FireRecord]) -> None:
    dues = [fire.due for fire in fires if fire.due is not None]
    steps = {after - due for due, after in pairwise(dues)}
    assert steps == {timedelta(seconds=1)}, f"the timer fires each second, found {steps}"
