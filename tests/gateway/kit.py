"""A real gateway as a process beside a real fleet, and those who ask it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from colony.runtime import ColonyRuntime
from colony.testing import Process
from tests.nursery import start

START_SECONDS = 30.0
END_SECONDS = 20.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gateway:
    """`colony gateway` as a process, that may be ended and started again on its port.

    `settings` are environment variables without their ``COLONY_``.
    """

    def __init__(self, redis_url: str, log: Path, *arguments: str, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = [
            *(sys.executable, "-m", "colony.cli", "gateway"),
            *("--port", str(self.port), *arguments),
        ]
        kept = {name: value for name, value in os.environ.items() if "COLONY_" not in name}
        given = {f"COLONY_{name.upper()}": value for name, value in settings.items()}
        self._env = {**kept, "COLONY_REDIS_URL": redis_url, **given}
        self.process = self._start()

    def _start(self) -> Process:
        return start(self._command, self._env, None, self.log)

    def wait_ready(self) -> None:
        """Return when it answers that it is ready."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, f"it ended:\n{self.tail()}"
            try:
                if httpx2.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the gateway was not ready within {START_SECONDS} s:\n{self.tail()}")

    def terminate(self) -> int:
        """SIGTERM; its exit code once it has ended."""
        self.process.terminate()
        return self.process.wait(END_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """Start it again on the same port, once it has ended."""
        assert self.process.poll() is not None
        self.process = self._start()
        self.wait_ready()

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class Api:
    """Asks a gateway about one colony, with a token of admin unless told otherwise."""

    gateway: Gateway
    runtime: ColonyRuntime
    client: httpx2.AsyncClient
    tokens: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Where the colony is."""
        return f"{self.gateway.url}/v1/colonies/{self.runtime.colony_id}"

    async def token(self, *scopes: str) -> str:
        """A token with these scopes."""
        if scopes not in self.tokens:
            made = await self.runtime.create_token("test", scopes)
            self.tokens[scopes] = made.token
        return self.tokens[scopes]

    async def ask(
        self,
        method: str,
        path: str,
        *,
        scopes: Iterable[str] = ("admin",),
        token: str | None = None,
        headers: dict[str, str] | None = None,
        **more: Any,
    ) -> httpx2.Response:
        """The answer to one request below the colony."""
        token = token or await self.token(*scopes)
        given = {"Authorization": f"Bearer {token}", **(headers or {})}
        return await self.client.request(method, self.base + path, headers=given, **more)

    async def json(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        """The JSON of an answer that has this status; problems are checked to be whole."""
        answer = await self.ask(method, path, **more)
        assert answer.status_code == status, answer.text
        if status >= 400:
            return problem(answer, status)
        return answer.json() if answer.content else None


def problem(answer: httpx2.Response, status: int) -> Any:
    """The problem that an answer is: RFC 9457's members, and the headers that go with its status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert {"type", "title", "status", "detail"} <= body.keys()
    assert body["status"] == status
    assert body["type"].startswith("urn:colony:problem:")
    assert answer.headers["x-content-type-options"] == "nosniff"
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return body
