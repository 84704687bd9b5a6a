"""A planted secret is nowhere: not in Redis, not on its way there, not in a log, an event or a screen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from redis import Redis

from colony.testing import Fleet

pytestmark = pytest.mark.fleet

PLANTED = "pl4nted-s3cr3t-of-work"
PLANTED_TOO = 'pl4nted "too"\nin two lines'
DEFINITION = "tests.fleet.pipeline_definitions:trusted"


@contextmanager
def all_commands(url: str) -> Iterator[list[str]]:
    """Every command that this Redis is sent meanwhile: messages of Celery, scripts, what is published."""
    seen: list[str] = []
    listening = threading.Event()

    def listen() -> None:
        with Redis.from_url(url) as redis, redis.monitor() as monitor:
            listening.set()
            for command in monitor.listen():
                seen.append(str(command["command"]))
                if "end-of-the-test" in seen[-1]:
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert listening.wait(5)
    yield seen
    with Redis.from_url(url) as redis:
        redis.echo("end-of-the-test")
    thread.join(10)
    assert not thread.is_alive()


def whole(url: str) -> str:
    """The content of every key of a Redis, whatever made it."""
    with Redis.from_url(url, decode_responses=True) as redis:
        read = {
            "string": redis.get,
            "hash": redis.hgetall,
            "set": redis.smembers,
            "list": lambda key: redis.lrange(key, 0, -1),
            "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
            "stream": redis.xrange,
        }
        return repr({key: read[redis.type(key)](key) for key in redis.keys("*")})


def screen(url: str, *arguments: str) -> str:
    """What a command shows."""
    done = subprocess.run(
        [sys.executable, "-m", "colony.cli", *arguments, "--redis-url", url],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "500"},
    )
    return done.stdout + done.stderr


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PLANTED", PLANTED)
    monkeypatch.setenv("TEST_PLANTED_TOO", PLANTED_TOO)


@pytest.mark.usefixtures("planted")
async def test_a_planted_secret_appears_nowhere() -> None:
    async with Fleet(DEFINITION, nodes=2) as fleet:
        runtime = fleet.runtime
        live: list[str] = []
        told = await runtime.subscribe(lambda event: live.append(event.model_dump_json()))
        with all_commands(fleet.redis_url) as commands:
            workers = await runtime.spawn("use", count=4)
            reports = await runtime.wait_for_worker_reports(workers, timeout=30)
        await told.close()
        assert all(report.ok for report in reports), reports
        conversation = json.dumps(await runtime.get_conversation(workers[0]))
        shown = [
            screen(fleet.redis_url, "show", workers[0], "--colony", "trusted"),
            screen(fleet.redis_url, "show", workers[0], "--colony", "trusted", "--json"),
            screen(fleet.redis_url, "events", "--colony", "trusted"),
            screen(fleet.redis_url, "doctor", DEFINITION),
        ]
        logs = [node.log.read_text(errors="replace") for node in fleet.nodes]
        stored = whole(fleet.redis_url)
    evidence = {
        "Redis": stored,
        "commands": "\n".join(commands),
        "events": "\n".join(live),
        "logs": "\n".join(logs),
        "screens": "\n".join(shown),
        "conversation": conversation,
    }
    for where, text in evidence.items():
        assert len(text) > 500, f"{where}: there is something to look at"
        for value in (PLANTED, PLANTED_TOO, json.dumps(PLANTED_TOO)[1:-1], "pl4nted"):
            assert value not in text, where
    for where in ("Redis", "commands", "conversation"):
        assert "Bearer [redacted: work]" in evidence[where], "the calls were made, and written"
        assert "401: [redacted: work]" in evidence[where]
        assert "[redacted: mounted]" in evidence[where]
    assert "signing in with [redacted: work]" in evidence["events"]
    assert "no account 'nobodys' for this agent" in conversation
    assert "env:TEST_NOT_SET: this environment variable is not set here" in conversation
    assert "- work: login octo. The company's." in conversation, "agents are told what there is"
    assert '## github (use account=\\"<alias>\\" with: leak)' in conversation
    assert "account 'missing': env:TEST_NOT_SET" in evidence["screens"], "the doctor says so"


@pytest.mark.usefixtures("planted")
async def test_the_test_above_would_see_it() -> None:
    """A task that holds the value is found in each place where it would be seen."""
    async with Fleet(DEFINITION) as fleet:
        with all_commands(fleet.redis_url) as commands:
            [worker] = await fleet.runtime.spawn(f"fetch {PLANTED}")
            await fleet.runtime.wait_for_worker(worker, timeout=20)
        assert PLANTED in "\n".join(commands)
        assert PLANTED in whole(fleet.redis_url)
        assert PLANTED in screen(fleet.redis_url, "show", worker, "--colony", "trusted")
