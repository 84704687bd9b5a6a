"""Secrets planted in every place where one belongs are in no other: logs, screens, events, errors, Flower,
metrics, command lines, Redis."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from redis import Redis

from colony import OnComplete, ReportStatus
from colony.settings import Settings
from colony.testing import wait_until
from tests.fleet.receiver import SECRET, Answer, receiving
from tests.fleet.secure_journey import (
    DEFINITION,
    FLOWER_LOGIN,
    PLANTED,
    Journey,
    journey,
    whole_journey,
)
from tests.fleet.test_credentials import whole
from tests.secure_redis import SecureRedis, secure_redis

pytestmark = [pytest.mark.fleet]


class _Refuses(BaseHTTPRequestHandler):
    """A model server that answers every question with the key it was shown."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        said = json.dumps({"error": {"message": f"Incorrect key: {self.headers['authorization']}"}})
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def denied(server: SecureRedis) -> list[str]:
    """What Redis has refused so far: user and object. redis-py does without CLIENT SETINFO, the doctor
    without CONFIG, Flower without the lengths of the queues."""
    with Redis.from_url(server.url("admin"), decode_responses=True) as admin:
        entries = admin.acl_log(100)
    told = [f"{e['username']}: {e['reason']} {e['object']!r} ({e['context']})" for e in entries]
    fine = ("command 'client", "operator: command 'config", "flower: key 'colony.secure")
    return [t for t in told if not any(words in t for words in fine)]


@contextmanager
def model_that_tells() -> Iterator[str]:
    """Its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


def command_lines() -> str:
    """Those of this process' descendants, and their titles."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"PPid:\s+(\d+)", (process / "status").read_text())
            if parent and (process / "environ").read_bytes().find(b"COLONY_REDIS_URL") >= 0:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (OSError, ValueError):
            continue  # it has ended, or is somebody else's
    return "\n".join(found)


async def failures(j: Journey) -> str:
    """What goes wrong, and what is said of it to producers."""
    said = []
    with receiving() as receiver:
        receiver.answers["/down"] = [Answer(500)]
        hook = OnComplete(url=receiver.url("/down"), secret="env:COLONY_HOOK_SECRET")
        ids = [
            *await j.runtime.spawn("fetch", agent="keyed"),
            *await j.runtime.spawn("fall", on_complete=hook),
            *await j.runtime.spawn("raise"),
        ]
        reports = await j.runtime.wait_for_worker_reports(ids, timeout=20)
        await wait_until(lambda: receiver.at("/down"), 10, what="the webhook fails")
    assert [report.status for report in reports] == [
        *(ReportStatus.FAILED, ReportStatus.SUCCESS, ReportStatus.FAILED)
    ]
    said += [report.model_dump_json() for report in reports]
    assert "TEST_MODEL_KEY" in said[0], "the setting is named"
    for command in (["show", ids[0]], ["show", ids[1], "--json"], ["tree", ids[2]], ["events"]):
        said.append(await asyncio.to_thread(j.operate, *command))

    return "\n".join(said)


async def over_http(j: Journey) -> str:
    """Flower and gateway: everything that they tell."""
    said = []
    async with httpx2.AsyncClient(
        timeout=30, auth=httpx2.BasicAuth(*FLOWER_LOGIN.split(":"))
    ) as client:
        for path in (
            "/api/workers?refresh=1",
            "/api/tasks",
            "/workers",
            "/tasks",
            "/broker",
            "/metrics",
        ):
            said.append((await client.get(j.flower_url + path)).text)
        [name] = (await client.get(f"{j.flower_url}/api/workers")).json()
        said.append((await client.get(f"{j.flower_url}/worker/{name}")).text)
    bearer = {"Authorization": f"Bearer {j.token}"}
    async with httpx2.AsyncClient(timeout=30, headers=bearer) as client:
        base = f"{j.gateway.url}/v1/colonies/{j.fleet.colony_id}"
        for url in (f"{base}/workers", f"{base}/triggers", f"{base}/nodes", f"{base}/stats"):
            said.append((await client.get(url)).text)
        for path in ("/metrics", "/openapi.json", "/readyz"):
            said.append((await client.get(j.gateway.url + path)).text)
        wrong = await client.post(
            f"{base}/hooks/in", json={}, headers={"Authorization": "Bearer planted-wrong-one"}
        )
        assert wrong.status_code == 401
        said.append(wrong.text)
    return "\n".join(said)


def wrong_logins(server: SecureRedis) -> str:
    """Errors of processes whose password, or URL, is wrong."""
    url = server.url("node").replace("of-node", "that-is-wrong")
    said = []
    for command, given in (
        (["colony.cli", "list"], url),
        (["colony.cli", "doctor"], url.replace("redis://", "reddis://")),
        (["workers", "tests.fleet.definitions:deadly"], url),
    ):
        env = {**os.environ, "COLONY_REDIS_URL": given, "COLUMNS": "500"}
        done = subprocess.run(
            [sys.executable, "-m", *command], env=env, capture_output=True, text=True, check=False
        )
        said.append(done.stdout + done.stderr)
    return "\n".join(said)


@pytest.mark.timeout(180)
async def test_planted_secrets_stay_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journey with failures, each process with a user of its own, which is denied nothing; then
    everything is searched."""
    with model_that_tells() as model, secure_redis(tmp_path, users=True) as server:
        monkeypatch.setenv("TEST_MODEL_URL", model)
        async with journey(tmp_path, server.url, {"delivery_retries": "0.2,60"}) as running:
            await whole_journey(running, {})
            evidence = {"failures": await failures(running)}
            evidence["over http"] = await over_http(running)
            evidence["command lines"] = command_lines()
            screens = [
                await asyncio.to_thread(running.operate, *command)
                for command in (
                    ["doctor", DEFINITION],
                    ["deliveries", "list"],
                    ["token", "list", "--json"],
                    ["trigger", "list", "--json"],
                )
            ]
            evidence["screens"] = "\n".join(screens)
            assert denied(server) == []
            running.fleet.nodes[0].kill()
            token = running.token
            evidence["logs"] = running.logs()
        evidence["Redis"] = whole(server.url("admin"))
        evidence["wrong logins"] = wrong_logins(server)
    secrets = {
        **{f"the password of {user}": secret for user, secret in server.passwords.items()},
        **PLANTED,
        "Flower's login": FLOWER_LOGIN.split(":")[1],
        "the gateway's token": token.rpartition("_")[2],
        "the secret of webhooks out": SECRET.removeprefix("whsec_"),
        "any": "planted-",
    }
    found = [
        f"{name} in {where}: …{text[max(0, text.index(secret) - 120) : text.index(secret) + 60]}…"
        for where, text in evidence.items()
        for name, secret in secrets.items()
        if secret in text
    ]
    assert found == [], "\n".join(found)
    for where, text in evidence.items():
        assert len(text) > 200, f"{where}: there is something to look at: {text}"


def test_settings_do_not_show_what_they_hold() -> None:
    """Neither printed, nor in an error."""
    settings = Settings(redis_url="redis://user:planted@h/0", broker_url="redis://:planted@h/1")
    assert "planted" not in repr(settings)
