"""What tests of webhooks in the store share."""

from __future__ import annotations

from colony.conversation import Filed
from colony.models import OnComplete, ReportStatus, Subscription
from colony.store import Store
from tests.store.kit import SOON, claim, new_workers

URL = "https://hooks.example.org/a"
SUBSCRIPTION = Subscription(id="s", url=URL, secret=("env:S",))


async def owed(store: Store, url: str = URL, **report: object) -> str:
    """A worker has ended and its webhook is owed; the delivery's id."""
    told = OnComplete(url=url, secret=("env:S",)).model_dump_json(exclude_none=True)
    _, [worker_id] = await store.accept(new_workers(on_complete=told), ring_again_after=SOON)
    await claim(store, worker_id)
    filed = Filed(ReportStatus.SUCCESS, "Done.", {"n": 1, **report})  # type: ignore[dict-item]
    await store.settle(worker_id, "t1", filed)
    return f"{worker_id}_completed"
