"""A stage of the pipeline: what it is asked, what it may answer, what it may know."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pydantic import JsonValue

from colony.credentials import Account

if TYPE_CHECKING:
    from colony.store import Store


def request_id_of(idempotency_key: str | None) -> str:
    """The id of a request: the same each time it is asked under one key, else a fresh one."""
    if idempotency_key is None:
        return secrets.token_hex(12)
    return hashlib.sha256(idempotency_key.encode(errors="replace")).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One task that wants in.

    `entry` is ``spawn`` or the id of a trigger; `caller` the id of the API token it came with, None for
    a Python producer. `agent` is the name of the agent that shall do it; None is the colony's default,
    and no stage sees None. `count` workers are asked for with it. The tasks of one batch share a
    `request_id`. `data` is read, never changed in place: answer with a `Transform`.
    """

    entry: str
    caller: str | None
    task: str
    data: Mapping[str, JsonValue]
    agent: str | None = None
    count: int = 1
    request_id: str = field(default_factory=lambda: request_id_of(None))


@dataclass(frozen=True, slots=True)
class Continue:
    """Nothing against it."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Not this one. The caller is told the reason, and after how many seconds to ask again if that helps."""

    reason: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Transform:
    """Go on with this instead; what is None stays. It is checked as if it had come in so."""

    task: str | None = None
    data: Mapping[str, JsonValue] | None = None
    agent: str | None = None


Verdict = Continue | Reject | Transform


@runtime_checkable
class Stage(Protocol):
    """One step of the pipeline. Stages run by `order`, equals in the order in which they were given.

    Optional methods: ``async initialize(context)``, awaited once before its first task, and ``async
    process_batch(incomings) -> verdicts``, asked instead of `process` for the tasks of one batch together.
    """

    @property
    def name(self) -> str: ...

    @property
    def order(self) -> int: ...

    async def process(self, incoming: Incoming) -> Verdict:
        """What is to become of it. To raise is to reject."""


@runtime_checkable
class Initializes(Protocol):
    """A stage that wants to know the colony, or to open something."""

    async def initialize(self, context: StageContext) -> None: ...


@runtime_checkable
class ProcessesBatches(Protocol):
    """A stage that decides on the tasks of a batch together."""

    async def process_batch(self, incomings: Sequence[Incoming]) -> Sequence[Verdict]: ...


@dataclass(frozen=True, slots=True)
class StageContext:
    """What a stage may know of its colony: its accounts, which of them each agent may use (None: all)."""

    colony_id: str
    store: Store
    idempotency_ttl: timedelta
    accounts: Mapping[str, Account]
    accounts_of: Mapping[str, frozenset[str] | None]
