"""Triggers in the store: fired once however many ring, held to their limits, counted exactly."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from colony import AgentSpec, Colony, ColonyRuntime
from colony.bell import Bell
from colony.definition import ColonyConfig
from colony.doorbell import Doorbells, celery_app
from colony.errors import (
    DefinitionError,
    InvalidTask,
    InvalidTrigger,
    StoreUnavailable,
    TriggerBusy,
    TriggerPaused,
    UnknownTrigger,
)
from colony.intake import Entrance
from colony.logs import Seldom
from colony.models import ReportStatus, TriggerInfo, WorkerState
from colony.settings import Settings
from colony.spawning import Spawner
from colony.store import Store
from colony.store.scripts import Script
from colony.store.triggers import DueTimer, Fire
from colony.tasks import Limits
from colony.testing import wait_until
from colony.testing_model import ScriptedModel
from colony.triggers import TriggerSpec
from colony.triggers import firing as firing_module
from colony.triggers import ringing as ringing_module
from colony.triggers.firing import Firing, Occasion
from colony.triggers.keeping import declare, put
from colony.triggers.ringing import PAGE, ring_timers
from colony.triggers.schedule import Plan, Schedule, plan
from tests.store.fixtures import OpenColony
from tests.store.kit import SOON, accepted, claim, success

GRACE = timedelta(seconds=2)
HOUR = 3_600_000


def firing_of(store: Store) -> Firing:
    """Fires without a definition."""
    settings = Settings(redis_url=store.link.url)
    doorbells = Doorbells(celery_app(store.colony_id, settings), store.colony_id, settings)
    entrance = Entrance(store, Limits(65_536, 262_144, frozenset()), ColonyConfig(), None)
    return Firing(Spawner(store, Bell(doorbells), SOON), entrance, GRACE)


def manual(trigger_id: str = "m", **fields: Any) -> TriggerSpec:
    given = {"id": trigger_id, "trigger_type": "manual", "task": "Do it.", **fields}
    return TriggerSpec.of(given)


def timer(
    trigger_id: str = "t", config: dict[str, Any] | None = None, **fields: Any
) -> TriggerSpec:
    times = {"interval": 3600, **(config or {})}
    given = {"id": trigger_id, "trigger_type": "timer", "trigger_config": times, "task": "Tick."}
    return TriggerSpec.of({**given, **fields})


async def call(store: Store, spec: TriggerSpec, **values: Any) -> str:
    """Fire it as a caller would."""
    return (await firing_of(store).fire(spec, Occasion("api", {"input": values}))).worker_id


async def late_by(store: Store, trigger_id: str, millis: int) -> None:
    """As if its next time had been so long ago."""
    due = await store.now_ms() - millis
    await store.set_timer(trigger_id, due=due, slot=due)


async def ring(store: Store) -> int:
    async def made() -> Firing:
        return firing_of(store)

    return await ring_timers(store, made, firing_of(store).spawner.bell)


async def info(store: Store, trigger_id: str) -> TriggerInfo:
    found = await store.trigger(trigger_id)
    assert found is not None
    return found


async def state_of(store: Store, worker_id: str) -> WorkerState:
    record = await store.get(worker_id)
    assert record is not None
    return record.state


async def settle(store: Store, worker_id: str) -> None:
    await claim(store, worker_id, token=worker_id)
    await store.settle(worker_id, worker_id, success())


async def test_a_worker_of_a_trigger_knows_where_it_comes_from(store: Store) -> None:
    """What came in is in its data under its own word and in its task; every field of the trigger holds."""
    spec = manual(
        task="See ${input.city}.",
        data={"fixed": 1},
        agent="scout",
        priority=5,
        deadline=60,
        soft_deadline=30,
        max_resurrections=0,
    )
    await put(store, spec)
    record = await store.get(await call(store, spec, city="Rome"))
    assert record is not None
    assert (record.task, record.agent, record.priority) == ("See Rome.", "scout", 5)
    assert record.data["fixed"] == 1
    assert record.data["input"] == {"city": "Rome"}
    assert record.data["trigger"] == {"id": "m", "type": "manual"}
    assert record.trigger_id == "m"
    assert record.cause == (f"{store.colony_id}/m",)
    assert record.deadline is not None
    assert record.soft_deadline is not None
    await claim(store, record.worker_id, token="t1")
    await store.give_back(record.worker_id, "t1", "died", counted=True, ring_again_after=SOON)
    assert await state_of(store, record.worker_id) is WorkerState.FAILED, "max_resurrections=0"


async def test_a_task_that_names_what_did_not_come_is_refused(store: Store) -> None:
    """Nothing is accepted, nothing is noted as fired."""
    spec = manual(task="See ${input.city}.")
    await put(store, spec)
    with pytest.raises(InvalidTask, match="city"):
        await call(store, spec)
    assert (await info(store, "m")).fired == 0


@pytest.mark.parametrize("task", ["Do it.", "See ${input.a}."])
@pytest.mark.parametrize(
    "value", [object(), datetime(2026, 1, 1, tzinfo=UTC), (1, 2), {1: 1}, float("nan"), b"x", {1}]
)
async def test_what_is_no_json_is_refused(store: Store, value: Any, task: str) -> None:
    """As by spawn: with an error of ours that names the field, whether the task names it or not."""
    spec = manual(task=task)
    await put(store, spec)
    with pytest.raises(InvalidTask, match=r"data|input\.a"):
        await call(store, spec, a=value)
    assert (await info(store, "m")).fired == 0
    async with ColonyRuntime(
        store.colony_id, settings=Settings(redis_url=store.link.url)
    ) as runtime:
        for odd in ([value], "text", 5):
            with pytest.raises(InvalidTask, match="input: expected an object"):
                await runtime.trigger("m", cast(Any, odd))


async def test_five_at_once_with_one_key_are_one_worker(store: Store) -> None:
    """Scenario 33: five times the same id; another trigger's same key is another."""
    first, second = manual("a"), manual("b")
    await put(store, first)
    await put(store, second)
    incoming = Occasion("api", {}, key="k")
    fired = await asyncio.gather(*(firing_of(store).fire(first, incoming) for _ in range(5)))
    assert len({each.worker_id for each in fired}) == 1
    assert sum(each.first for each in fired) == 1
    assert (await info(store, "a")).fired == 1
    assert (await firing_of(store).fire(second, incoming)).first


