"""What is retried, and with what: the options of the first attempt, and nothing that was not needed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from colony import ReportStatus
from colony.errors import InvalidTask
from colony.models import WorkerRecord
from colony.runtime import ColonyRuntime
from colony.testing import Fleet
from colony.triggers.spec import TriggerSpec
from tests.fleet.helpers import assert_at_rest, records
from tests.fleet.tree_helpers import children_of, joined, statuses_of

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

SUCCESS, FAILED, STOPPED = ReportStatus.SUCCESS, ReportStatus.FAILED, ReportStatus.STOPPED
SECOND = timedelta(seconds=1)
OPTIONS: dict[str, Any] = {
    "concurrency_key": "customer 7",
    "priority": 3,
    "stream_id": "stream 7",
    "correlation_id": "order 7",
    "soft_deadline": 100 * SECOND,
    "deadline": 200 * SECOND,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """One node; at the end nothing is left of all these attempts."""
    async with Fleet(
        "tests.fleet.tree_definitions:trees", concurrency=8, sweep_interval="0.1"
    ) as fleet:
        yield fleet
        await assert_at_rest(fleet.redis_url, "trees")


@pytest.fixture
def runtime(running: Fleet) -> ColonyRuntime:
    """The fleet's producer."""
    return running.runtime


def _options(record: WorkerRecord) -> dict[str, Any]:
    """With what a worker was spawned, the deadlines as they were given."""
    assert record.soft_deadline is not None
    assert record.deadline is not None
    return {
        "concurrency_key": record.concurrency_key,
        "priority": record.priority,
        "stream_id": record.stream_id,
        "correlation_id": record.correlation_id,
        "soft_deadline": record.soft_deadline - record.created_at,
        "deadline": record.deadline - record.created_at,
    }


async def test_a_retried_worker_keeps_its_options(runtime: ColonyRuntime) -> None:
    """Key, priority, stream, correlation; both deadlines as long as they were."""
    [old] = await runtime.spawn("fail", **OPTIONS)
    await runtime.wait_for_worker(old, timeout=10)
    new = await runtime.retry_worker(old)
    for record in await records(runtime, [old, new]):
        assert _options(record) == OPTIONS
    await runtime.wait_for_worker(new, timeout=10)


async def test_a_retried_worker_of_a_trigger_may_die_as_often(runtime: ColonyRuntime) -> None:
    """A trigger says how often; who retries its worker fires it not once more."""
    await runtime.put_trigger(
        TriggerSpec.of(
            {"id": "m", "trigger_type": "manual", "task": "fail", "max_resurrections": 7}
        )
    )
    old = await runtime.trigger("m")
    await runtime.wait_for_worker(old, timeout=10)
    new = await runtime.retry_worker(old)
    [record] = await records(runtime, [new])
    assert (record.max_resurrections, record.trigger_id) == (7, None)
    await runtime.wait_for_worker(new, timeout=10)


async def test_a_retry_without_options_has_none(runtime: ColonyRuntime) -> None:
    """Nothing is made up: the new one has a stream of its own."""
    [old] = await runtime.spawn("fail")
    await runtime.wait_for_worker(old, timeout=10)
    new = await runtime.retry_worker(old)
    [record] = await records(runtime, [new])
    assert (record.deadline, record.soft_deadline, record.concurrency_key) == (None, None, None)
    assert (record.stream_id, record.priority) == (f"worker:{new}", 0)
    await runtime.wait_for_worker(new, timeout=10)


async def test_a_retried_child_has_not_the_deadline_of_its_parent(runtime: ColonyRuntime) -> None:
    """A child's deadline is never later than its parent's; alone it has none."""
    [parent] = await runtime.spawn("fan 1 fail", deadline=100 * SECOND)
    [child] = await children_of(runtime, parent, 1)
    await runtime.wait_for_worker(parent, timeout=10)
    new = await runtime.retry_worker(child)
    [old, record] = await records(runtime, [child, new])
    assert old.deadline is not None
    assert record.deadline is None
    await runtime.wait_for_worker(new, timeout=10)


async def test_a_retried_batch_keeps_its_options(runtime: ColonyRuntime) -> None:
    """What did not succeed, in order, each with the options of its batch."""
    batch = await runtime.spawn_batch(["fail 1", "fetch", "fail 2"], **OPTIONS)
    await joined(runtime, batch.id)
    again = await runtime.retry_batch(batch.id)
    found = await records(runtime, again)
    assert [record.task for record in found] == ["fail 1", "fail 2"]
    for record in found:
        assert _options(record) == OPTIONS
    await joined(runtime, again.id)


async def test_who_was_not_needed_is_not_retried(runtime: ColonyRuntime) -> None:
    """The policy was met without them, whether they have ended yet or not. Who failed by itself is."""
    met = await runtime.spawn_batch(["fetch", "rest", "rest"], policy="any")
    result = await joined(runtime, met.id)
    assert statuses_of(result) == [SUCCESS, STOPPED, STOPPED]
    with pytest.raises(InvalidTask, match="nothing to retry"):
        await runtime.retry_batch(met.id)
    await runtime.wait_for_worker_reports(met, timeout=10, stop_on_timeout=False)
    with pytest.raises(InvalidTask, match="nothing to retry"):
        await runtime.retry_batch(met.id)

    mixed = await runtime.spawn_batch(["fail", "rest-fan 1 fetch", "rest"], policy="any")
    assert statuses_of(await joined(runtime, mixed.id)) == [FAILED, SUCCESS, STOPPED]
    again = await runtime.retry_batch(mixed.id)
    assert [record.task for record in await records(runtime, again)] == ["fail"]
    await joined(runtime, again.id)


async def test_who_was_stopped_by_somebody_is_retried(runtime: ColonyRuntime) -> None:
    """A stop is not the policy's: under `any` and not met, those that were stopped are tried again."""
    batch = await runtime.spawn_batch(["rest 1", "fail"], policy="any")
    await runtime.stop_worker(batch[0])
    assert statuses_of(await joined(runtime, batch.id)) == [STOPPED, FAILED]
    again = await runtime.retry_batch(batch.id)
    assert [record.task for record in await records(runtime, again)] == ["rest 1", "fail"]
    await runtime.stop_batch(again.id)
    await joined(runtime, again.id)


async def test_a_key_of_several_workers_is_none_of_a_retry(runtime: ColonyRuntime) -> None:
    """One id is asked for, two are known by that key: refused, and nothing is spawned."""
    first, _ = ids = await runtime.spawn("fetch", count=2, idempotency_key="two")
    await runtime.wait_for_worker_reports(ids, 20)
    accepted = (await runtime.get_stats()).totals["accepted"]
    with pytest.raises(InvalidTask, match="used by spawn, for 2 workers"):
        await runtime.retry_worker(first, idempotency_key="two")
    assert (await runtime.get_stats()).totals["accepted"] == accepted
