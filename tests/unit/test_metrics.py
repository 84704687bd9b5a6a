"""Counting in one process: exact, bounded, and as Prometheus reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from colony.metrics.exposition import page
from colony.metrics.fleet import Family
from colony.metrics.instruments import COUNTERS, HISTOGRAMS, MOST_SERIES, OTHER, Counter, Histogram
from workers.node.children import Children


@pytest.fixture
def counter() -> Iterator[Counter]:
    """A counter of this test alone."""
    made = Counter("colony_test_total", "Of a test.", ("agent",))
    yield made
    COUNTERS.remove(made)


@pytest.fixture
def histogram() -> Iterator[Histogram]:
    """A histogram of this test alone."""
    made = Histogram("colony_test_seconds", "Of a test.", ("agent",), bounds=(0.1, 1))
    yield made
    HISTOGRAMS.remove(made)


def samples(text: bytes, prefix: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a page says, by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


def test_series_are_bounded(counter: Counter, histogram: Histogram) -> None:
    """A label that takes ever new values ends as "other", and nothing is lost of the sum."""
    for number in range(3 * MOST_SERIES):
        counter.add(f"agent-{number}")
        histogram.observe(0.5, f"agent-{number}")
    counted, observed = dict(counter.series()), dict(histogram.series())
    assert len(counted) == len(observed) == MOST_SERIES + 1
    assert sum(counted.values()) == 3 * MOST_SERIES
    assert counted[(OTHER,)] == 2 * MOST_SERIES
    assert observed[(OTHER,)] == [0, 2 * MOST_SERIES, 0, MOST_SERIES]


def test_labels_are_counted(counter: Counter, histogram: Histogram) -> None:
    """A call with other labels than were declared is a bug, and says so."""
    with pytest.raises(ValueError, match="has the labels"):
        counter.add()
    with pytest.raises(ValueError, match="has the labels"):
        histogram.observe(1.0, "a", "b")


def test_the_page_is_what_prometheus_reads(counter: Counter, histogram: Histogram) -> None:
    """Counters, cumulative buckets and gauges, with the labels that the process adds; also OpenMetrics."""
    counter.add('qu"ote')
    for seconds in (0.1, 0.5, 7):
        histogram.observe(seconds, "a")
    gauge = Family("colony_test_now", "Now.", samples=[({"colony": "c"}, 2.5)])
    status, kind, body = page([gauge], None, {"colony": "c"})
    assert (status, kind.partition(";")[0]) == (200, "text/plain")
    of = (("agent", "a"), ("colony", "c"))
    assert samples(body, "colony_test") == {
        ("colony_test_total", (("agent", 'qu"ote'), ("colony", "c"))): 1,
        ("colony_test_now", (("colony", "c"),)): 2.5,
        ("colony_test_seconds_bucket", (*of, ("le", "0.1"))): 1,
        ("colony_test_seconds_bucket", (*of, ("le", "1"))): 2,
        ("colony_test_seconds_bucket", (*of, ("le", "+Inf"))): 3,
        ("colony_test_seconds_count", of): 3,
        ("colony_test_seconds_sum", of): pytest.approx(7.6),
    }
    opened = page([], "application/openmetrics-text; version=1.0.0", {})
    assert opened.content_type.startswith("application/openmetrics-text")
    assert opened.body.endswith(b"# EOF\n")


def test_a_child_whose_node_is_gone_keeps_what_it_has_counted(counter: Counter) -> None:
    """Nobody listens any more: that fails no slice, and no number is lost."""
    heard, told = os.pipe()
    os.close(heard)
    child = Children()
    child._pipe = told
    counter.add("x", by=3)
    child.tell()
    os.close(told)
    assert counter.series() == [(("x",), 3)]
