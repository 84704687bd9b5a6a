"""Timers on real beats and nodes: on time, once, and counted, whatever is killed, late or wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from colony.models import FireRecord, ReportStatus, WorkerState
from colony.redis_server import EmbeddedRedis
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, Node, wait_until
from tests.fleet.helpers import assert_told_once, records, wait_for_state

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

DEFINITION = "tests.fleet.background_definitions:background"
TICK, STARTED = "Sending due task", "beat: Starting"
LATE = timedelta(seconds=2)
LEAD = timedelta(seconds=6)
"""How long the lead of a beat lasts that says nothing (`redbeat_lock_timeout`)."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    """One node and, until a test starts some, no beat."""
    async with Fleet(DEFINITION, concurrency=20) as fleet:
        yield fleet


@pytest.fixture
def runtime(fleet: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return fleet.runtime


async def put(runtime: ColonyRuntime, trigger_id: str, **config: Any) -> str:
    spec = {"id": trigger_id, "trigger_type": "timer", "task": "fetch", "trigger_config": config}
    await runtime.put_trigger(spec)
    return trigger_id


async def fires_of(runtime: ColonyRuntime, trigger_id: str, least: int = 1) -> list[FireRecord]:
    """Its fires, oldest first, once there are so many."""

    async def enough() -> bool:
        return len(await runtime.get_fires(trigger_id)) >= least

    await wait_until(enough, 20, what=f"{least} fires of {trigger_id}")
    return (await runtime.get_fires(trigger_id))[::-1]


async def assert_on_time(runtime: ColonyRuntime, trigger_id: str) -> None:
    """Each second once, none early, none later than the promise; each a worker with one report."""
    fires = await fires_of(runtime, trigger_id)
    dues = [fire.due for fire in fires if fire.due is not None]
    assert len(dues) == len(fires)
    assert dues == [dues[0] + timedelta(seconds=i) for i in range(len(dues))]
    for fire in fires:
        assert fire.outcome == "accepted"
        assert fire.due is not None
        assert timedelta(0) <= fire.at - fire.due <= LATE, fire
        assert fire.missed == 0
    await assert_told_once(runtime, [fire.worker_id or "" for fire in fires[:-1]])


async def leading(fleet: Fleet) -> Node:
    """The beat that ticks."""

    def found() -> Node | None:
        alive = [beat for beat in fleet.beats if beat.process.poll() is None]
        return next((beat for beat in alive if TICK in beat.tail()), None)

    leader: Node = await wait_until(found, 30, what="a beat that ticks")
    return leader


async def test_a_timer_fires_at_once_and_at_its_interval(runtime: ColonyRuntime) -> None:
    """Scenario 31: run_immediately, then each second; the janitor alone rings here."""
    trigger_id = await put(runtime, "interval", interval=1, run_immediately=True)
    await fires_of(runtime, trigger_id, 4)
    left = await runtime.next_fire_in(trigger_id)
    assert left is not None
    assert left <= timedelta(seconds=1)
    await assert_on_time(runtime, trigger_id)
    await runtime.remove_trigger(trigger_id)


async def test_pause_holds_and_resume_goes_on(runtime: ColonyRuntime) -> None:
    """Scenario 31: in a pause of all timers nothing fires and nothing is counted as missed."""
    trigger_id = await put(runtime, "paused", interval=1)
    await fires_of(runtime, trigger_id, 1)
    await runtime.pause_timers()
    held = len(await runtime.get_fires(trigger_id))
    assert await runtime.next_fire_in(trigger_id) is None
    other = await put(runtime, "immediate", interval=1, run_immediately=True)
    await asyncio.sleep(2.5)  # time itself is the condition: two fires would have come
    assert len(await runtime.get_fires(trigger_id)) == held
    assert await runtime.get_fires(other) == []
    await runtime.resume_timers()
    fires = await fires_of(runtime, trigger_id, held + 2)
    assert [fire.missed for fire in fires] == [0] * len(fires)
    await runtime.remove_trigger(trigger_id)
    await runtime.remove_trigger(other)


async def test_a_cron_fires_at_its_seconds(runtime: ColonyRuntime) -> None:
    """Six fields: every second second, on the second."""
    trigger_id = await put(runtime, "cron", cron="* * * * * */2", timezone="Asia/Tokyo")
    fires = await fires_of(runtime, trigger_id, 2)
    assert [fire.due.microsecond for fire in fires if fire.due] == [0] * len(fires)
    assert [fire.due.second % 2 for fire in fires if fire.due] == [0] * len(fires)
    await runtime.remove_trigger(trigger_id)


async def test_an_active_fleet_skips_a_timer_that_wants_it_idle(runtime: ColonyRuntime) -> None:
    """Scenario 31: while a worker runs, and for as long after it as the timer says; then it fires."""
    [busy] = await runtime.spawn("rest 60")
    await wait_for_state(runtime, WorkerState.RUNNING, 1)
    trigger_id = await put(runtime, "idle", interval=1, skip_when_active_within=1.5)
    skipped = await fires_of(runtime, trigger_id, 2)
    assert {fire.outcome for fire in skipped} == {"skipped: the fleet is active"}
    await runtime.stop_worker(busy)
    await runtime.wait_for_worker(busy, 20)
    ended = (await records(runtime, [busy]))[0].ended_at

    async def first() -> FireRecord | None:
        fires = await runtime.get_fires(trigger_id)
        return next((fire for fire in fires[::-1] if fire.worker_id is not None), None)

    fired = await wait_until(first, 20, what="a fire of an idle fleet")
    assert ended is not None
    assert fired.at - ended >= timedelta(seconds=1.5)
    await runtime.remove_trigger(trigger_id)
    await assert_told_once(runtime, [await ended_of(runtime, fired)])


async def ended_of(runtime: ColonyRuntime, fire: FireRecord) -> str:
    """The worker of a fire, once it has ended."""
    report = await runtime.wait_for_worker(str(fire.worker_id), 20)
    assert report is not None
    return report.worker_id


async def test_the_next_fire_replaces_the_worker_of_the_last(runtime: ColonyRuntime) -> None:
    """Policy `replace`: one lives, those before it were stopped while they ran, and told so."""
    trigger_id = "replaced"
    await runtime.put_trigger(
        {
            "id": trigger_id,
            "trigger_type": "timer",
            "trigger_config": {"interval": 1},
            "task": "rest 60",
            "max_concurrent": 1,
            "concurrency_policy": "replace",
        }
    )
    await fires_of(runtime, trigger_id, 3)
    await runtime.pause_trigger(trigger_id)
    fires = await fires_of(runtime, trigger_id, 3)
    assert {fire.outcome for fire in fires} == {"accepted"}
    *before, last = [str(fire.worker_id) for fire in fires]
    for worker_id in before:
        report = await runtime.wait_for_worker(worker_id, 20)
        assert report is not None
        assert report.status is ReportStatus.STOPPED
        assert "replaced by the next one" in report.summary
    await assert_told_once(runtime, before)
    info = await runtime.get_trigger(trigger_id)
    assert (info.live, info.missed) == (1, 0)
    [record] = await records(runtime, [last])
    assert not record.state.terminal
    await runtime.stop_worker(last)
    await runtime.remove_trigger(trigger_id)


async def test_the_leading_beat_is_killed(fleet: Fleet, runtime: ColonyRuntime) -> None:
    """kill -9 of the beat that ticks: what is due meanwhile fires within 2 s all the same, once; the other
    one takes over; then it gets company whose clock is an hour ahead, and is killed: nothing early. Nor is
    who comes after that one late, and a schedule that Redis has lost is written anew."""
    fleet.start_beat()
    fleet.start_beat()
    leader = await leading(fleet)
    trigger_id = await put(runtime, "beats", interval=1)
    await fires_of(runtime, trigger_id, 2)
    leader.kill()
    second = await leading(fleet)
    assert second is not leader
    ahead = fleet.start_beat("tests.fleet.beat_ahead", "beat")
    await wait_until(lambda: "beat: Starting" in ahead.tail(), what="a beat that is ahead")
    second.kill()
    assert await leading(fleet) is ahead
    await fires_of(runtime, trigger_id, len(await runtime.get_fires(trigger_id)) + 2)
    right = fleet.start_beat()
    await wait_until(lambda: "beat: Starting" in right.tail(), 30, what="a beat that is right")
    ahead.kill()
    assert await leading(fleet) is right, "it waits for the hour that the other one was ahead"
    await runtime.pause_trigger(trigger_id)
    await assert_on_time(runtime, trigger_id)
    with Redis.from_url(fleet.redis_url) as redis:
        redis.delete(*redis.keys("colony.background.beat:*"))
    ticks = right.tail(2000).count(TICK)
    await wait_until(
        lambda: right.tail(2000).count(TICK) > ticks + 1,
        30,
        what="ticks after its schedule was lost",
    )
    right.kill()


async def test_what_was_missed_while_nobody_was_there(fleet: Fleet, runtime: ColonyRuntime) -> None:
    """Scenario 34: no node for some ticks. The policy decides; fired and missed are all there were."""
    policies = ("latest", "all", "skip")
    for misfire in policies:
        await put(runtime, misfire, interval=1, misfire=misfire, misfire_grace=0.9)
    await asyncio.gather(*(fires_of(runtime, misfire, 1) for misfire in policies))
    [node] = [node for node in fleet.nodes if node.process.poll() is None]
    node.kill()
    before = {p: await runtime.get_trigger(p) for p in policies}
    await asyncio.sleep(4)  # time itself is the condition
    await fleet.add_nodes()
    for misfire in policies:

        async def fired_again(misfire: str = misfire) -> bool:  # not only: noted what was missed
            return (await runtime.get_trigger(misfire)).fired > before[misfire].fired

        await wait_until(fired_again, 20, what=f"{misfire} fires again")
        await runtime.pause_trigger(misfire)
        fires = (await runtime.get_fires(misfire))[::-1]
        dues = [fire.due for fire in fires if fire.due]
        info = await runtime.get_trigger(misfire)
        span = round((dues[-1] - dues[0]).total_seconds()) + 1
        assert info.fired + info.missed == span, (misfire, info)
        assert info.missed == 0 if misfire == "all" else info.missed >= 3


async def test_beats_and_nodes_outlive_a_restart_of_redis() -> None:
    """Redis is away for longer than a beat may lead: both beats go on, alone, and nothing fires twice."""
    with EmbeddedRedis() as redis:
        async with Fleet(DEFINITION, redis_url=redis.url, sweep_interval="3600") as fleet:
            fleet.start_beat()
            await leading(fleet)
            second = fleet.start_beat()
            await wait_until(lambda: STARTED in second.tail(), 30, what="the second beat is there")
            trigger_id = await put(fleet.runtime, "restart", interval=1)
            before = len(await fires_of(fleet.runtime, trigger_id, 2))
            redis.kill()
            killed = time.monotonic()
            await wait_until(lambda: time.monotonic() > killed + LEAD.total_seconds() + 2, 20)
            redis.restart()
            fires = await fires_of(fleet.runtime, trigger_id, before + 2)
            dues = [fire.due for fire in fires]
            assert len(set(dues)) == len(dues)
            for beat in fleet.beats:
                assert beat.process.poll() is None, beat.tail()
            assert "colony.tick[" not in fleet.nodes[0].tail(2000), "a line for each tick"
            assert any("Redis answers again" in beat.tail() for beat in fleet.beats)
