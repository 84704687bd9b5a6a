"""Accept: all of them or none, once, and refused with a reason."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from colony.errors import FleetFull, IntakePaused, NoNodes, UnknownColony
from colony.models import WorkerState, from_ms
from colony.store import Accepted, Link, Store
from colony.store.triggers import Fire
from colony.store.workers import STAGE, NewWorker
from colony.testing import wait_until
from tests.store.fixtures import OpenColony
from tests.store.kit import (
    SOON,
    accepted,
    dump,
    events_of,
    join,
    new_colony_id,
    new_workers,
    now_ms,
    one,
    state,
)

MILLISECOND = timedelta(milliseconds=1)


async def test_accept_makes_claimable_workers_in_order(store: Store) -> None:
    """Workers are PENDING with all their fields, doorbells due later, and one event for them all."""
    ids = await accepted(store, 3)
    assert await store.ids_in(WorkerState.PENDING) == sorted(ids)
    record = await store.get(ids[0])
    assert record is not None
    assert (record.state, record.agent, record.version) == (WorkerState.PENDING, "agent", "1")
    assert (record.waits_for, record.epoch, record.attempts) == ("slot", 0, ())
    assert await events_of(store) == ["execution_accepted"]
    assert await store.ring_again(after=SOON, cap=10) == []


@pytest.mark.parametrize("count", [STAGE + 1, 3 * STAGE])
async def test_a_large_accept_is_staged_and_then_one_commit(
    store: Store, redis_url: str, count: int
) -> None:
    """More than one script's worth is accepted in order, with nothing left of the staging."""
    ids = await accepted(store, count)
    assert len(set(ids)) == count
    assert await store.ids_in(WorkerState.PENDING) == sorted(ids)
    whole = dump(redis_url, store)
    assert not [name for name in whole if name.startswith("staged:")]
    assert await store.link.call("PTTL", store.keys("worker", ids[-1])) == -1
    assert whole["meta"]["total:accepted"] == str(count)


async def test_a_time_beyond_the_calendar_hides_no_other_worker(store: Store) -> None:
    """A record that has such a deadline, of whoever wrote it, is read with the last there is; lists too."""
    days = timedelta(days=3_000_000)
    [other] = await accepted(store)
    [far] = await accepted(store, deadline=days, not_before=days)
    await store.link.call("HSET", store.keys("worker", far), "soft_ms", "1" * 30)
    record = await store.get(far)
    assert record is not None
    assert (record.deadline, record.not_before) == (from_ms("inf"), from_ms("inf"))
    assert record.soft_deadline == from_ms("inf")
    assert {r.worker_id for r in await store.newest(None, 10)} == {other, far}


async def _stage_only(store: Store, workers: list[NewWorker]) -> None:
    await store._stage(workers)


async def test_what_is_staged_and_not_committed_does_not_exist(store: Store) -> None:
    """A staged worker cannot be read, listed, waited for, stopped or claimed; it expires by itself."""
    workers = new_workers(2)
    await _stage_only(store, workers)
    worker_id = workers[0][0]
    await join(store)
    assert await store.get(worker_id) is None
    assert await store.newest(None, 10) == []
    assert await store.wait_for([worker_id], ttl=SOON) == [False]
    refused = await store.claim(worker_id, node="n1", token="t", version="1")
    assert refused == "unknown"
    # `check_keys` at the end of the test finds that both have a time to live.


async def test_a_stage_that_expired_in_part_is_lost_as_a_whole(store: Store) -> None:
    """Records whose time ran out before the commit are never committed as workers without a task."""
    workers = new_workers(STAGE + 1)
    await _stage_only(store, workers)
    await store.link.call("DEL", store.keys("worker", workers[0][0]))
    commit = ("", 1000, 0, 1000, "", "", workers[0][0], len(workers))
    assert await store.run("accept", *commit) == ["stage_lost"]
    assert await store.newest(None, 10) == []


async def test_a_late_duplicate_of_staging_leaves_workers_alone(
    store: Store, redis_url: str
) -> None:
    """The staging of a batch that was committed meanwhile changes nothing."""
    workers = new_workers(STAGE + 1)
    await store.accept(workers, ring_again_after=SOON)
    before = state(redis_url, store)
    await _stage_only(store, workers)
    assert state(redis_url, store) == before


