"""The times of a timer, and what is to be fired of those that have passed. Pure: no clock, no store.

A *slot* is a time that the schedule names. It is due a little later: by a jitter that follows from the
trigger's id and the slot, so it is the same for whoever asks. All in whole milliseconds since the
epoch.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise
from typing import Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter

MISSED_AT_MOST = 1_000_000
"""Slots of a cron, counted one by one; one that missed more is said to have missed so many."""

SLOTS_LOOKED_AT = 64
"""Of a cron, to find the shortest time between two."""
MINUTE_FIELDS, MOST_FIELDS, MINUTE_MS, SECOND_MS = 5, 6, 60_000, 1000
"""A cron of five fields has a slot a minute at most; one of more, one a second."""
DRAWN = re.compile(r"\b[hr]\b", re.IGNORECASE)
"""What croniter takes for a value of its own choice."""
LOOKED_AT_FROM = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""Always the same ones: in months without a change of clocks, in most places."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Every `interval_ms` from its first slot, or as `cron` says in `zone`."""

    cron: str | None
    interval_ms: int
    zone: ZoneInfo
    jitter_ms: int

    @classmethod
    @lru_cache(maxsize=4096)
    def of(
        cls, cron: str | None, interval: timedelta | None, timezone: str, jitter: timedelta
    ) -> Self:
        """Checked. Raises `ValueError`."""
        if (cron is None) == (interval is None):
            raise ValueError("expected either cron or interval")
        try:
            zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"unknown time zone {timezone!r}: expected a name such as Europe/Berlin"
            ) from error
        schedule = cls(cron, 0 if interval is None else _ms(interval), zone, _ms(jitter))
        if cron is not None:
            _check_cron(cron, schedule)
        return schedule

    def check_cron(self) -> None:
        """Raises `ValueError` for a cron whose times come to an end (a seventh field, of years), or that
        names others each time it is read (R). Asked where a trigger is put, not where it is read."""
        if self.cron is None:
            return
        fields = self.cron.split()
        if len(fields) > MOST_FIELDS:
            raise ValueError(
                f"{self.cron!r} has {len(fields)} fields: expected five, or six with seconds last"
            )
        if any(DRAWN.search(field) for field in fields):
            raise ValueError(
                f"{self.cron!r} has a field that is drawn by lot: expected numbers; what spreads is `jitter`"
            )

    def check_jitter(self) -> None:
        """Raises `ValueError` where a time could be due after the next one: it would count as missed.

        Asked where a trigger is put, not where it is read; the answer is the same on every day.
        """
        least = self.interval_ms
        if self.cron is not None and self.jitter_ms:
            some = islice(self._slots(LOOKED_AT_FROM), SLOTS_LOOKED_AT)
            least = min(after - slot for slot, after in pairwise(some))
        if self.jitter_ms > least:
            raise ValueError(
                f"jitter is {self.jitter_ms / 1000:g} s: expected at most the {least / 1000:g} s from one "
                "time to the next, or they would overtake each other"
            )

    def after(self, slot: int) -> int:
        """The next slot."""
        return next(self._slots(slot))

    def first(self, now: int) -> int:
        """The first slot of a timer that is put now."""
        return now + self.interval_ms if self.cron is None else self.after(now)

    def most_slots(self, slot: int, now: int) -> int:
        """How many slots `plan` looks at one by one, at most: those of a cron."""
        if self.cron is None:
            return 0
        least = MINUTE_MS if len(self.cron.split()) <= MINUTE_FIELDS else SECOND_MS
        return max(0, now - slot) // least

    def due(self, trigger_id: str, slot: int) -> int:
        """When a slot is due."""
        if not self.jitter_ms:
            return slot
        digest = hashlib.sha256(f"{trigger_id}\0{slot}".encode()).digest()
        return slot + int.from_bytes(digest[:6], "big") % self.jitter_ms

    def _slots(self, slot: int) -> Iterator[int]:
        if self.cron is None:
            while True:
                slot += self.interval_ms
                yield slot
        times = _elapsed_time if _every_hour(self.cron) else _wall_clock
        yield from times(self.cron, slot, self.zone)


def _every_hour(cron: str) -> bool:
    if cron.strip().lower() == "@hourly":
        return True
    return cron.split()[1:2] == ["*"] or "/" in "".join(cron.split()[1:2])


def _elapsed_time(cron: str, slot: int, zone: ZoneInfo) -> Iterator[int]:
    """For crons whose hour is ``*``: they go on through an hour that comes twice, as cron(8) does it."""
    times = croniter(cron, datetime.fromtimestamp(slot / 1000, zone))
    while True:
        yield _at(times.get_next(datetime))


def _wall_clock(cron: str, slot: int, zone: ZoneInfo) -> Iterator[int]:
    """For crons with an hour: once on a day on which it comes twice, or not at all (then an hour later)."""
    times = croniter(cron, datetime.fromtimestamp(slot / 1000, zone).replace(tzinfo=None))
    while True:
        following = _at(times.get_next(datetime).replace(tzinfo=zone))
        if following > slot:
            slot = following
            yield slot


def _at(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of the slots that are due: `fires`, oldest first, `missed` without a fire, and the
    next slot."""

    fires: Sequence[int]
    missed: int
    next_slot: int


def plan(
    schedule: Schedule,
    trigger_id: str,
    slot: int,
    now: int,
    *,
    misfire: Literal["latest", "all", "skip"],
    grace: timedelta,
    at_most: int,
) -> Plan:
    """`slot` is the first that was not fired, and is due."""
    passed, before, following = _passed(schedule, slot, now - schedule.jitter_ms, at_most)
    last = deque(before, maxlen=at_most)
    slots = schedule._slots(following)
    while schedule.due(trigger_id, following) <= now and passed < _most(schedule):
        passed += 1
        last.append(following)
        following = next(slots)
    if following <= slot or passed >= _most(schedule):
        following = schedule.first(now)
    fires = list(last)
    if misfire != "all":
        fires = fires[-1:]
        if misfire == "skip":
            fires = [s for s in fires if now - schedule.due(trigger_id, s) <= _ms(grace)]
    return Plan(fires, passed - len(fires), following)


def _most(schedule: Schedule) -> float:
    return math.inf if schedule.cron is None else MISSED_AT_MOST


@lru_cache(maxsize=16)
def _passed(
    schedule: Schedule, slot: int, until: int, at_most: int
) -> tuple[int, tuple[int, ...], int]:
    """Of the slots from `slot` to `until`, which are due whatever their jitter: how many there are, and the
    last of them; and the slot that follows. Kept, as a thousand timers of one cron ask for the same."""
    if until < slot:
        return 0, (), slot
    if schedule.cron is None:
        step = schedule.interval_ms
        passed = (until - slot) // step + 1
        following = slot + passed * step
        return (
            passed,
            tuple(range(max(slot, following - at_most * step), following, step)),
            following,
        )
    passed, last, following = 0, deque[int](maxlen=at_most), slot
    slots = schedule._slots(slot)
    while following <= until and passed < MISSED_AT_MOST:
        passed += 1
        last.append(following)
        following = next(slots)
    return passed, tuple(last), following


def _check_cron(cron: str, schedule: Schedule) -> None:
    try:
        schedule.after(_ms(timedelta(seconds=datetime.now(UTC).timestamp())))
    except CroniterError as error:
        raise ValueError(f"cron {cron!r} never fires, or is none: {error}") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"cron {cron!r}: {error}") from error


def _ms(duration: timedelta) -> int:
    return int(duration.total_seconds() * 1000)
