"""Probes of a node or a beat over HTTP, for orchestrators and Prometheus: where COLONY_HEALTH_PORT is set.

    GET /livez    200, or 503 when the process should be started again
    GET /readyz   200, or 503 while it cannot do its work
    GET /metrics  for Prometheus (`colony.metrics`)

The body of a probe is JSON, with ``ok`` and ``reasons``. It is served from threads of its own, so a loop
that hangs does not hang the answer.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from colony.errors import ConfigurationError
from colony.health import Probed
from colony.metrics.exposition import Page

log = logging.getLogger("colony.health")

REQUEST_SECONDS = 5.0


class Served(Probed, Protocol):
    """Who is asked; from any thread."""

    def page(self, accept: str | None) -> Page:
        """The answer to a scrape."""


class Probes:
    """The server."""

    def __init__(self, host: str, port: int, probed: Served) -> None:
        """Listen. Raises `ConfigurationError` if the address is taken."""
        try:
            self._server = _Server((host, port), probed)
        except OSError as error:
            raise ConfigurationError(
                f"COLONY_HEALTH_PORT: cannot listen on {host}:{port} ({error}): name a free port, and with "
                "--processes as many free ones after it; COLONY_HEALTH_HOST names the address"
            ) from error

    def start(self) -> None:
        """Answer."""
        host, port = self._server.server_address[:2]
        log.info("health: http://%s:%s/livez and /readyz", host, port)
        threading.Thread(
            target=self._server.serve_forever, name="colony-health", daemon=True
        ).start()

    def stop(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, where: tuple[str, int], probed: Served) -> None:
        self.probed = probed
        super().__init__(where, _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = REQUEST_SECONDS

    def do_GET(self) -> None:
        """The two probes, and the metrics."""
        path, probed = self.path.partition("?")[0], self.server.probed
        if path == "/metrics":
            self._answer(*probed.page(self.headers.get("Accept")))
            return
        probe = {"/livez": probed.live, "/readyz": probed.ready}.get(path)
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
