"""What the intake asks before it accepts: whether there is an answer already, and the rate limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from colony.store.base import StoreBase
from colony.store.workers import first_answer

MAX_BUCKETS = 10_000
"""Buckets of a colony's rate limits at once; beyond them, new keys of a stage share one."""


@dataclass(frozen=True, slots=True)
class Full:
    """A bucket has no room for a request. `after` is None when it never will: it asks for too many."""

    bucket: str
    after: timedelta | None


class Rates(StoreBase):
    """Reads and counts of the intake."""

    async def known(self, idempotency_key: str) -> list[str]:
        """The ids of the first answer to a key, a `Batch` where it was one; empty when it was not asked, or
        too long ago."""
        reply = await self.run("known", idempotency_key)
        return first_answer(*reply) if reply else []

    async def rate_limit(
        self,
        stage: str,
        request_id: str,
        places: Mapping[str, int],
        *,
        limit: int,
        window: timedelta,
        same_for: timedelta,
        max_buckets: int = MAX_BUCKETS,
    ) -> Full | None:
        """Count a request that takes so many places of each bucket (short names), all or none.

        At most `limit` places of a bucket are taken within any `window`, by Redis' clock. A request
        that is asked again within `same_for` is not counted again.
        """
        names = [f"{stage}:{bucket}" for bucket in places]
        flat = [x for pair in zip(names, places.values(), strict=True) for x in pair]
        micro = timedelta(microseconds=1)
        reply = await self.run(
            "rate_limit",
            limit,
            window // micro,
            same_for // micro,
            max_buckets,
            f"{stage}:*",
            request_id,
            *flat,
        )
        if reply[0] == 0:
            return None
        after = timedelta(milliseconds=int(reply[1])) if int(reply[1]) >= 0 else None
        return Full(list(places)[int(reply[0]) - 1], after)