@pytest.mark.parametrize("count", [1, STAGE + 1])
async def test_accept_is_all_or_nothing(
    open_colony: OpenColony, redis_url: str, count: int
) -> None:
    """One worker too many refuses all of them and leaves no record, event or index behind."""
    store = await open_colony(max_pending=count + 1)
    await accepted(store, 2)
    before = state(redis_url, store)
    with pytest.raises(FleetFull, match=f"2 workers waiting, at most {count + 1} may"):
        await accepted(store, count)
    after = state(redis_url, store)
    staged = [k for k in after if k not in before]
    assert {k: v for k, v in after.items() if k not in staged} == before
    for name in staged:
        assert await store.link.call("PTTL", store.keys.prefix + name) > 0
    assert await events_of(store) == ["execution_accepted"]


async def test_only_waiting_workers_count_against_max_pending(open_colony: OpenColony) -> None:
    """max_pending workers may wait; as soon as one ends, another is accepted."""
    store = await open_colony(max_pending=1)
    worker_id = await one(store)
    with pytest.raises(FleetFull):
        await one(store)
    assert await store.run("stop", worker_id, "stopped", "enough", 0) == "settled"
    await one(store)


async def test_twenty_callers_with_one_key_get_one_worker(store: Store, redis_url: str) -> None:
    """Scenario 33: concurrent spawns with one idempotency key are one worker and one answer."""
    links = [Link(redis_url, patience=SOON) for _ in range(20)]
    try:
        answers = await asyncio.gather(
            *(
                Store(link, store.colony_id).accept(
                    new_workers(), ring_again_after=SOON, idempotency_key="same"
                )
                for link in links
            )
        )
    finally:
        await asyncio.gather(*(link.close() for link in links))
    assert len({tuple(ids) for _, ids in answers}) == 1
    assert sorted(a.value for a, _ in answers) == ["known"] * 19 + ["now"]
    assert await store.ids_in(WorkerState.PENDING) == answers[0][1]


async def test_a_key_names_even_the_largest_answer(store: Store, redis_url: str) -> None:
    """The key of a spawn of 10,000 returns all its ids, in order."""
    patient = Store(Link(redis_url, patience=timedelta(minutes=1)), store.colony_id)
    first = await accepted(patient, 10_000, idempotency_key="large")
    await patient.link.close()
    verdict, again = await store.accept(
        new_workers(), ring_again_after=SOON, idempotency_key="large"
    )
    assert (verdict, again) == (Accepted.KNOWN, first)


async def test_a_key_is_forgotten_after_its_time(store: Store, redis_url: str) -> None:
    """Once idempotency_ttl has passed, the key names a new worker, and the old entry is gone."""
    first = await one(store, idempotency_key="k", idempotency_ttl=MILLISECOND)
    until = await now_ms(store) + 2
    await wait_until(lambda: _passed(store, until))
    second = await one(store, idempotency_key="k", idempotency_ttl=SOON)
    assert second != first
    assert len(dump(redis_url, store)["idem"]) == 1


async def _passed(store: Store, moment: float) -> bool:
    return await now_ms(store) > moment


async def test_the_oldest_keys_make_room(open_colony: OpenColony, redis_url: str) -> None:
    """At most idempotency_max_keys are kept; the one that was first goes first, though it lives longest."""
    store = await open_colony(idempotency_max_keys=2)
    ids = {}
    for n, key in enumerate("abc"):
        ttl = timedelta(minutes=9 - n)
        ids[key] = await one(store, idempotency_key=key, idempotency_ttl=ttl)
    assert set(dump(redis_url, store)["idem_ids"]) == {"b", "c"}
    assert await one(store, idempotency_key="c") == ids["c"]
    assert await one(store, idempotency_key="a") != ids["a"]


async def _webhook(store: Store, key: str, *, remember: timedelta = timedelta(days=1)) -> str:
    fire = Fire("hook", "webhook", remember_ms=int(remember.total_seconds() * 1000))
    return await one(store, idempotency_key=key, idempotency_ttl=SOON, fire=fire)


