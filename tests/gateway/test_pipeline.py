"""What the pipeline refuses is a problem that names the stage; and bodies that come too slowly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from colony.errors import DefinitionError
from colony.gateway import create_app
from colony.gateway.settings import GatewaySettings
from colony.settings import Settings
from colony.testing import Fleet
from tests.fleet.pipeline_definitions import house
from tests.gateway.kit import Api, Gateway, problem

pytestmark = pytest.mark.fleet

SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}
PIPELINE = [
    {"type": "input_validation", "config": {"schemas": {"spawn": SCHEMA}}},
    {"type": "rate_limit", "config": {"limit": 2, "per": 60, "key": "{caller}"}},
]


@pytest_asyncio.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Api]:
    """A gateway before a fleet that checks what comes in, and waits a second for a body."""
    async with Fleet("tests.definitions:basic", pipeline=json.dumps(PIPELINE)) as fleet:
        gateway = Gateway(fleet.redis_url, tmp_path / "log", gateway_body_timeout="1")
        try:
            gateway.wait_ready()
            async with httpx2.AsyncClient(timeout=30) as client:
                yield Api(gateway, fleet.runtime, client)
            assert gateway.terminate() == 0
        finally:
            if gateway.process.poll() is None:
                gateway.kill()


async def test_a_stage_refuses_by_name_and_a_rate_says_when(strict: Api) -> None:
    """Data that does not fit: 422 and the stage; over the rate of this caller: 429 and the time to wait.
    Each token is a caller of its own, and a repeated request is answered like the first."""
    wrong = await strict.json("POST", "/workers", 422, json={"task": "fetch", "data": {"city": 7}})
    assert (wrong["stage"], wrong["type"]) == ("input_validation", "urn:colony:problem:rejected")
    good = {"task": "fetch", "data": {"city": "Paris"}}
    key = {"Idempotency-Key": "first"}
    first = await strict.json("POST", "/workers", 202, json=good, headers=key)
    await strict.json("POST", "/workers", 202, json=good)
    refused = await strict.json("POST", "/workers", 429, json=good)
    assert refused["stage"] == "rate_limit"
    assert 0 < refused["retry_after"] <= 60
    assert await strict.json("POST", "/workers", 202, json=good, headers=key) == first
    await strict.json("POST", "/workers", 202, json=good, scopes=("spawn",))
    totals = (await strict.json("GET", "/stats"))["totals"]
    assert (totals["accepted"], totals["pipeline_rejected"]) == (3, 2)
    # Half a body, and then nothing.
    reader, writer = await asyncio.open_connection("127.0.0.1", strict.gateway.port)
    head = (
        "POST /v1/colonies/basic/workers HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {await strict.token('spawn')}\r\n"
        "Content-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    writer.write(head.encode() + b'{"task": "fetch"')
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    problem(await strict.ask("POST", "/workers", json={}), 422)


async def test_stages_that_are_code_come_with_their_definition(tmp_path: Path) -> None:
    """A gateway that lacks one accepts nothing and says how to give it; with the definition it is asked."""
    named = "tests.fleet.pipeline_definitions:guarded"
    async with Fleet(named) as fleet, httpx2.AsyncClient(timeout=30) as client:
        for arguments in ([], ["--definition", named]):
            gateway = Gateway(fleet.redis_url, tmp_path / "log", *arguments)
            try:
                gateway.wait_ready()
                api = Api(gateway, fleet.runtime, client)
                if not arguments:
                    lacks = await api.json("POST", "/workers", 503, json={"task": "fetch"})
                    assert "--definition" in lacks["detail"]
                    continue
                refused = await api.json("POST", "/workers", 422, json={"task": "rm"})
                assert refused["stage"] == "house"
                data = {"customer": "over http"}
                await api.json("POST", "/workers", 202, json={"task": "fetch", "data": data})
            finally:
                gateway.kill()


def test_a_definition_that_is_none_is_said_in_a_line(tmp_path: Path) -> None:
    """Before anything is served."""
    gateway = Gateway(
        "redis://127.0.0.1:1/0", tmp_path / "log", gateway_definitions="nowhere:colony"
    )
    assert gateway.process.wait(20) == 1
    assert "importing 'nowhere' failed" in " ".join(gateway.tail().split())
    assert "Traceback" not in gateway.tail()


def test_two_definitions_of_one_colony_are_refused(tmp_path: Path) -> None:
    """Only one could be obeyed: the gateway does not start, and names both."""
    named = "tests.fleet.pipeline_definitions:guarded"
    twice = ("--definition", named, "--definition", named)
    gateway = Gateway("redis://127.0.0.1:1/0", tmp_path / "log", *twice)
    assert gateway.process.wait(20) == 1
    assert "both define the colony 'guarded'" in " ".join(gateway.tail().split())
    assert "Traceback" not in gateway.tail()


async def test_stages_that_are_given_stand_beside_those_of_the_definition() -> None:
    """Both are asked; the same one twice is refused at once, not when the colony is first asked for."""
    named = GatewaySettings(definitions=("tests.fleet.pipeline_definitions:guarded",))
    redis = Settings(redis_url="redis://127.0.0.1:1/0")
    with pytest.raises(DefinitionError, match="two stages are named 'house'"):
        create_app(redis, named, pipelines={"guarded": [house]})
    app = create_app(redis, named, pipelines={"guarded": [replace(house, name="annexe", order=1)]})
    async with app.router.lifespan_context(app):
        stages = app.state.colonies._pipelines["guarded"]
    assert [one.name for one in stages] == ["annexe", "house"]


async def test_a_callback_is_checked_before_anything_is_accepted(strict: Api) -> None:
    """A batch may name a URL to be called; one that is none, or a secret that is none, is refused."""
    body = {"tasks": [{"task": "fetch", "data": {"city": "Oslo"}}]}
    for wrong in (
        {"url": "https://example.com/done"},
        {"url": "ftp://example.com", "secret": ["env:HOOK_SECRET"]},
        {"url": "https://example.com/done", "secret": ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]},
        {"task": "rm", "url": "https://example.com/done", "secret": ["env:HOOK_SECRET"]},
    ):
        found = await strict.json("POST", "/batches", 422, json={**body, "on_complete": wrong})
        assert found["field"].startswith("body.on_complete"), wrong
        assert "whsec_" not in json.dumps(found)
    call: dict[str, object] = {"url": "https://example.com/done", "secret": ["env:HOOK_SECRET"]}
    await strict.json("POST", "/batches", 202, json={**body, "on_complete": call})
    one = {"task": "fetch", "data": {"city": "Oslo"}}
    for reference in (
        "env:OPENAI_API_KEY",
        "env:HOOKS",
        "file:/run/secrets/hook",
        "env:hook_secret",
    ):
        call = {"url": "https://example.com/done", "secret": ["env:HOOK_SECRET", reference]}
        for path, asked in (("/batches", body), ("/workers", one)):
            found = await strict.json("POST", path, 422, json={**asked, "on_complete": call})
            assert found["field"] == "body.on_complete.secret"
            assert "COLONY_CALLBACK_SECRETS" in found["detail"]
