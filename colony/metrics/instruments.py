"""Counters and histograms as plain numbers: a dictionary look-up and an addition each, no lock.

Each series is added to by one thread (the agent loop, or one role); whoever reads sees a moment's value.
What a forked child counts is taken there and put here (`workers.node.children`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import add
from typing import Final

MOST_SERIES: Final = 200
"""Series of one metric; what comes more is counted together as "other"."""
OTHER: Final = "other"

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
"""Bounds for what takes from milliseconds to minutes."""

Labels = tuple[str, ...]

COUNTERS: Final[list[Counter]] = []
HISTOGRAMS: Final[list[Histogram]] = []


class Counter:
    """A number that only grows, one for each combination of its labels' values."""

    __slots__ = ("_series", "help", "labels", "name")

    def __init__(self, name: str, help: str, labels: Sequence[str] = ()) -> None:
        self.name, self.help, self.labels = name, help, tuple(labels)
        self._series: dict[Labels, float] = {} if labels else {(): 0.0}
        COUNTERS.append(self)

    def add(self, *of: str, by: float = 1) -> None:
        """Add to the series of these labels, in their order."""
        series = self._series
        if of not in series:
            of = self._room_for(of)
        series[of] = series.get(of, 0) + by

    def series(self) -> list[tuple[Labels, float]]:
        """All there are now."""
        return list(self._series.items())

    def take(self) -> list[tuple[Labels, list[float]]]:
        """What there is, for somebody else to `put`: from here on it begins anew."""
        taken = [(of, [number]) for of, number in self._series.items() if number]
        self._series = dict.fromkeys(self._series, 0.0)
        return taken

    def put(self, of: Labels, taken: Sequence[float]) -> None:
        """Add what was taken elsewhere."""
        self.add(*of, by=taken[0])

    def _room_for(self, of: Labels) -> Labels:
        if len(of) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, got {of}")
        return of if len(self._series) < MOST_SERIES else (OTHER,) * len(of)


class Histogram:
    """How long something took, in seconds: how often up to each bound, how often in all, and the sum."""

    __slots__ = ("_series", "bounds", "help", "labels", "name")

    def __init__(
        self,
        name: str,
        help: str,
        labels: Sequence[str] = (),
        bounds: Sequence[float] = SECONDS,
    ) -> None:
        self.name, self.help, self.labels, self.bounds = name, help, tuple(labels), tuple(bounds)
        self._series: dict[Labels, list[float]] = {}
        HISTOGRAMS.append(self)

    def observe(self, seconds: float, *of: str) -> None:
        """Count one that took so long."""
        counts = self._series.get(of)
        if counts is None:
            counts = self._begin(of)
        counts[bisect_left(self.bounds, seconds)] += 1
        counts[-1] += seconds

    def series(self) -> list[tuple[Labels, list[float]]]:
        """All there are now: counts by bound, then those above all bounds, then the sum of seconds."""
        return [(of, list(counts)) for of, counts in list(self._series.items())]

    def take(self) -> list[tuple[Labels, list[float]]]:
        """What there is, for somebody else to `put`: from here on it begins anew."""
        taken, self._series = self._series, {}
        return list(taken.items())

    def put(self, of: Labels, taken: Sequence[float]) -> None:
        """Add what was taken elsewhere."""
        counts = self._series.get(of)
        if counts is None:
            counts = self._begin(of)
        counts[:] = map(add, counts, taken)

    def _begin(self, of: Labels) -> list[float]:
        if len(of) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, got {of}")
        if len(self._series) >= MOST_SERIES:
            of = (OTHER,) * len(of)
        return self._series.setdefault(of, [0.0] * (len(self.bounds) + 2))
