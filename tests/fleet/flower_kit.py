"""A real Flower over a fleet, started as users start it, and what is asked of it."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colony.testing import Fleet, wait_until

USER, PASSWORD = "ops", "a-password-of-tests"


@dataclass(frozen=True, slots=True)
class Answer:
    """What Flower answered."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class Flower:
    """A running one."""

    url: str
    log: Path

    def ask(
        self, path: str, data: bytes | None = None, credentials: str = f"{USER}:{PASSWORD}"
    ) -> Answer:
        """One request; a POST with `data`."""
        request = urllib.request.Request(self.url + path, data)
        if credentials:
            basic = base64.b64encode(credentials.encode()).decode()
            request.add_header("Authorization", f"Basic {basic}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())
        except (urllib.error.URLError, OSError) as error:
            return Answer(0, str(error))

    def task(self, worker_id: str) -> dict[str, Any]:
        """What it knows of a worker; nothing where it knows nothing."""
        answer = self.ask(f"/api/task/info/{worker_id}")
        return answer.json if answer.status == 200 else {}

    async def until(self, worker_id: str, **fields: Any) -> dict[str, Any]:
        """Wait until it shows these fields of a worker, and return all of them."""

        def shown() -> dict[str, Any] | None:
            task = self.task(worker_id)
            known = {name: task.get(name) for name in fields}
            return task if known == fields else None

        try:
            found: dict[str, Any] = await wait_until(shown, 15, what=f"Flower shows {fields}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows {self.task(worker_id)}") from None
        return found

    async def until_it_knows(self, nodes: int) -> list[str]:
        """Wait until it has heard of so many nodes; their Celery names."""

        def known() -> list[str] | None:
            answer = self.ask("/api/workers?status=1")
            names = [name for name, up in answer.json.items() if up] if answer.status == 200 else []
            return names if len(names) >= nodes else None

        try:
            found: list[str] = await wait_until(known, 20, what=f"Flower knows {nodes} nodes")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log.read_text()[-2000:]}") from None
        return found


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def command(redis_url: str, colony_id: str, *options: str) -> list[str]:
    """`colony flower`."""
    flower = [sys.executable, "-m", "colony.cli", "flower", "--colony", colony_id]
    return [*flower, "--redis-url", redis_url, *options]


@contextmanager
def flower(fleet: Fleet, folder: Path, *options: str) -> Iterator[Flower]:
    """One that watches a fleet; its credentials are in a file."""
    credentials = folder / "flower.users"
    credentials.write_text(f"{USER}:{PASSWORD}\n")
    port = free_port()
    words = ["--port", str(port), "--basic-auth-file", str(credentials), *options]
    env = {name: value for name, value in os.environ.items() if "FLOWER" not in name}
    log = folder / f"flower-{port}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(fleet.redis_url, fleet.colony_id, *words), env=env, stdout=out, stderr=out
        )
    try:
        yield Flower(f"http://127.0.0.1:{port}", log)
    finally:
        process.terminate()
        process.wait(20)
