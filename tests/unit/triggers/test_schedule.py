"""When timers are due, and what is fired of what was missed: no clock, no store."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from colony.triggers.schedule import Plan, Schedule, plan

MINUTE = 60_000
GRACE = timedelta(seconds=30)


def at(text: str) -> int:
    """Milliseconds of an ISO time."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def every(**options: float) -> Schedule:
    return Schedule.of(None, timedelta(**options), "UTC", timedelta(0))


def cron(expression: str, zone: str = "UTC", jitter: timedelta = timedelta(0)) -> Schedule:
    return Schedule.of(expression, None, zone, jitter)


def planned(
    schedule: Schedule, slot: int, now: int, misfire: str = "latest", most: int = 100
) -> Plan:
    return plan(schedule, "t", slot, now, misfire=misfire, grace=GRACE, at_most=most)  # type: ignore[arg-type]


def test_cron_in_a_time_zone_keeps_the_hour_of_the_day() -> None:
    """9:00 in Berlin is 8:00 UTC in winter and 7:00 UTC in summer."""
    schedule = cron("0 9 * * *", "Europe/Berlin")
    assert schedule.after(at("2026-01-15T08:00:00+00:00")) == at("2026-01-16T08:00:00+00:00")
    assert schedule.after(at("2026-07-15T07:00:00+00:00")) == at("2026-07-16T07:00:00+00:00")


@pytest.mark.parametrize(
    "day", ["2026-03-29", "2026-10-25"], ids=["an hour is lost", "an hour comes twice"]
)
def test_a_cron_of_every_day_fires_once_on_the_days_when_clocks_change(day: str) -> None:
    """One slot a day, also at a time that does not exist, or exists twice."""
    schedule = cron("30 2 * * *", "Europe/Berlin")
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00") - timedelta(days=2)
    slots, slot = [], int(start.timestamp() * 1000)
    for _ in range(4):
        slot = schedule.after(slot)
        slots.append(slot)
    local = [datetime.fromtimestamp(s / 1000, UTC).astimezone(schedule.zone).date() for s in slots]
    assert len(set(local)) == len(slots)


def test_a_cron_of_every_half_hour_goes_on_through_an_hour_that_comes_twice() -> None:
    """Six slots between 2:00 and 4:00 of that night, which last three hours, half an hour apart each."""
    schedule = cron("*/30 * * * *", "Europe/Berlin")
    slot, slots = at("2026-10-24T23:59:00+00:00"), []
    for _ in range(6):
        slot = schedule.after(slot)
        slots.append(slot)
    assert [b - a for a, b in pairwise(slots)] == [30 * MINUTE] * 5


def test_an_interval_counts_from_its_slots_not_from_when_it_was_fired() -> None:
    """Fired late, it is due at the next slot of the same grid."""
    assert planned(every(minutes=1), 0, 10_000) == Plan([0], 0, MINUTE)


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [
        ("latest", Plan([5 * MINUTE], 5, 6 * MINUTE)),
        ("all", Plan([i * MINUTE for i in range(6)], 0, 6 * MINUTE)),
        ("skip", Plan([5 * MINUTE], 5, 6 * MINUTE)),
    ],
)
def test_after_five_missed_ticks(misfire: str, expected: Plan) -> None:
    """Due six times, the last just now: scenario 34, the count is exact."""
    assert planned(every(minutes=1), 0, 5 * MINUTE + 1000, misfire) == expected


def test_skip_fires_nothing_that_is_older_than_the_grace() -> None:
    """40 s after the last slot none is on time: all six are missed."""
    assert planned(every(minutes=1), 0, 5 * MINUTE + 40_000, "skip") == Plan([], 6, 6 * MINUTE)


def test_all_is_capped_to_the_latest() -> None:
    """Of 1,000 the last 3 are fired, the others counted."""
    found = planned(every(minutes=1), 0, 999 * MINUTE, "all", most=3)
    assert found == Plan([997 * MINUTE, 998 * MINUTE, 999 * MINUTE], 997, 1000 * MINUTE)


