"""``/metrics``: what this process has counted and what was read of the fleet, as Prometheus takes it.

Needs prometheus-client. `Page` is what an HTTP server answers with, whatever server that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

from colony.metrics.fleet import Family
from colony.metrics.instruments import COUNTERS, HISTOGRAMS

if TYPE_CHECKING:
    from prometheus_client import Metric

MISSING: Final = "metrics need prometheus-client: pip install 'colony[metrics]'\n"


class Page(NamedTuple):
    """An answer."""

    status: int
    content_type: str
    body: bytes


def page(
    measured: Iterable[Family], accept: str | None, labels: Mapping[str, str] | None = None
) -> Page:
    """The metrics of this moment in the format that the scraper asks for (its header Accept).

    `measured`: those that are not counted by this process. `labels` are added to those that are. 501
    where prometheus-client is not installed.
    """
    if find_spec("prometheus_client") is None:
        return Page(501, "text/plain; charset=utf-8", MISSING.encode())
    # Only where it is scraped: a producer needs no client, and a node's start need not wait for it.
    import prometheus_client as client  # noqa: PLC0415
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415

    registry = client.CollectorRegistry(auto_describe=False)
    client.ProcessCollector(registry=registry)
    client.GCCollector(registry=registry)
    registry.register(_Collected(measured, labels or {}))
    encode, content_type = choose_encoder(accept or "")
    return Page(200, content_type, encode(registry))


class _Collected:
    """All of ours, as prometheus-client's collectors give them."""

    def __init__(self, measured: Iterable[Family], labels: Mapping[str, str]) -> None:
        self._measured = measured
        self._labels = labels

    def collect(self) -> Iterator[Metric]:
        """One metric after another."""
        yield from map(_family, self._measured)
        yield from _counted(self._labels)


def _family(family: Family) -> Metric:
    from prometheus_client import Metric  # noqa: PLC0415 (see page)

    name = family.name.removesuffix("_total") if family.is_counter else family.name
    metric = Metric(name, family.help, "counter" if family.is_counter else "gauge")
    for labels, value in family.samples:
        metric.add_sample(family.name, dict(labels), value)
    return metric


def _counted(added: Mapping[str, str]) -> Iterator[Metric]:
    from prometheus_client import Metric  # noqa: PLC0415 (see page)

    for counter in COUNTERS:
        metric = Metric(counter.name.removesuffix("_total"), counter.help, "counter")
        for values, value in counter.series():
            named = {**added, **dict(zip(counter.labels, values, strict=True))}
            metric.add_sample(counter.name, named, value)
        yield metric
    for histogram in HISTOGRAMS:
        metric = Metric(histogram.name, histogram.help, "histogram")
        for values, counts in histogram.series():
            named = {**added, **dict(zip(histogram.labels, values, strict=True))}
            *up_to, in_all = accumulate(counts[:-1])
            for bound, count in zip(histogram.bounds, up_to, strict=True):
                metric.add_sample(f"{histogram.name}_bucket", {**named, "le": f"{bound:g}"}, count)
            metric.add_sample(f"{histogram.name}_bucket", {**named, "le": "+Inf"}, in_all)
            metric.add_sample(f"{histogram.name}_count", named, in_all)
            metric.add_sample(f"{histogram.name}_sum", named, counts[-1])
        yield metric
