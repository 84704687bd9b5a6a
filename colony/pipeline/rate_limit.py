"""`rate_limit`: at most so many workers within any window, for each key, counted by the whole fleet.

A sliding window in Redis, by Redis' clock: exact under any concurrency and across processes. A request that
is asked again under its idempotency key counts once; one that is rejected does not count.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PrivateAttr, field_validator

from colony.pipeline.registry import stage
from colony.pipeline.stage import Continue, Incoming, Reject, StageContext, Verdict
from colony.settings import Duration

FIELDS = ("entry", "caller", "agent")
OF_DATA = re.compile(r"data(\.[\w-]+)+")


@stage("rate_limit")
class RateLimit(BaseModel):
    """At most `limit` workers in any `per` (seconds), for each value of `key`.

    `key` is a template of ``{entry}``, ``{caller}``, ``{agent}`` and ``{data.<field>}``; those who lack a
    field share one bucket. A batch is counted as a whole, or not at all. At most 10,000 buckets of a colony
    are kept, each for `per`; while there are more, new keys share one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "rate_limit"
    order: int = 200
    limit: int = Field(60, ge=1, le=100_000)
    per: Duration = Field(timedelta(seconds=60), gt=timedelta(0), le=timedelta(days=1))
    key: str = "{entry}:{caller}"
    _context: StageContext | None = PrivateAttr(None)

    @field_validator("key")
    @classmethod
    def _names_what_there_is(cls, key: str) -> str:
        for field in _fields(key):
            if field not in FIELDS and not OF_DATA.fullmatch(field):
                known = ", ".join(f"{{{f}}}" for f in FIELDS)
                raise ValueError(
                    f"unknown field {{{field}}}; known are {known} and {{data.<field>}}"
                )
        return key

    async def initialize(self, context: StageContext) -> None:
        """Count in this colony's store."""
        self._context = context

    async def process(self, incoming: Incoming) -> Verdict:
        """Count it, or say when to ask again."""
        [verdict] = await self.process_batch([incoming])
        return verdict

    async def process_batch(self, incomings: Sequence[Incoming]) -> Sequence[Verdict]:
        """Count all of them, or none: then the first one of the bucket that is full is rejected."""
        assert self._context is not None, "a stage is initialized before it is asked"
        buckets = [self._bucket(incoming) for incoming in incomings]
        places: Counter[str] = Counter()
        for bucket, incoming in zip(buckets, incomings, strict=True):
            places[bucket] += incoming.count
        full = await self._context.store.rate_limit(
            self.name,
            incomings[0].request_id,
            places,
            limit=self.limit,
            window=self.per,
            same_for=self._context.idempotency_ttl,
        )
        verdicts: list[Verdict] = [Continue()] * len(incomings)
        if full is not None:
            verdicts[buckets.index(full.bucket)] = self._rejected(places[full.bucket], full.after)
        return verdicts

    def _rejected(self, asked: int, after: timedelta | None) -> Reject:
        what = f"at most {self.limit} in {self.per.total_seconds():g} s for each {self.key}"
        if after is None:
            return Reject(f"{what}; {asked} at once are too many: ask for less")
        seconds = after.total_seconds()
        return Reject(f"{what}; retry_after={seconds:g} seconds", seconds)

    def _bucket(self, incoming: Incoming) -> str:
        """The values of the key's fields, hashed: bounded, and nothing of a caller stands in a key."""
        values = [_value(incoming, field) for field in _fields(self.key)]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:32]


def _fields(template: str) -> list[str]:
    try:
        return [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ValueError(
            f"not a template: {error}; write {{entry}}:{{caller}} or the like"
        ) from error


def _value(incoming: Incoming, field: str) -> JsonValue:
    if field in FIELDS:
        value: JsonValue = getattr(incoming, field)
        return value
    found: JsonValue = dict(incoming.data)
    for step in field.split(".")[1:]:
        found = found.get(step) if isinstance(found, dict) else None
    return found
