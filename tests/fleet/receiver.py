"""A real receiver of webhooks on loopback, which checks what comes with the `standardwebhooks` package."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLDER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request is answered: after `delay` seconds, or not before the receiver lets go (`held`)."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    held: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    at: float
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """Its webhook-id."""
        return self.headers["webhook-id"]

    def verified(self, secret: str = SECRET) -> dict[str, Any]:
        """Its payload. Raises when a signature, the id or the time is wrong."""
        payload: dict[str, Any] = Webhook(secret).verify(self.body, dict(self.headers))
        return payload


class Receiver:
    """Answers each path as it is told, the last answer for ever; remembers every request."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.answers: dict[str, list[Answer]] = {}
        self.let_go = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._server.receiver = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Where a path is."""
        return f"http://{host}:{self._server.server_port}{path}"

    def at(self, path: str) -> list[Received]:
        """What came to a path so far."""
        return [request for request in self.received if request.path == path]

    def answer(self, path: str) -> Answer:
        """The next answer."""
        answers = self.answers.get(path, [Answer()])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def close(self) -> None:
        """Listen no more."""
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        receiver.received.append(Received(time.monotonic(), self.path, headers, body))
        answer = receiver.answer(self.path)
        if answer.held:
            receiver.let_go.wait(60)
        time.sleep(answer.delay)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test tells."""

    def handle(self) -> None:
        """A sender that went away is what some of the tests are about."""
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):
            return


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver for one test."""
    receiver = Receiver(tls)
    try:
        yield receiver
    finally:
        receiver.close()
