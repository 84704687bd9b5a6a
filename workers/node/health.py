"""Whether a node is well, for the probes of orchestrators (`workers.probes`) and for systemd.

Live: not while it is deaf, or its agent loop is blocked. Ready: not while it can take no worker, also when
its lease is over, Redis or the broker is away, it has not begun to consume, or drains.
"""

from __future__ import annotations

from dataclasses import dataclass

from colony.health import Verdict
from colony.metrics.exposition import Page
from workers.node.context import NodeContext
from workers.node.gauges import Gauges
from workers.node.heart import Heart
from workers.node.watchdog import Watchdog
from workers.probes import Probes
from workers.transport import Heard

SILENT_SECONDS = 5.0
"""The broker answers each second, if only that there is nothing: one that was silent for so long is away."""


@dataclass(frozen=True, slots=True)
class NodeVerdict(Verdict):
    """What one probe of a node is told."""

    node: str
    lease_seconds: float
    lag_seconds: float
    silent_seconds: float


class Health:
    """The server. Started before the pool, ended after it: a node that drains says so."""

    def __init__(self, context: NodeContext, heart: Heart, watchdog: Watchdog) -> None:
        self._context = context
        self._heart = heart
        self._watchdog = watchdog
        self._gauges = Gauges(context, heart, watchdog)
        self._probes: Probes | None = None

    def start(self) -> None:
        """Listen, where a port is named. Raises `ConfigurationError` if the address is taken."""
        settings = self._context.settings
        if settings.health_port is not None:
            self._probes = Probes(settings.health_host, settings.health_port, self)
            self._probes.start()

    def stop(self) -> None:
        """Listen no more."""
        if self._probes is not None:
            self._probes.stop()

    def page(self, accept: str | None) -> Page:
        """The metrics of this node and of its fleet."""
        return self._gauges.page(accept)

    def live(self) -> NodeVerdict:
        """Whether the node can mend itself."""
        return self._verdict(self._stuck())

    def ready(self) -> NodeVerdict:
        """Whether the node can take workers now."""
        return self._verdict([*self._stuck(), *self._hindered()])

    def _stuck(self) -> list[str]:
        reasons = [] if self._watchdog.reason is None else [f"deaf: {self._watchdog.reason}"]
        if self._heart.lag > self._context.settings.deaf_after.total_seconds():
            reasons.append(f"the agent loop has been blocked for {self._heart.lag:.1f} s")
        return reasons

    def _hindered(self) -> list[str]:
        reasons = []
        patience = min(SILENT_SECONDS, self._context.settings.deaf_after.total_seconds() / 2)
        if self._context.drain.begun:
            reasons.append("the node drains")
        if not self._context.lease.good:
            reasons.append(
                f"the lease is over: no answer to a beat for {self._heart.unheard_for:.1f} s"
            )
        if self._watchdog.broker_away:
            reasons.append("the broker is away")
        if not Heard.reply:
            reasons.append("the node does not consume yet")
        if self._watchdog.silent_for > patience:
            reasons.append(f"no answer of the broker for {self._watchdog.silent_for:.1f} s")
        return reasons

    def _verdict(self, reasons: list[str]) -> NodeVerdict:
        return NodeVerdict(
            not reasons,
            reasons,
            self._context.node,
            round(max(0.0, self._context.lease.seconds_left), 3),
            round(self._heart.lag, 3),
            round(self._watchdog.silent_for, 3),
        )
