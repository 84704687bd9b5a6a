"""aimock, a model server that is not ours, as a process: what it answers and what it was asked.

`make aimock` installs it. It matches a request by its last user message (our task) and by how many
answers the conversation holds, see the fixtures in tests/fleet/test_http_model.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SERVER = ROOT / ".venv/aimock/node_modules/.bin/llmock"
OLDEST_NODE = (20, 15)
START_SECONDS = 20.0

Fixture = Mapping[str, Any]
"""What a request must match, and what it is answered with."""


def answer(task: str, turn: int, response: dict[str, Any], **options: Any) -> Fixture:
    """What the server says to the conversation of `task` that holds `turn` answers."""
    return {"match": {"userMessage": task, "turnIndex": turn}, "response": response, **options}


def first(task: str, response: dict[str, Any], **options: Any) -> Fixture:
    """What it says to the first request of `task`; the request after it finds `then`."""
    match = {"userMessage": task, "turnIndex": 0, "sequenceIndex": 0}
    return {"match": match, "response": response, **options}


def then(task: str, response: dict[str, Any]) -> Fixture:
    """What it says when it is asked the same again."""
    match = {"userMessage": task, "turnIndex": 0, "sequenceIndex": 1}
    return {"match": match, "response": response}


def call(name: str, arguments: dict[str, Any] | str) -> dict[str, Any]:
    """An answer with one tool call."""
    return {"toolCalls": [{"name": name, "arguments": arguments}]}


def report(summary: str, **data: Any) -> dict[str, Any]:
    """An answer that ends the worker."""
    return call("report_to_parent", {"status": "success", "summary": summary, "data": data})


def error(status: int, message: str, **options: Any) -> dict[str, Any]:
    """An error answer."""
    return {"error": {"message": message}, "status": status, **options}


def why_missing() -> str | None:
    """What keeps aimock from running here, and the remedy; None if it can run."""
    node = shutil.which("node")
    if node is None:
        return "there is no node on PATH: install Node 20.15 or newer, then run make aimock"
    said = subprocess.run([node, "--version"], capture_output=True, check=False, text=True).stdout
    version = re.match(r"v(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < OLDEST_NODE:
        return f"node says {said.strip()!r}: aimock needs Node 20.15 or newer"
    if not SERVER.exists():
        return f"{SERVER.relative_to(ROOT)} is missing: run make aimock"
    return None


class AiMock:
    """A running server."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._key = key

    def asked(self, task: str) -> list[dict[str, Any]]:
        """Every request whose last user message holds `task`, in order: body, status, time in ms."""
        asking = urllib.request.Request(
            f"{self.url}/__aimock/journal", headers={"Authorization": f"Bearer {self._key}"}
        )
        with urllib.request.urlopen(asking, timeout=10) as answer:
            journal: list[dict[str, Any]] = json.load(answer)
        return [entry for entry in journal if task in _last_user_message(entry)]


@contextmanager
def aimock(fixtures: Sequence[Fixture], folder: Path, *, key: str) -> Iterator[AiMock]:
    """A server that answers with `fixtures` whoever shows `key`, and the others with 401."""
    script, log = folder / "fixtures.json", folder / "aimock.log"
    script.write_text(json.dumps({"fixtures": list(fixtures)}))
    # Strict: no fixture is an error, and a turn is that turn, not the nearest one.
    command = ["node", str(SERVER), "--port", "0", "--strict", "--fixtures", str(script)]
    environment = os.environ | {"AIMOCK_API_KEYS": key, "AIMOCK_STRICT_TURN_INDEX": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    try:
        yield AiMock(_url(process, log), key)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if found := re.search(r"listening on (http://\S+)", log.read_text(errors="replace")):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"aimock did not start:\n{log.read_text(errors='replace')}")


def _last_user_message(entry: Mapping[str, Any]) -> str:
    messages = (entry.get("body") or {}).get("messages", [])
    return next((str(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
