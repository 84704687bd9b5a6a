"""What a node measures of itself when somebody scrapes it, and the page that its health server gives."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter as Count
from collections.abc import Iterator

from colony.metrics.exposition import Page, page
from colony.metrics.fleet import Family, FleetReader
from workers.node.context import NodeContext
from workers.node.heart import Heart
from workers.node.watchdog import Watchdog
from workers.running import RUNNING


class Gauges:
    """The metrics of one node, with those of its fleet. From any thread; one scrape after another."""

    def __init__(self, context: NodeContext, heart: Heart, watchdog: Watchdog) -> None:
        self._context = context
        self._heart = heart
        self._watchdog = watchdog
        settings, name = context.settings, context.colony.name
        self._labels = {"colony": name}
        self._fleet = FleetReader(settings.store_url, settings.queue_url, [name])
        self._one = threading.Lock()

    def page(self, accept: str | None) -> Page:
        """The answer to a scrape."""
        with self._one:
            fleet = asyncio.run(self._fleet.families())
        return page([*fleet, *self._measured()], accept, self._labels)

    def _measured(self) -> Iterator[Family]:
        context, heart = self._context, self._heart
        lease = max(0.0, context.lease.seconds_left)
        for name, words, value in (
            ("lease_seconds", "What is left of this node's lease.", lease),
            ("unheard_seconds", "Since when no beat has been answered.", heart.unheard_for),
            ("loop_lag_seconds", "How long the agent loop took to answer.", heart.lag),
            (
                "broker_silence_seconds",
                "Since when the broker has not answered the consumer.",
                self._watchdog.silent_for,
            ),
            ("draining", "1 while this node drains.", float(context.drain.begun)),
            ("slots", "Workers that this node runs at once.", float(heart.concurrency)),
        ):
            yield Family(f"colony_node_{name}", words, samples=[(self._labels, value)])
        if context.children.forked:
            return  # what they run now is counted in `colony_workers` alone
        running = Count(dict.fromkeys(context.colony.agents, 0))
        running.update(each.agent_name for each in list(RUNNING.values()))
        yield Family(
            "colony_node_running",
            "Slices that run here, by agent.",
            samples=[({**self._labels, "agent": name}, n) for name, n in running.items()],
        )