@pytest.mark.parametrize("ringers", [1, 10])
async def test_a_due_timer_fires_once_however_many_ring(store: Store, ringers: int) -> None:
    """Ten look at the same moment: one worker, and the timer set forward by one interval."""
    await put(store, timer())
    await late_by(store, "t", 100)
    before = (await info(store, "t")).next_due
    rung = await asyncio.gather(*(ring(store) for _ in range(ringers)))
    assert sum(rung) == 1
    after = await info(store, "t")
    assert (after.fired, after.missed) == (1, 0)
    assert before is not None
    assert after.next_due == before + timedelta(hours=1)


async def test_ringers_without_the_handout_fire_once_too(store: Store) -> None:
    """What a ringer was handed comes to another one as well: the script that accepts fires it once."""
    await put(store, timer())
    await late_by(store, "t", 100)
    now, [due] = await store.due_timers(10)
    await asyncio.gather(*(firing_of(store).fire_timer(due, now) for _ in range(10)))
    assert (await info(store, "t")).fired == 1
    assert len(await store.newest(None, 10)) == 1


async def test_a_time_that_was_fired_before_is_passed_over(store: Store) -> None:
    """The clock is set back behind a fire: it is not fired again, and the timer goes on."""
    await put(store, timer())
    due = await store.now_ms() - 100
    await store.set_timer("t", due=due, slot=due)
    assert await ring(store) == 1
    await store.set_timer("t", due=due, slot=due)
    await ring(store)
    found = await info(store, "t")
    assert (found.fired, len(await store.newest(None, 10))) == (1, 1)
    assert found.next_due is not None
    assert int(found.next_due.timestamp() * 1000) == due + HOUR
    newest, *_ = await store.fires("t", 10)
    assert newest.outcome.startswith("skipped")