@pytest.mark.parametrize("misfire", ["latest", "all", "skip"])
@pytest.mark.parametrize("jitter_ms", [0, 1, 900, 60_000, 200_000])
@pytest.mark.parametrize("late", [0, 59_999, 60_000, 61_000, 17 * MINUTE + 123])
def test_what_is_counted_is_what_one_finds_by_looking_at_each(
    misfire: str, jitter_ms: int, late: int
) -> None:
    """The numbers, the fires and the next slot of an interval, and of the cron of the same times: also with a
    jitter that a trigger of before may have."""
    interval = dataclasses.replace(every(minutes=1), jitter_ms=jitter_ms)
    slot = 1_700_000_040_000
    now = slot + late
    due: list[int] = []
    while interval.due("t", slot + len(due) * MINUTE) <= now:
        due.append(slot + len(due) * MINUTE)
    for schedule in (interval, dataclasses.replace(cron("* * * * *"), jitter_ms=jitter_ms)):
        found = planned(schedule, slot, now, misfire, most=5)
        if not due:
            assert found == Plan([], 0, schedule.first(now))
            continue
        assert len(found.fires) + found.missed == len(due)
        assert found.next_slot == due[-1] + MINUTE
        if misfire != "skip":
            assert found.fires == due[-5 if misfire == "all" else -1 :]


def test_an_interval_is_counted_without_looking_at_each() -> None:
    """A second, missed for a year: 31 million, to the last one."""
    year = 365 * 24 * 60 * MINUTE
    assert planned(every(seconds=1), 0, year) == Plan([year], year // 1000, year + 1000)
    assert every(seconds=1).most_slots(0, year) == 0


@pytest.mark.parametrize("expression", ["@hourly", "0 * * * *"])
def test_every_hour_goes_on_through_an_hour_that_comes_twice(expression: str) -> None:
    """Whatever it is called."""
    schedule = cron(expression, "Europe/Berlin")
    slot, slots = at("2026-10-24T22:30:00+00:00"), []
    for _ in range(5):
        slot = schedule.after(slot)
        slots.append(slot)
    assert [b - a for a, b in pairwise(slots)] == [60 * MINUTE] * 4


@pytest.mark.parametrize("expression", ["@daily", "@midnight", "@weekly", "@yearly"])
def test_a_time_of_the_day_by_its_name_keeps_it(expression: str) -> None:
    """Midnight, in winter and in summer."""
    schedule = cron(expression, "Europe/Berlin")
    slot = at("2026-02-01T12:00:00+00:00")
    for _ in range(60):
        slot = schedule.after(slot)
        local = datetime.fromtimestamp(slot / 1000, schedule.zone)
        assert (local.hour, local.minute) == (0, 0)


def test_a_cron_of_every_minute_missed_for_a_day_is_counted_exactly() -> None:
    """1,440 slots of which the last is fired."""
    start = at("2026-05-01T00:00:00+00:00")
    found = planned(cron("* * * * *"), start, start + 1440 * MINUTE - 1)
    assert (len(found.fires), found.missed) == (1, 1439)


def test_jitter_spreads_and_is_the_same_for_whoever_asks() -> None:
    """A thousand timers of one minute are due over the whole of it, each always at its own moment."""
    schedule = cron("0 * * * *", jitter=timedelta(minutes=1))
    delays = [schedule.due(f"t{i}", 0) for i in range(1000)]
    assert delays == [schedule.due(f"t{i}", 0) for i in range(1000)]
    assert 0 <= min(delays) < 1000
    assert 59_000 < max(delays) < MINUTE
    assert max(sum(d // 1000 == second for d in delays) for second in range(60)) < 50


@pytest.mark.parametrize(
    ("expression", "zone", "says"),
    [
        ("0 0 30 2 *", "UTC", "never fires"),
        ("61 * * * *", "UTC", "61"),
        ("every day", "UTC", "cron 'every day'"),
        ("", "UTC", "cron ''"),
        ("0 9 * * *", "Mars/Olympus", "unknown time zone 'Mars/Olympus'"),
        ("0 9 * * *", "../etc/passwd", "unknown time zone"),
    ],
)
def test_what_cannot_be_meant_is_refused(expression: str, zone: str, says: str) -> None:
    """With the reason."""
    with pytest.raises(ValueError, match=says):
        cron(expression, zone)


@pytest.mark.parametrize(
    ("schedule", "jitter", "says"),
    [
        (every(minutes=1), timedelta(seconds=61), "at most the 60 s"),
        (cron("0,5 * * * *"), timedelta(seconds=301), "at most the 300 s"),
        (cron("0 9 * * *", "Europe/Berlin"), timedelta(days=1, seconds=1), "at most the 86400 s"),
    ],
)
def test_a_jitter_longer_than_the_time_between_two_is_refused(
    schedule: Schedule, jitter: timedelta, says: str
) -> None:
    """With what it may be at most: the same in each month of the year."""
    longest = dataclasses.replace(schedule, jitter_ms=int(jitter.total_seconds()) * 1000 - 1000)
    longest.check_jitter()
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(longest, jitter_ms=longest.jitter_ms + 1000).check_jitter()
