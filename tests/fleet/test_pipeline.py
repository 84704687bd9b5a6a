"""What comes in is asked about on its way, by every producer, once: scenario 35, on real nodes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from colony import ColonyClient, ColonyRuntime
from colony.doorbell import celery_app
from colony.errors import PipelineIncomplete, PipelineRejected
from colony.settings import Settings
from colony.testing import Fleet
from tests.fleet.helpers import records
from tests.fleet.pipeline_definitions import LOST, house

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    async with Fleet("tests.fleet.pipeline_definitions:guarded") as fleet:
        yield fleet


@pytest_asyncio.fixture(loop_scope="module")
async def runtime(running: Fleet) -> AsyncIterator[ColonyRuntime]:
    """A producer that has the stage that is code."""
    async with ColonyRuntime("guarded", redis_url=running.redis_url, pipeline=[house]) as opened:
        yield opened


async def totals(runtime: ColonyRuntime) -> dict[str, int]:
    """Accepted and rejected so far."""
    counted = (await runtime.get_stats()).totals
    return {name: counted.get(name, 0) for name in ("accepted", "pipeline_rejected")}


async def refused(runtime: ColonyRuntime, task: str, **options: Any) -> PipelineRejected:
    """The rejection of a task; nothing is accepted, and it is counted."""
    before = await totals(runtime)
    with pytest.raises(PipelineRejected) as caught:
        await runtime.spawn(task, **options)
    assert await totals(runtime) == {**before, "pipeline_rejected": before["pipeline_rejected"] + 1}
    return caught.value


async def test_a_stage_rejects_and_the_caller_gets_stage_and_reason(runtime: ColonyRuntime) -> None:
    """Scenario 35, first half: each kind of stage, and one that falls over."""
    told = [
        await refused(runtime, "rm everything", caller="token-1"),
        await refused(runtime, "fetch", data={"n": "x"}),
        await refused(runtime, "fetch", data={"accounts": ["wrok"]}),
        await refused(runtime, "fetch", data={"accounts": {"gitlab": "work"}}),
        await refused(runtime, "fetch", data={"accounts": "work"}, agent="clerk"),
        await refused(runtime, "slip"),
    ]
    assert [(error.stage, error.reason) for error in told] == [
        ("house", "token-1 may not delete"),
        ("input_validation", "data.n: 'x' is not of type 'integer'"),
        ("credentials", "data.accounts: agent 'agent' has no account 'wrok'; it has: work"),
        ("credentials", "data.accounts.gitlab: account 'work' is one of github"),
        ("credentials", "data.accounts: agent 'clerk' has no account 'work'; it has: none"),
        ("house", "stage house failed: RuntimeError"),
    ]


async def test_a_transform_is_what_the_worker_sees(runtime: ColonyRuntime) -> None:
    """Scenario 35, second half."""
    [worker] = await runtime.spawn("context", data={"polite": True, "customer": "t"})
    report = await runtime.wait_for_worker(worker, timeout=20)
    assert report is not None
    assert report.ok
    assert report.data["task"] == "context please"
    assert report.data["agent"] == "clerk"
    assert report.data["data"] == {"polite": True, "customer": "t", "added": "house"}
    [again] = [await runtime.retry_worker(worker)]
    [record] = await records(runtime, [again])
    assert record.task == "context please", "what is retried was let in before: once is enough"


async def test_a_batch_comes_in_whole_or_not_at_all(runtime: ColonyRuntime) -> None:
    """The index is told; and what was not let in has taken no place of the rate limit."""
    before = (await totals(runtime))["accepted"]
    four = [{"task": "fetch", "data": {"customer": "b"}}] * 4
    with pytest.raises(PipelineRejected, match=r"'rate_limit': tasks\[0\]: at most 3 in 60 s"):
        await runtime.spawn_batch(four)
    with pytest.raises(PipelineRejected, match=r"'house': tasks\[1\]: None may not"):
        await runtime.spawn_batch(["fetch", "rm"])
    assert (await totals(runtime))["accepted"] == before
    batch = await runtime.spawn_batch(four[:3])
    assert (await runtime.wait_for_batch(batch.id, timeout=20)) is not None
    assert (await refused(runtime, "fetch", data={"customer": "b"})).stage == "rate_limit"


async def test_the_rate_is_that_of_the_fleet_and_a_replay_costs_nothing(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    """Two runtimes and a blocking client share the bound; a known key answers first, also when it is full."""
    data = {"customer": "r"}
    async with ColonyRuntime("guarded", redis_url=running.redis_url, pipeline=[house]) as other:
        sides = (runtime, other)
        same = [sides[n % 2].spawn("fetch", data=data, idempotency_key="job") for n in range(10)]
        assert len({tuple(ids) for ids in await asyncio.gather(*same)}) == 1
        more = [sides[n % 2].spawn("fetch", data=data) for n in range(20)]
        answers = await asyncio.gather(*more, return_exceptions=True)
        admitted = [a for a in answers if not isinstance(a, BaseException)]
        assert len(admitted) == 2, "ten times the same was one; three may be"
        assert all(isinstance(a, PipelineRejected | list) for a in answers)
    with ColonyClient("guarded", redis_url=running.redis_url, pipeline=[house]) as client:
        with pytest.raises(PipelineRejected) as caught:
            await asyncio.to_thread(client.spawn, "fetch", data=data)
        [first] = await asyncio.to_thread(client.spawn, "fetch", data=data, idempotency_key="job")
    assert caught.value.retry_after is not None
    assert 30 < caught.value.retry_after <= 60
    assert re.search(r"retry_after=[\d.]+ seconds", caught.value.reason)
    assert [first] == await runtime.spawn("fetch", data=data, idempotency_key="job")
    before = await totals(runtime)
    await runtime.spawn("rm", data=data, idempotency_key="job")
    assert await totals(runtime) == before, "no stage was asked"


async def test_a_runtime_without_the_code_refuses_and_says_what_to_do(running: Fleet) -> None:
    """Never skipped; the nodes have it, so a foreign producer's task goes through it there."""
    async with ColonyRuntime("guarded", redis_url=running.redis_url) as bare:
        before = await totals(bare)
        with pytest.raises(PipelineIncomplete, match=r"'house' that is code.*colony\.spawn"):
            await bare.spawn("fetch")
        assert await totals(bare) == before


