"""The queue only hints: what is not ours is set aside, what is lost is rung again, what comes twice
runs once; and what waits, waits for a reason and ends."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from colony import ReportStatus
from colony.doorbell import RUN_WORKER, Doorbells, celery_app
from colony.errors import IntakePaused
from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.store import Ring
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_at_rest, assert_told_once, records, statuses, wait_for_state

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

QUEUE = "colony.basic"
SLOTS = 6


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """One node with few slots."""
    async with Fleet("tests.definitions:basic", concurrency=SLOTS, sweep_interval="0.1") as fleet:
        yield fleet
        assert fleet.nodes[0].process.poll() is None, "the node did not survive its messages"


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


def plain_properties() -> dict[str, Any]:
    """What Celery says of how a message is delivered, for one whose body is text as it is."""
    return {
        "correlation_id": "x1",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
        "priority": 0,
        "body_encoding": None,
        "delivery_tag": "d1",
    }


def message(
    args: Any = ("w1",), *, task: Any = RUN_WORKER, kwargs: Any = None, **changes: Any
) -> bytes:
    """A doorbell as Celery sends it, with `changes` to its envelope."""
    body = json.dumps([args, kwargs or {}, {"chord": None}]).encode()
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": task, "id": "x1", "argsrepr": "", "kwargsrepr": ""},
        "properties": {**plain_properties(), "body_encoding": "base64"},
    }
    return json.dumps({**envelope, **changes}).encode()


def deep(levels: int) -> Any:
    """An object in an object in an object …"""
    return {"a": deep(levels - 1)} if levels else 1


BAD_MESSAGES = {
    "not JSON": (b"garbage {", "not JSON"),
    "empty": (b"", "not JSON"),
    "not UTF-8": (b"\x80\xff\xc0 neither text nor JSON", "not JSON"),
    "a number": (b"17", "not a kombu message"),
    "a list": (b"[1, 2]", "not a kombu message"),
    "an object of another shape": (b'{"worker": "w1"}', "not a kombu message"),
    "a type nobody knows": (b'{"__type__": "x", "__value__": 1}', "not read (ValueError"),
    "no UUID": (b'{"__type__": "uuid", "__value__": 1}', "not read ("),
    "too deep to be read": (b"[" * 100_000, "not read (RecursionError"),
    "deep": (message(headers={"task": "x", "a": deep(400)}), "unknown task 'x'"),
    "no delivery_info": (message(properties={"delivery_tag": "d2"}), "no delivery_info"),
    "unknown task": (message(task="shop.checkout"), "unknown task 'shop.checkout'"),
    "no Unicode": (
        message(task="shop.\ud800", body="bad \ud800", properties=plain_properties()),
        "undecodable body",
    ),
    "not a task": (message(headers={}), "not a Celery task message"),
    "two arguments": (message(["w1", "w2"]), "takes one worker id"),
    "no argument": (message([]), "takes one worker id"),
    "an argument by name": (message([], kwargs={"worker_id": "w1"}), "takes one worker id"),
    "a number for an id": (message([5]), "takes one worker id"),
    "a huge id": (message(["w" * 100_000]), "takes one worker id"),
    "an unknown id": (message(["w-nobody"]), "no worker has this id"),
    "an id with NUL and braces": (message(["w\x00{}\n"]), "no worker has this id"),
    "pickle": (message(**{"content-type": "application/x-python-serialize"}), "type pickle"),
    "body not base64": (message(body="!!! no base64"), "undecodable body"),
    "body not JSON": (message(body=base64.b64encode(b"{]").decode()), "undecodable body"),
    "body of another shape": (
        message(body=base64.b64encode(b'"text"').decode()),
        "invalid task message",
    ),
    "body a number": (message(body=base64.b64encode(b"5").decode()), "invalid task message"),
    "body too short": (message(body=base64.b64encode(b"[[]]").decode()), "invalid task message"),
    "task name a list": (message(task=["w1"]), "invalid task message"),
    "no task id": (message(headers={"task": RUN_WORKER}), "invalid task message"),
    "time limits of another shape": (
        message(headers={"task": RUN_WORKER, "id": "x1", "timelimit": 5}),
        "invalid task message",
    ),
    "args a number": (message(5), "invalid task message"),
    "kwargs a list": (message(["w1"], kwargs=["w1"]), "invalid task message"),
    "args no list": (message("w1x"), "invalid task message"),
}


@pytest.mark.parametrize("name", BAD_MESSAGES)
async def test_a_bad_message_is_set_aside_with_its_reason(
    running: Fleet, runtime: ColonyRuntime, name: str
) -> None:
    """A message that is not ours or malformed shows in list_rejected, and the next worker runs."""
    raw, reason = BAD_MESSAGES[name]
    before = len(await runtime.list_rejected(1000))
    with Redis.from_url(running.redis_url) as redis:
        redis.lpush(QUEUE, raw)

    async def set_aside() -> int:
        return len(await runtime.list_rejected(1000)) - before

    await wait_until(set_aside, 5, what=f"{name} is set aside")
    [worker] = await runtime.spawn("fetch")
    report = await runtime.wait_for_worker(worker, timeout=5)
    assert report is not None
    assert report.ok
    assert await set_aside() == 1
    [rejected, *_] = await runtime.list_rejected(1)
    assert reason in rejected.reason
    assert len(rejected.message) <= 2000


async def test_bad_messages_among_those_that_are_popped_together(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """While doorbells come, several are popped at a time: what nobody can read takes none with it."""
    [node] = running.nodes
    before = len(await runtime.list_rejected(1000))
    with Redis.from_url(running.redis_url) as redis:
        node.freeze()
        try:
            ids = await runtime.spawn("fetch", count=2 * len(BAD_MESSAGES))
            good = redis.lrange(QUEUE, 0, -1)
            redis.delete(QUEUE)
            for doorbell, (raw, _) in zip(good[::2], BAD_MESSAGES.values(), strict=False):
                redis.lpush(QUEUE, doorbell, raw)
            redis.lpush(QUEUE, *good[1::2])
            redis.config_resetstat()
        finally:
            node.thaw()
        reports = await runtime.wait_for_worker_reports(ids, timeout=15)
        assert statuses(reports) == {ReportStatus.SUCCESS: len(ids)}
        await assert_at_rest(running.redis_url, "basic")
        popped = redis.info("commandstats")

    async def all_set_aside() -> bool:
        return len(await runtime.list_rejected(1000)) - before == len(BAD_MESSAGES)

    await wait_until(all_set_aside, 5, what="all bad messages are set aside")
    assert sum(r.rings > 0 for r in await records(runtime, ids)) <= 1, (
        "what a frozen node had asked for"
    )
    assert popped["cmdstat_rpop"]["calls"] < len(ids), "they came one by one"
    await assert_told_once(runtime, ids)


async def test_a_doorbell_that_is_rung_ten_times_starts_one_run(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """Nine more doorbells for a worker, before and while it runs and after: one attempt, one report."""
    [worker] = await runtime.spawn("nap", not_before=timedelta(seconds=0.3))
    bells = Doorbells(celery_app("basic", runtime.settings), "basic", runtime.settings)
    rejected = len(await runtime.list_rejected(1000))
    ring = [Ring(worker, "agent")] * 3
    await asyncio.to_thread(bells.ring, ring)
    await wait_for_state(runtime, WorkerState.RUNNING, 1)
    await asyncio.to_thread(bells.ring, ring)
    report = await runtime.wait_for_worker(worker, timeout=5)
    await asyncio.to_thread(bells.ring, ring)
    await asyncio.to_thread(bells.close)
    [after] = await runtime.spawn("fetch")
    assert await runtime.wait_for_worker(after, timeout=5) is not None
    assert report is not None
    assert report.ok
    [record] = await records(runtime, [worker])
    assert (record.epoch, len(record.attempts)) == (1, 1)
    await assert_told_once(runtime, [worker])
    assert len(await runtime.list_rejected(1000)) == rejected


async def test_lost_doorbells_are_rung_again(running: Fleet, runtime: ColonyRuntime) -> None:
    """All doorbells of 20 workers are lost: a janitor rings again, and each reports once."""
    [node] = running.nodes
    with Redis.from_url(running.redis_url) as redis:
        node.freeze()
        try:
            ids = await runtime.spawn("fetch", count=20)
            lost = redis.llen(QUEUE)
            redis.delete(QUEUE)
        finally:
            node.thaw()
    assert lost >= 19, "a frozen node had asked for one message at most"
    reports = await runtime.wait_for_worker_reports(ids, timeout=15)
    assert statuses(reports) == {ReportStatus.SUCCESS: 20}
    assert sum(record.rings > 0 for record in await records(runtime, ids)) >= lost
    await assert_told_once(runtime, ids)


async def test_a_notice_that_cannot_be_sent_holds_up_nothing(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """One that nobody can read is among those that are due: the next one is sent, lost doorbells are rung
    again, it is told in the log, and the next try is later than the last."""
    [node] = running.nodes
    notices, outbox, tried = (f"colony:{{basic}}:{n}" for n in ("notices", "outbox", "tried"))
    good = json.dumps({"to": {"task": "shop.done", "queue": "shop"}, "result": {}})
    with Redis.from_url(running.redis_url) as redis:
        node.freeze()
        try:
            ids = await runtime.spawn("fetch", count=5)
            redis.delete(QUEUE)
            redis.hset(notices, mapping={"worker:a": "no notice", "worker:b": good})
            redis.zadd(outbox, {"worker:a": 1, "worker:b": 2})
        finally:
            node.thaw()
        try:
            reports = await runtime.wait_for_worker_reports(ids, timeout=15)
            assert statuses(reports) == {ReportStatus.SUCCESS: 5}
            await wait_until(lambda: redis.llen("shop") == 1, 5, what="the other notice is sent")
            assert redis.hkeys(notices) == [b"worker:a"]
            assert "a part of the round failed" in node.tail(1000)
        finally:
            redis.delete(notices, outbox, tried, "shop")


async def test_waiting_for_a_slot_is_not_a_lost_doorbell(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """While the queue is long, nobody is rung again."""
    rung = (await runtime.get_stats()).totals.get("rung_again", 0)
    ids = await runtime.spawn("nap", count=4 * SLOTS)
    assert statuses(await runtime.wait_for_worker_reports(ids, timeout=20)) == {
        ReportStatus.SUCCESS: 4 * SLOTS
    }
    assert (await runtime.get_stats()).totals.get("rung_again", 0) == rung


async def test_a_deadline_ends_waiting_and_running_workers(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """A deadline ends one that runs, one that waits for a slot and one that waits for its time."""
    blocking = await runtime.spawn("sleep", count=SLOTS - 1)
    [runs] = await runtime.spawn("sleep", deadline=timedelta(seconds=1))
    await wait_for_state(runtime, WorkerState.RUNNING, SLOTS)
    more = await runtime.spawn("sleep", count=1)  # takes the slot of `runs`
    [waits] = await runtime.spawn("fetch", deadline=timedelta(seconds=1))
    [parked] = await runtime.spawn(
        "fetch", not_before=timedelta(hours=1), deadline=timedelta(seconds=1)
    )
    reports = await runtime.wait_for_worker_reports([runs, waits, parked], timeout=8)
    assert [r.status for r in reports] == [ReportStatus.TIMEOUT] * 3
    assert [len(r.attempts) for r in await records(runtime, [runs, waits, parked])] == [1, 0, 0]
    assert (reports[0].duration_seconds >= 0.5, reports[1].duration_seconds) == (True, 0)
    await runtime.stop_all_workers()
    ended = await runtime.wait_for_worker_reports([*blocking, *more], timeout=5)
    assert statuses(ended) == {ReportStatus.STOPPED: SLOTS}
    await assert_told_once(runtime, [runs, waits, parked, *blocking, *more])
    await assert_at_rest(running.redis_url, "basic")


async def test_not_before_waits_without_a_slot(running: Fleet, runtime: ColonyRuntime) -> None:
    """Workers that are due later hold no slot, say what they wait for, and start in time."""
    ids = await runtime.spawn("fetch", count=3 * SLOTS, not_before=timedelta(seconds=1.5))
    early = await records(runtime, ids)
    assert {(r.state, r.waits_for) for r in early} == {(WorkerState.PARKED, "time")}
    [now] = await runtime.spawn("fetch")
    assert await runtime.wait_for_worker(now, timeout=1.4) is not None
    reports = await runtime.wait_for_worker_reports(ids, timeout=10)
    assert statuses(reports) == {ReportStatus.SUCCESS: 3 * SLOTS}
    for record in await records(runtime, ids):
        assert record.not_before is not None
        assert record.started_at is not None
        assert timedelta(0) <= record.started_at - record.not_before < timedelta(seconds=4)


async def test_one_idempotency_key_is_one_worker(running: Fleet, runtime: ColonyRuntime) -> None:
    """Scenario 33: five concurrent spawns with one key are one worker, five times the same id."""
    accepted = (await runtime.get_stats()).totals["accepted"]
    async with ColonyRuntime("basic", redis_url=running.redis_url) as another:
        producers = [runtime, another, runtime, another, runtime]
        spawned = await asyncio.gather(
            *(p.spawn("fetch", count=2, idempotency_key="tick 7") for p in producers)
        )
    assert len({tuple(ids) for ids in spawned}) == 1
    assert (await runtime.get_stats()).totals["accepted"] == accepted + 2
    reports = await runtime.wait_for_worker_reports(spawned[0], timeout=5)
    assert statuses(reports) == {ReportStatus.SUCCESS: 2}
    assert await runtime.spawn("fetch", count=2, idempotency_key="tick 7") == spawned[0]
    assert await runtime.spawn("fetch", idempotency_key="tick 8") != spawned[0][:1]


async def test_a_paused_intake_refuses_new_work_and_runs_on_what_it_has(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """While paused every spawn is refused and changes nothing; what was accepted before reports."""
    before = await runtime.spawn("nap", count=2 * SLOTS)
    await runtime.pause_intake()
    try:
        stats = await runtime.get_stats()
        assert stats.intake_paused
        with pytest.raises(IntakePaused, match="colony resume"):
            await runtime.spawn("fetch")
        with pytest.raises(IntakePaused):
            await runtime.spawn_batch(["fetch"] * 600)
        assert (await runtime.get_stats()).totals["accepted"] == stats.totals["accepted"]
        reports = await runtime.wait_for_worker_reports(before, timeout=10)
        assert statuses(reports) == {ReportStatus.SUCCESS: 2 * SLOTS}
    finally:
        await runtime.resume_intake()
    [after] = await runtime.spawn("fetch")
    assert await runtime.wait_for_worker(after, timeout=5) is not None
