"""How a slice of a worker ended, as values. Cancellation and `StaleToken` are not outcomes: they
pass through, and whoever stopped the worker settles it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import JsonValue

from colony.models import ReportStatus


@dataclass(frozen=True, slots=True)
class Reported:
    """The worker has ended with this report."""

    status: ReportStatus
    summary: str
    data: dict[str, JsonValue] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Parked:
    """A tool let the worker sleep; all its results are written. Go on after `duration`."""

    duration: timedelta


@dataclass(frozen=True, slots=True)
class Waiting:
    """The worker waits for its children: go on when one of these batches is joined."""

    batch_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The node drains; all that was paid for is written. Another node goes on from there."""


Outcome = Reported | Parked | Waiting | HandedOver
