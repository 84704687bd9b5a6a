"""Short cuts for tests of batches and trees."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from colony.conversation import Filed
from colony.models import BatchRecord, ReportStatus, WorkerRecord
from colony.store import Store
from colony.store.workers import NewBatch, Parent, Policy
from tests.store.kit import SOON, claim, new_workers, running

HOUR = timedelta(hours=1)
_tokens = itertools.count(1)


async def batch_of(
    store: Store,
    size: int,
    *,
    need: int | None = None,
    on_complete: str = "",
    **options: Any,
) -> tuple[str, list[str]]:
    """Accept a batch (policy first_n where `need` is given); its id and its members."""
    batch_id = f"b{secrets.token_hex(6)}"
    policy = Policy.ALL if need is None else Policy.FIRST_N
    batch = NewBatch(batch_id, policy, need or size + 1, on_complete)
    _, ids = await store.accept(new_workers(size), ring_again_after=SOON, batch=batch, **options)
    return batch_id, ids


async def parent(store: Store, **options: Any) -> Parent:
    """A running worker that may spawn."""
    return Parent(await running(store, token="tp", **options), "tp")


async def end(store: Store, worker_id: str, status: str = "success") -> str:
    """Claim it and settle it so; the batch that is to be joined."""
    token = f"e{next(_tokens)}"
    await claim(store, worker_id, token=token)
    settled = await store.settle(worker_id, token, Filed(ReportStatus(status), "end", {}))
    return settled.joinable


async def end_all(store: Store, ids: Sequence[str]) -> None:
    """All of them, well."""
    for worker_id in ids:
        await end(store, worker_id)


async def stop(store: Store, worker_id: str, grace: timedelta = HOUR) -> str:
    """Stop it, as an operator does."""
    return await store.stop(worker_id, status=ReportStatus.STOPPED, reason="r", grace=grace)


async def try_join(store: Store, batch_id: str) -> list[Any]:
    """The whole answer of the script, which tells more than `Store.join`."""
    return list(await store.run("join", batch_id, 60_000))


async def due(store: Store, item: str, *, cap: int = 200) -> list[str]:
    """Let the item, which must be there, come due, and do it; whom it rings for."""
    assert await is_due(store, item), item
    await store.link.call("ZADD", store.keys("due"), "XX", 1, item)
    return [ring.worker_id for ring in await store.expire(item, grace=HOUR, cap=cap)]


async def is_due(store: Store, item: str) -> bool:
    """Whether the item waits to be done, now or later."""
    return await store.link.call("ZSCORE", store.keys("due"), item) is not None


async def record(store: Store, worker_id: str) -> WorkerRecord:
    """A worker that is there."""
    found = await store.get(worker_id)
    assert found is not None
    return found


async def states(store: Store, ids: Sequence[str]) -> list[str]:
    """Where they are: a state, or "told" for one that runs and has been told to stop."""
    found = [await record(store, worker_id) for worker_id in ids]
    return ["told" if r.stopping else r.state.value for r in found]


async def batch_record(store: Store, batch_id: str) -> BatchRecord:
    """A batch that is there."""
    found = await store.batch(batch_id)
    assert found is not None
    return found
