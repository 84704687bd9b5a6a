"""The node's health over HTTP, for an orchestrator's probes: off unless COLONY_HEALTH_PORT is set.

    GET /livez    200, or 503 when the node should be started again: it is deaf, or its agent loop is blocked
    GET /metrics  the metrics of this node and of its fleet, for Prometheus (`colony.metrics`)
    GET /readyz   200, or 503 while it can take no worker: also when its lease is over, Redis or the broker
                  is away, it has not begun to consume, or drains

The body of a probe is JSON: ``{"ok", "node", "reasons", "lease_seconds", "lag_seconds", "silent_seconds"}``.
It is served from threads of its own, so a loop that hangs does not hang the answer.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from colony.errors import ConfigurationError
from workers.node.context import NodeContext
from workers.node.gauges import Gauges
from workers.node.heart import Heart
from workers.node.watchdog import Watchdog
from workers.transport import Heard

log = logging.getLogger("colony.health")

REQUEST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one probe is told."""

    ok: bool
    node: str
    reasons: list[str]
    lease_seconds: float
    lag_seconds: float
    silent_seconds: float


class Health:
    """The server. Started before the pool, ended after it: a node that drains says so."""

    def __init__(self, context: NodeContext, heart: Heart, watchdog: Watchdog) -> None:
        self._context = context
        self._heart = heart
        self._watchdog = watchdog
        self.gauges = Gauges(context, heart, watchdog)
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen. Raises `ConfigurationError` if the address is taken."""
        settings = self._context.settings
        if settings.health_port is None:
            return
        where = (settings.health_host, settings.health_port)
        try:
            self._server = _Server(where, self)
        except OSError as error:
            raise ConfigurationError(
                f"COLONY_HEALTH_PORT: cannot listen on {where[0]}:{where[1]} ({error}): name a free "
                "port, and with --processes as many free ones after it; COLONY_HEALTH_HOST names the address"
            ) from error
        log.info("health: http://%s:%d/livez and /readyz", where[0], self._server.server_port)
        threading.Thread(
            target=self._server.serve_forever, name="colony-health", daemon=True
        ).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def live(self) -> Verdict:
        """Whether the node can mend itself."""
        return self._verdict(self._stuck())

    def ready(self) -> Verdict:
        """Whether the node can take workers now."""
        return self._verdict([*self._stuck(), *self._hindered()])

    def _stuck(self) -> list[str]:
        reasons = [] if self._watchdog.reason is None else [f"deaf: {self._watchdog.reason}"]
        if self._heart.lag > self._context.settings.deaf_after.total_seconds():
            reasons.append(f"the agent loop has been blocked for {self._heart.lag:.1f} s")
        return reasons

    def _hindered(self) -> list[str]:
        settings, reasons = self._context.settings, []
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
        if self._watchdog.silent_for > settings.deaf_after.total_seconds() / 2:
            reasons.append(f"no answer of the broker for {self._watchdog.silent_for:.1f} s")
        return reasons

    def _verdict(self, reasons: list[str]) -> Verdict:
        return Verdict(
            not reasons,
            self._context.node,
            reasons,
            round(max(0.0, self._context.lease.seconds_left), 3),
            round(self._heart.lag, 3),
            round(self._watchdog.silent_for, 3),
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, where: tuple[str, int], health: Health) -> None:
        self.health = health
        super().__init__(where, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        """The two probes, and the metrics."""
        if self.path.partition("?")[0] == "/metrics":
            self._answer(*self.server.health.gauges.page(self.headers.get("Accept")))
            return
        probes = {"/livez": self.server.health.live, "/readyz": self.server.health.ready}
        probe = probes.get(self.path.partition("?")[0])
        if probe is None:
            self.send_error(HTTPStatus.NOT_FOUND, explain="there are /livez, /readyz and /metrics")
            return
        verdict = probe()
        status = HTTPStatus.OK if verdict.ok else HTTPStatus.SERVICE_UNAVAILABLE
        self._answer(status, "application/json", json.dumps(asdict(verdict)).encode() + b"\n")

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: only for those who debug."""
        log.debug(format, *args)