async def test_nothing_fires_early_whatever_the_ringers_clock_says(store: Store) -> None:
    """A ringer that believes to be an hour ahead fires nothing."""
    await put(store, timer())
    due = (await info(store, "t")).next_due
    assert due is not None
    at = int(due.timestamp() * 1000)
    assert await ring(store) == 0
    believed = await store.now_ms() + HOUR
    handed = DueTimer("t", await store.trigger_spec("t") or "", at, at)
    assert await firing_of(store).fire_timer(handed, believed + 1) == []
    assert (await info(store, "t")).fired == 0


@pytest.mark.parametrize(
    ("misfire", "workers", "missed"), [("latest", 1, 5), ("all", 6, 0), ("skip", 0, 6)]
)
async def test_what_was_missed(store: Store, misfire: str, workers: int, missed: int) -> None:
    """Scenario 34: nobody rang for five hours and a half; the policy decides, the count is exact."""
    await put(store, timer(config={"misfire": misfire}))
    await late_by(store, "t", 5 * HOUR + HOUR // 2)
    assert await ring(store) == 1
    found = await info(store, "t")
    assert (found.fired, found.missed) == (workers, missed)
    spawned = await store.newest(None, 10)
    assert len(spawned) == workers
    told = [cast(dict[str, int], w.data["trigger"])["missed"] for w in spawned]
    assert sum(told) == (missed if workers else 0)
    fires = await store.fires("t", 10)
    assert sum(f.missed for f in fires) == missed
    assert await ring(store) == 0


async def test_counting_what_crons_missed_keeps_nobody_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many times are counted in a thread, few are not; between two timers the loop turns."""
    turns, planned = 0, []

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def noted(schedule: Schedule, trigger_id: str, *args: Any, **options: Any) -> Plan:
        planned.append((trigger_id, turns, threading.current_thread() is threading.main_thread()))
        return plan(schedule, trigger_id, *args, **options)

    async def no_minute_begins_soon() -> bool:
        return await store.now_ms() % 60_000 < 57_000

    monkeypatch.setattr(firing_module, "plan", noted)
    await wait_until(no_minute_begins_soon, what="one timer is not due twice")
    minutes = {"interval": None, "cron": "* * * * *"}
    for trigger_id in ("a", "b", "c"):
        config = minutes if trigger_id == "a" else {}
        await put(store, timer(trigger_id, config))
        await late_by(store, trigger_id, 48 * HOUR)
    others = asyncio.create_task(turn())
    assert await ring(store) == 3
    others.cancel()
    assert {trigger_id: here for trigger_id, _, here in planned} == {
        "a": False,
        "b": True,
        "c": True,
    }
    assert len({at for _, at, _ in planned}) == 3, "two were planned without a pause"
    assert (await info(store, "a")).missed - 48 * 60 in (0, 1), "a minute may begin meanwhile"
    assert (await info(store, "b")).missed == 48


async def test_run_immediately(store: Store) -> None:
    """It is due as soon as it is put, and then at its interval; put again it is not."""
    spec = timer(config={"run_immediately": True})
    await put(store, spec)
    assert await ring(store) == 1
    await put(store, spec)
    assert await ring(store) == 0
    assert (await info(store, "t")).fired == 1


async def test_run_immediately_is_for_the_first_put_and_late_by_the_jitter(store: Store) -> None:
    """It is not passed over for its jitter; other times of it, as of a deploy, do not fire it again."""
    config = {"run_immediately": True, "jitter": 2}
    before = await store.now_ms()
    await put(store, timer(config=config))
    due = (await info(store, "t")).next_due
    assert due is not None
    assert 0 <= due.timestamp() * 1000 - before < 2500, "late by a part of its jitter"

    async def fired() -> bool:
        await ring(store)
        return (await info(store, "t")).fired == 1

    await wait_until(fired, 5, what="it has fired")
    await put(store, timer(config={**config, "interval": 7200}))
    assert await ring(store) == 0
    [fire] = await store.fires("t", 10)
    assert fire.outcome == "accepted"


async def test_who_is_passed_over_is_so_quietly(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Policy skip, nothing of it on time: its history and its counts tell, no error does."""
    await put(store, timer(config={"interval": 60, "misfire": "skip", "misfire_grace": 5}))
    await late_by(store, "t", 50_000)
    assert await ring(store) == 1
    seen = await info(store, "t")
    assert (seen.fired, seen.missed) == (0, 1)
    assert [fire.outcome for fire in await store.fires("t", 10)] == ["skipped: missed"]
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == []


async def test_a_timer_that_changes_its_times_is_due_by_the_new_ones(store: Store) -> None:
    """Another task keeps the next time, another interval does not."""
    await put(store, timer())
    first = (await info(store, "t")).next_due
    await put(store, timer(task="Tock."))
    assert (await info(store, "t")).next_due == first
    await put(store, timer(config={"interval": 60}))
    changed = (await info(store, "t")).next_due
    assert first is not None
    assert changed is not None
    assert changed < first


async def test_pause_holds_and_resume_goes_on_without_what_was_missed(store: Store) -> None:
    """A trigger alone: it is not due while it is paused, and refused to callers."""
    spec = timer()
    await put(store, spec)
    await late_by(store, "t", 100)
    await store.pause_trigger("t")
    assert await ring(store) == 0
    assert (await info(store, "t")).next_due is None
    with pytest.raises(TriggerPaused, match="paused"):
        await call(store, spec)
    now = await store.now_ms()
    await store.resume_trigger("t", due=now + HOUR, slot=now + HOUR)
    assert await ring(store) == 0
    assert (await info(store, "t")).missed == 0


async def test_all_timers_are_held(store: Store) -> None:
    """Also one that was handed out before."""
    await put(store, timer())
    await late_by(store, "t", 100)
    now, [due] = await store.due_timers(10)
    assert await store.hold_timers(hold=True) == []
    assert await firing_of(store).fire_timer(due, now) == []
    assert await ring(store) == 0
    assert await store.hold_timers(hold=False) == ["t"]


async def test_timers_go_on_though_one_is_gone_and_one_cannot_be_read(store: Store) -> None:
    """Resumed: the others are set forward and fire again; what was removed meanwhile leaves no key."""
    for trigger_id in ("gone", "newer", "t"):
        await put(store, timer(trigger_id))
        await late_by(store, trigger_id, 100)
    await store.link.call("HSET", store.keys("triggers"), "newer", '{"id": "newer"}')
    await store.link.call("HDEL", store.keys("triggers"), "gone")
    async with ColonyRuntime(store.colony_id, redis_url=store.link.url) as runtime:
        await runtime.pause_timers()
        await runtime.resume_timers()
    assert not await store.timers_held()
    due = (await info(store, "t")).next_due
    assert due is not None
    assert due > datetime.now(UTC) + timedelta(minutes=50)
    await store.remove_trigger("t")
    await store.set_timer("t", due=1, slot=1)
    assert await store.link.call("EXISTS", store.keys("trigger", "t"), store.keys("ringing")) == 0


async def test_policy_skip(store: Store) -> None:
    """At most two live: the third is refused and noted; when one has ended there is a place."""
    spec = manual(max_concurrent=2)
    await put(store, spec)
    first, _ = [await call(store, spec) for _ in range(2)]
    with pytest.raises(TriggerBusy, match="max_concurrent"):
        await call(store, spec)
    await settle(store, first)
    await call(store, spec)
    outcomes = [fire.outcome for fire in await store.fires("m", 10)]
    assert outcomes == ["accepted", "skipped: max_concurrent", "accepted", "accepted"]
    assert (await info(store, "m")).live == 2


async def test_policy_queue(store: Store) -> None:
    """One at a time, in order; one that sleeps keeps its place."""
    spec = manual(max_concurrent=1, concurrency_policy="queue")
    await put(store, spec)
    first, second, third = [await call(store, spec) for _ in range(3)]
    waits = [await state_of(store, w) for w in (first, second, third)]
    assert waits == [WorkerState.PENDING, WorkerState.PARKED, WorkerState.PARKED]
    await claim(store, first, token="t1")
    await store.park(first, "t1", timedelta(seconds=9), ring_again_after=SOON)
    assert await state_of(store, second) is WorkerState.PARKED
    await store.link.call("ZADD", store.keys("due"), 1, f"wake:{first}")
    await store.wake(first, ring_again_after=SOON)
    assert await state_of(store, first) is WorkerState.PENDING
    await settle(store, first)
    assert await state_of(store, second) is WorkerState.PENDING
    assert await state_of(store, third) is WorkerState.PARKED
    await settle(store, second)
    assert await state_of(store, third) is WorkerState.PENDING


async def test_policy_replace(store: Store) -> None:
    """The next one stops the one that lives: waiting at once, running after it was told."""
    spec = manual(max_concurrent=1, concurrency_policy="replace")
    await put(store, spec)
    first = await call(store, spec)
    second = await call(store, spec)
    assert await state_of(store, first) is WorkerState.STOPPED
    await claim(store, second, token="t2")
    third = await call(store, spec)
    record = await store.get(second)
    assert record is not None
    assert record.stopping == ReportStatus.STOPPED
    assert await state_of(store, third) is WorkerState.PENDING
    assert (await info(store, "m")).live == 1


async def test_idle_gating(store: Store) -> None:
    """An active fleet skips it, and so does one that was active a moment ago; an idle one does not."""
    await put(store, timer(config={"skip_when_active_within": 60}))
    worker = (await accepted(store))[0]
    await late_by(store, "t", 100)
    assert await ring(store) == 1
    assert [f.outcome for f in await store.fires("t", 10)] == ["skipped: the fleet is active"]
    await settle(store, worker)
    await late_by(store, "t", 100)
    assert await ring(store) == 1
    assert (await info(store, "t")).fired == 0
    await store.link.call("HSET", store.keys("meta"), "active_at", await store.now_ms() - 61_000)
    await late_by(store, "t", 100)
    assert await ring(store) == 1
    assert (await info(store, "t")).fired == 1


async def test_redis_away_for_a_moment_keeps_a_timer_due(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being handed out and being accepted: it is not passed over, and the next ringer fires it."""
    await put(store, timer())
    await late_by(store, "t", 100)
    script = store.link.script
    away = [False, True]

    async def once_away(what: Script, prefix: str, args: Sequence[Any]) -> Any:
        if what.name == "accept" and away.pop():
            raise StoreUnavailable("Redis is away")
        return await script(what, prefix, args)

    monkeypatch.setattr(store.link, "script", once_away)
    with pytest.raises(StoreUnavailable):
        await ring(store)
    assert await store.fires("t", 10) == []
    await store.link.call("DEL", store.keys("ringing"))
    assert await ring(store) == 1
    found = await info(store, "t")
    assert (found.fired, found.missed) == (1, 0)


async def test_a_closed_intake_keeps_a_timer_due(store: Store) -> None:
    """Nothing is lost: when it is open again the timer fires, and says what it missed."""
    await put(store, timer())
    await late_by(store, "t", 100)
    await store.set_intake(paused=True)
    await ring(store)
    assert (await info(store, "t")).fired == 0
    await store.set_intake(paused=False)
    await store.link.call("DEL", store.keys("ringing"))
    assert await ring(store) == 1
    assert (await info(store, "t")).fired == 1


async def test_the_fleet_is_full_in_the_middle_of_what_is_made_good(store: Store) -> None:
    """21 missed, 10 of them to be fired: 4 have room now, the others fire later; 11 are counted, once."""
    await put(store, timer(config={"interval": 60, "misfire": "all", "max_catch_up": 10}))
    await late_by(store, "t", 20 * 60_000 + 500)
    for room, fired in ((4, 4), (1000, 10)):
        await store.link.call("HSET", store.keys("meta"), "max_pending", room)
        await store.link.call("DEL", store.keys("ringing"))
        await ring(store)
        seen = await info(store, "t")
        assert (seen.fired, seen.missed) == (fired, 11)


async def test_a_closed_intake_is_asked_for_a_few_of_many_timers(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A look that is refused one tries no others, and is told once; when it is open again all fire."""
    await asyncio.gather(*(put(store, timer(f"t{i}")) for i in range(PAGE + 50)))
    for trigger in await store.triggers():
        await late_by(store, trigger.trigger_id, 100)
    await store.set_intake(paused=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ringing_module, "stay_due", Seldom(logging.getLogger("colony.triggers")))
        assert [await ring(store) for _ in range(3)] == [PAGE, 50, 0]
    told = [each.message for each in caplog.records if "stay due" in each.message]
    assert len(told) == 1
    assert "paused" in told[0]
    await store.set_intake(paused=False)
    await store.link.call("DEL", store.keys("ringing"))
    assert await ring(store) == PAGE + 50
    assert {each.fired for each in await store.triggers()} == {1}


async def test_a_path_is_taken_once(store: Store) -> None:
    """Refused for a second trigger, free again when its owner gives it up or is removed."""

    def hook(trigger_id: str, path: str) -> TriggerSpec:
        config = {"path": path, "secrets": ["env:S"]}
        return manual(trigger_id, trigger_type="webhook", trigger_config=config)

    await put(store, hook("a", "/x"))
    with pytest.raises(InvalidTrigger, match="'/x' is taken by trigger 'a'"):
        await put(store, hook("b", "/x"))
    await put(store, hook("a", "/y"))
    await put(store, hook("b", "/x"))
    assert await store.trigger_at("/x") == "b"
    await store.remove_trigger("b")
    assert await store.trigger_at("/x") is None


TOO_LATE: dict[str, Any] = {"interval": 60, "jitter": 61}


async def test_a_jitter_that_is_too_long_is_refused_where_it_is_put(store: Store) -> None:
    """By hand and by a definition; one that is kept already is read, and fires."""
    late = timer(config=TOO_LATE)
    with pytest.raises(InvalidTrigger, match=r"trigger_config\.jitter: .* at most the 60 s"):
        await put(store, late)
    with pytest.raises(DefinitionError, match=r"trigger 't' of colony 'c'.* at most the 60 s"):
        Colony("c", agent=AgentSpec(model=ScriptedModel(["x"])), triggers=[late])
    assert await store.triggers() == []
    await put(store, timer())
    await store.link.call("HSET", store.keys("triggers"), "t", late.model_dump_json())
    await late_by(store, "t", 62_000)
    assert await ring(store) == 1
    assert (await info(store, "t")).fired == 1


@pytest.mark.parametrize("cron", ["0 9 1 1 * 0 2050", "R * * * *", "0 r(8-10) * * *"])
async def test_a_cron_that_ends_or_is_drawn_by_lot_is_refused_where_it_is_put(
    store: Store, cron: str
) -> None:
    """After its last year it could not be read any more, nor fire what is due; one that is drawn is due at
    other times for whoever asks."""
    given = timer(config={"interval": None, "cron": cron})
    with pytest.raises(InvalidTrigger, match=r"trigger_config\.cron: .* expected (five|numbers)"):
        await put(store, given)
    with pytest.raises(DefinitionError, match=r"trigger_config\.cron: .* expected (five|numbers)"):
        Colony("c", agent=AgentSpec(model=ScriptedModel(["x"])), triggers=[given])
    assert await store.triggers() == []


async def test_a_declared_webhook_gets_another_id_and_keeps_its_path(store: Store) -> None:
    """The next definition names it otherwise: its path is free by then."""

    def hook(trigger_id: str) -> TriggerSpec:
        config = {"path": "/x", "secrets": ["env:A"]}
        return TriggerSpec.of(
            {"id": trigger_id, "trigger_type": "webhook", "task": "x", "trigger_config": config}
        )

    await declare(store, [hook("old")])
    await declare(store, [hook("new")])
    assert await store.trigger_at("/x") == "new"
    assert [each.trigger_id for each in await store.triggers()] == ["new"]


async def test_declared_webhooks_change_their_paths_among_each_other(store: Store) -> None:
    """Swapped, passed on, left for another type: each is as it is declared, and stays paused. What an
    operator has changed since stands, and is in the way."""

    def hook(trigger_id: str, path: str) -> TriggerSpec:
        config = {"path": path, "secrets": ["env:A"]}
        return TriggerSpec.of(
            {"id": trigger_id, "trigger_type": "webhook", "task": "x", "trigger_config": config}
        )

    async def routes() -> list[str | None]:
        return [await store.trigger_at(path) for path in ("/1", "/2", "/3")]

    await declare(store, [hook("a", "/1"), hook("b", "/2")])
    await store.pause_trigger("b")
    await declare(store, [hook("a", "/2"), hook("b", "/1")])
    assert await routes() == ["b", "a", None]
    await declare(store, [hook("a", "/1"), hook("b", "/3")])
    assert await routes() == ["a", None, "b"]
    assert (await info(store, "b")).paused
    await declare(store, [hook("c", "/1"), hook("b", "/3"), manual("a")])
    assert await routes() == ["c", None, "b"]
    await put(store, hook("b", "/2"))
    with pytest.raises(InvalidTrigger, match="'/2' is taken by trigger 'b'"):
        await declare(store, [hook("c", "/2"), hook("b", "/3"), manual("a")])
    assert await routes() == ["c", "b", None]


async def test_what_an_operator_does_with_a_declared_trigger_stands(store: Store) -> None:
    """Changed or removed, it stays so when nodes start again, until the declaration changes."""
    await declare(store, [manual("a"), manual("b")])
    await put(store, manual("a", task="Mine."))
    await store.remove_trigger("b")
    await declare(store, [manual("a"), manual("b")])
    found = {t.trigger_id: t.spec["task"] for t in await store.triggers()}
    assert found == {"a": "Mine."}
    await declare(store, [manual("a", task="Theirs.")])
    assert (await info(store, "a")).spec["task"] == "Theirs."
    await declare(store, [])
    assert await store.triggers() == []


async def test_an_unknown_trigger(store: Store) -> None:
    """Refused to callers; a timer that was removed while it was rung is nothing."""
    with pytest.raises(UnknownTrigger, match="'m'"):
        await call(store, manual())
    await put(store, timer())
    await late_by(store, "t", 100)
    now, [due] = await store.due_timers(10)
    await store.remove_trigger("t")
    assert await firing_of(store).fire_timer(due, now) == []
    assert await store.newest(None, 10) == []


async def test_what_was_removed_leaves_nothing(store: Store) -> None:
    """Nor does one who still looked at an event for it, and refuses that now, begin a history anew."""
    await put(store, manual())
    await store.remove_trigger("m")
    assert not await store.pass_over(Fire("m", "event"), "refused: a loop")
    of_it = (store.keys("trigger", "m"), store.keys("fires", "m"))
    assert await store.link.call("EXISTS", *of_it) == 0


async def test_a_ringer_that_dies_leaves_the_timer_to_the_next(store: Store) -> None:
    """What was handed out and not fired is handed out again after a second."""
    await put(store, timer())
    await late_by(store, "t", 100)
    assert len((await store.due_timers(10))[1]) == 1
    assert (await store.due_timers(10))[1] == []
    await store.link.call("ZADD", store.keys("ringing"), 1, "t")
    assert await ring(store) == 1


async def test_caps_of_a_trigger_hold_beside_those_of_the_colony(open_colony: OpenColony) -> None:
    """A place in the colony does not help where the trigger has none."""
    store = await open_colony(**{"cap:colony": 10, "definition_capped": 1})
    spec = manual(max_concurrent=1, concurrency_policy="queue")
    await put(store, spec)
    _, second = [await call(store, spec) for _ in range(2)]
    other = (await accepted(store))[0]
    assert await state_of(store, second) is WorkerState.PARKED
    assert await state_of(store, other) is WorkerState.PENDING
