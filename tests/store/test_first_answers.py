"""A repeated request gets the first answer, also when nothing is left of what it was about."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from colony import ColonyRuntime
from colony.definition import ColonyConfig
from colony.errors import InvalidTask
from colony.pipeline import RateLimit
from colony.pipeline.registry import dump
from colony.store import Accepted
from colony.store.workers import STAGE, Batch
from tests.store.batch_kit import batch_of, end_all
from tests.store.fixtures import OpenColony
from tests.store.kit import SOON, new_workers

FACE = {"config": ColonyConfig().model_dump_json(), "agents": json.dumps([{"name": "agent"}])}


async def test_a_batch_is_the_first_one_after_its_records_were_retired(
    open_colony: OpenColony,
) -> None:
    """Ids and id: of a batch whose first member is gone, and of one of which nothing is left."""
    store = await open_colony(**FACE)
    async with ColonyRuntime(store.colony_id, redis_url=store.link.url) as runtime:
        first = await runtime.spawn_batch(["a", "b"], idempotency_key="k")
        await end_all(store, first)
        await store.join(first.id, ring_again_after=SOON)
        for left in (1, 0):
            await store.retain(most=left, ttl=None, cap=10)
            again = await runtime.spawn_batch(["a", "b"], idempotency_key="k")
            assert (again, again.id) == (first, first.id)
        assert await runtime.get_batch(first.id) is None
        assert await store.known("k") == first


@pytest.mark.parametrize("stages", [(), (RateLimit(),)])
async def test_a_key_of_the_other_kind_is_refused(
    open_colony: OpenColony, stages: tuple[RateLimit, ...]
) -> None:
    """A batch is not answered with workers that are none, nor a spawn with a batch: the error names the
    key and what has it, with a pipeline and without, and nothing is accepted."""
    store = await open_colony(**FACE, default_agent="agent", pipeline=dump(stages))
    async with ColonyRuntime(store.colony_id, redis_url=store.link.url) as runtime:
        [single] = await runtime.spawn("a", idempotency_key="single")
        batch = await runtime.spawn_batch(["a", "b"], idempotency_key="batch")
        with pytest.raises(InvalidTask, match=f"'single' was used by spawn, for worker {single}"):
            await runtime.spawn_batch(["a"], idempotency_key="single")
        with pytest.raises(
            InvalidTask, match=f"'batch' was used by spawn_batch, for batch {batch.id}"
        ):
            await runtime.spawn("a", idempotency_key="batch")
        assert (await runtime.get_stats()).totals["accepted"] == 3
        assert await runtime.spawn("a", idempotency_key="single") == [single]


async def test_the_first_answer_of_a_large_batch_names_it(open_colony: OpenColony) -> None:
    """Staged, it is kept with its id all the same, for whoever asks and whoever accepts."""
    store = await open_colony()
    batch_id, ids = await batch_of(store, STAGE + 1, idempotency_key="k")
    verdict, again = await store.accept(
        new_workers(), ring_again_after=SOON, idempotency_key="k", deadline=timedelta(hours=1)
    )
    known = await store.known("k")
    assert isinstance(again, Batch)
    assert isinstance(known, Batch)
    assert (verdict, again.id, known.id) == (Accepted.KNOWN, batch_id, batch_id)
    assert again == known == ids