async def test_keys_that_are_remembered_for_long_cost_a_producer_none(
    open_colony: OpenColony, redis_url: str
) -> None:
    """Any number of webhooks, and a producer's key keeps its time; any number of those, and a webhook's."""
    store = await open_colony(idempotency_max_keys=2)
    await store.put_trigger("hook", "{}", kind="webhook", most=None, policy="skip")
    mine = await one(store, idempotency_key="mine")
    hooks = {str(n): await _webhook(store, str(n)) for n in range(4)}
    assert await one(store, idempotency_key="mine") == mine
    assert {k for k in dump(redis_url, store)["idem_ids"] if k != "mine"} == {"2", "3"}
    for n in range(4, 8):
        await one(store, idempotency_key=f"other {n}")
    assert await store.known("mine") == []
    assert await _webhook(store, "3") == hooks["3"]


async def test_a_key_of_a_trigger_is_forgotten_after_its_own_time(store: Store) -> None:
    """Not after that of the colony; its next answer may be of the other kind."""
    await store.put_trigger("hook", "{}", kind="webhook", most=None, policy="skip")
    first = await _webhook(store, "k", remember=timedelta(milliseconds=300))
    assert await store.known("k") == [first]
    await wait_until(lambda: _is_forgotten(store, "k"))
    second = await one(store, idempotency_key="k")
    assert await store.known("k") == [second]
    assert await store.link.call("ZCARD", store.keys("idem")) == 1


async def _is_forgotten(store: Store, key: str) -> bool:
    return await store.known(key) == []


async def test_a_refused_spawn_does_not_use_up_its_key(store: Store) -> None:
    """A key that came with a refused spawn names nothing: the next spawn with it is accepted."""
    await store.set_intake(paused=True)
    with pytest.raises(IntakePaused, match="colony resume"):
        await one(store, idempotency_key="k")
    await store.set_intake(paused=False)
    verdict, _ = await store.accept(new_workers(), ring_again_after=SOON, idempotency_key="k")
    assert verdict is Accepted.NOW


async def test_an_unknown_colony_is_refused_without_a_trace(redis_url: str) -> None:
    """Nobody can spawn into a colony that no node has ever served, and no key comes of trying."""
    link = Link(redis_url, patience=SOON)
    unknown = Store(link, new_colony_id())
    try:
        with pytest.raises(UnknownColony, match=unknown.colony_id):
            await accepted(unknown)
        assert dump(redis_url, unknown) == {}
    finally:
        await link.close()


async def test_require_node_wants_a_live_one(store: Store) -> None:
    """With require_node a spawn is refused while no lease is valid, and accepted when one is."""
    await join(store, lease=MILLISECOND)
    until = await now_ms(store) + 2
    await wait_until(lambda: _passed(store, until))
    with pytest.raises(NoNodes, match="start one"):
        await one(store, require_node=True)
    await join(store)
    await one(store, require_node=True)


async def test_not_before_parks_and_a_past_time_does_not(store: Store) -> None:
    """A worker for later waits for its time without a doorbell; one whose time has come is PENDING."""
    later, ids = await store.accept(
        new_workers(), ring_again_after=SOON, not_before=timedelta(hours=1)
    )
    now, _ = await store.accept(
        new_workers(), ring_again_after=SOON, not_before=timedelta(hours=-1)
    )
    assert (later, now) == (Accepted.LATER, Accepted.NOW)
    record = await store.get(ids[0])
    assert record is not None
    assert record.not_before is not None
    assert (record.state, record.waits_for) == (WorkerState.PARKED, "time")
    assert (record.not_before - record.created_at) == timedelta(hours=1)


async def test_ids_that_were_accepted_are_not_accepted_anew(store: Store, redis_url: str) -> None:
    """The same request after its worker has ended is answered and changes nothing."""
    workers = new_workers()
    await store.accept(workers, ring_again_after=SOON)
    await store.run("stop", workers[0][0], "stopped", "enough", 0)
    before = dump(redis_url, store)
    assert await store.accept(workers, ring_again_after=SOON) == (Accepted.NOW, [workers[0][0]])
    assert dump(redis_url, store) == before