async def test_a_foreign_message_goes_through_the_pipeline_on_a_node(
    running: Fleet, runtime: ColonyRuntime
) -> None:
    app = celery_app("guarded", Settings(redis_url=running.redis_url))
    before = await totals(runtime)
    sent = app.send_task("colony.spawn", args=["rm it"], queue="colony.guarded.intake")
    with pytest.raises(PipelineRejected) as refused:
        await asyncio.to_thread(sent.get, timeout=15)
    assert (refused.value.stage, refused.value.reason) == ("house", "None may not delete")
    after = await totals(runtime)
    assert after["pipeline_rejected"] == before["pipeline_rejected"] + 1
    assert after["accepted"] == before["accepted"]


@pytest.mark.parametrize("task", LOST)
async def test_a_stage_that_fails_holds_up_nobody_behind_it(
    running: Fleet, runtime: ColonyRuntime, task: str
) -> None:
    """A file that is missing, a service that does not answer: that message is refused, the next accepted."""
    with celery_app("guarded", Settings(redis_url=running.redis_url)) as app:
        before = await totals(runtime)
        data = {"data": {"customer": f"behind {task}"}}
        send = partial(app.send_task, "colony.spawn", queue="colony.guarded.intake", kwargs=data)
        bad, good = send(args=[task]), send(args=["fetch"])
        with pytest.raises(PipelineRejected, match=f"house failed: {LOST[task].__name__}"):
            await asyncio.to_thread(bad.get, timeout=10)
        assert (await asyncio.to_thread(good.get, timeout=10))["worker_ids"]
    after = await totals(runtime)
    assert after == {name: count + 1 for name, count in before.items()}


async def test_what_agents_spawn_was_let_in_with_them(runtime: ColonyRuntime) -> None:
    """A child named as no producer may name a task, beyond the rate, is a worker as any."""
    [parent] = await runtime.spawn("family", data={"customer": "f"})
    report = await runtime.wait_for_worker(parent, timeout=30)
    assert report is not None
    assert report.ok
    children = await records(runtime, await runtime.get_children(parent))
    assert sorted(child.task for child in children) == ["fetch", "rm all"]
