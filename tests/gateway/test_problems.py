"""Every refusal is a problem that says what and where, and changes nothing."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from colony.gateway import create_app
from tests.gateway.kit import Api, problem

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="session")]


def nested(depth: int) -> Any:
    """So many objects, one within the other."""
    return {} if depth == 1 else {"a": nested(depth - 1)}


WRONG: list[tuple[Any, str]] = [
    ({}, "body.task"),
    ({"task": ""}, "body.task"),
    ({"task": "   "}, "body.task"),
    ({"task": 7}, "body.task"),
    ({"task": "x" * 70_000}, "body.task"),
    ({"task": "x", "taks": 1}, "body.taks"),
    ({"task": "x", "data": []}, "body.data"),
    ({"task": "x", "data": {"a": "x" * 270_000}}, "body.data"),
    ({"task": "x", "count": 0}, "body.count"),
    ({"task": "x", "count": 10_001}, "body.count"),
    ({"task": "x", "count": True}, "body.count"),
    ({"task": "x", "agent": "nobody"}, "body.agent"),
    ({"task": "x", "agent": "No Name"}, "body.agent"),
    ({"task": "x", "deadline": -1}, "body.deadline"),
    ({"task": "x", "deadline": 0}, "body.deadline"),
    ({"task": "x", "deadline": "tomorrow"}, "body.deadline"),
    ({"task": "x", "deadline": "600"}, "body.deadline"),
    ({"task": "x", "deadline": "2030-01-01T00:00:00"}, "body.deadline"),
    ({"task": "x", "deadline": "9999-12-31T23:59:59-12:00"}, "body.deadline"),
    ({"task": "x", "deadline": 1e300}, "body.deadline"),
    ({"task": "x", "priority": 1_000_000}, "body.priority"),
    ({"task": "x", "correlation_id": ""}, "body.correlation_id"),
    ({"task": "x", "data": nested(180)}, "body.data"),
    ([], "body"),
    ("x", "body"),
    (None, "body"),
]


async def accepted(api: Api) -> int:
    """How many workers were ever accepted."""
    return (await api.runtime.get_stats()).totals.get("accepted", 0)


async def test_what_is_wrong_is_named_and_nothing_is_accepted(api: Api) -> None:
    """Each wrong field is named, in a batch with its index."""
    before = await accepted(api)
    for body, field in WRONG:
        found = await api.json("POST", "/workers", 422, content=json.dumps(body), headers=JSON)
        assert str(found["field"]).startswith(field), (body, found)
    tasks = [{"task": "fetch"}, {"task": "fetch", "agent": "nobody"}]
    for body, field in [
        ({"tasks": tasks}, "body.tasks[1].agent"),
        ({"tasks": [{"task": "x"}, {"data": {}}]}, "body.tasks.1.task"),
        ({"tasks": []}, "body.tasks"),
        ({"tasks": [{"task": "x"}], "policy": "some"}, "body.policy"),
        ({"tasks": [{"task": "x"}], "policy": "first_n"}, "body.first_n"),
        ({"tasks": [{"task": "x"}], "policy": "first_n", "first_n": 2}, "body.first_n"),
    ]:
        found = await api.json("POST", "/batches", 422, json=body)
        assert str(found["field"]).startswith(field), (body, found)
    assert await accepted(api) == before


async def test_a_query_parameter_that_is_unknown_is_refused(api: Api) -> None:
    """It is named, with those that there are: a misspelt filter would answer with everything."""
    wrong = await api.json("GET", "/events?types=gap&after=0", 422)
    assert wrong["field"] == "query.types"
    assert "expected after, stream, type, worker" in wrong["detail"]
    wrong = await api.json("GET", "/workers?state=RUNNING&limits=3", 422)
    assert [each["field"] for each in wrong["errors"]] == ["query.state", "query.limits"]
    assert "expected cursor, limit, status" in wrong["detail"]
    assert (await api.json("GET", "/stats?x", 422))["field"] == "query.x"
    assert "none here" in (await api.json("POST", "/intake/resume?now=1", 422))["detail"]


async def test_every_route_refuses_them(api: Api) -> None:
    """Each operation of the description; those that webhooks call take what their senders send."""
    paths = (await api.client.get(f"{api.gateway.url}/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            there = path.removeprefix("/v1/colonies/{colony}").replace("{", "").replace("}", "")
            found = await api.json(method.upper(), f"{there}?nonsense=1", 422)
            assert found["field"] == "query.nonsense"
            for each in operation.get("parameters", []):
                assert each["in"] != "query" or each["name"] in found["detail"]


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nonsense",
        '{"task": "x", "data": {"n": NaN}}',
        '{"task": "x", "data": {"n": Infinity}}',
        '{"task": "\\ud800"}',
        '{"task": "x", "data": {"n": ' + "[" * 5000 + "]" * 5000 + "}}",
        b'{"task": "\xff\xfe"}',
        '{"task": "x", "data": {"n": 1e999}}',
    ],
)
async def test_what_is_no_json(api: Api, text: str | bytes) -> None:
    """Broken, endless or impossible JSON is refused, and nothing is accepted."""
    before = await accepted(api)
    answer = await api.ask("POST", "/workers", content=text, headers=JSON)
    problem(answer, 422 if text == "" or "1e999" in str(text) else 400)
    assert await accepted(api) == before


async def test_other_kinds_of_body(api: Api) -> None:
    """Only JSON is taken; a body that may be left out may be."""
    body = b'{"task": "fetch"}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        problem(
            await api.ask("POST", "/workers", content=body, headers={"Content-Type": kind}), 415
        )
    given = {"Content-Type": "application/json; charset=utf-8"}
    assert (await api.ask("POST", "/workers", content=body, headers=given)).status_code == 202
    problem(await api.ask("POST", "/workers/w1/stop", content=b"x=1"), 415)
    problem(await api.ask("POST", "/workers/w1/stop"), 404)


async def test_routes_and_methods_that_are_not(api: Api) -> None:
    """404 and 405 are problems, too, with what is allowed."""
    for path in ("/", "/v1", "/v1/colonies", "/docs", "/redoc", "/v1/colonies/x/y/z"):
        answer = await api.client.get(api.gateway.url + path)
        assert problem(answer, 404)["type"].endswith("not-found")
    answer = await api.ask("DELETE", "/workers")
    assert problem(answer, 405)["type"].endswith("method-not-allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}


async def test_what_is_allowed_is_told_of_every_path(api: Api) -> None:
    """Of all routes of a path, not of the first: a 405 names the very methods of the description."""
    paths = (await api.client.get(f"{api.gateway.url}/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        there = path.removeprefix("/v1/colonies/{colony}").replace("{", "").replace("}", "")
        for method in ("OPTIONS", "PATCH"):
            answer = await api.ask(method, there)
            problem(answer, 405)
            allowed = set(answer.headers["allow"].split(", "))
            if "/{" not in path.removeprefix("/v1/colonies/{colony}") and path.endswith("/stop"):
                allowed -= {"GET"}  # /workers/stop is a worker's id, too
            assert allowed == {each.upper() for each in methods}, (method, path)


async def test_what_is_not_there(api: Api) -> None:
    """Unknown workers and batches are told apart from unknown routes."""
    for path, kind in {
        "/workers/w0": "unknown-worker",
        "/workers/w0/report": "unknown-worker",
        "/workers/w0/conversation": "unknown-worker",
        "/trees/w0": "unknown-worker",
        "/batches/b0": "unknown-batch",
        "/batches/b0/result": "unknown-batch",
        "/batches/b0/members": "unknown-batch",
        "/batches/b0/reports": "unknown-batch",
    }.items():
        assert (await api.json("GET", path, 404))["type"].endswith(kind), path
    for cursor in ("x", "====", "bGlzdGVkIDE", "é", "a" * 600):
        found = await api.json("GET", "/workers", 422, params={"cursor": cursor})
        assert found["field"] == "query.cursor", cursor
    for limit in ("0", "501", "many", "-1", "1.5"):
        found = await api.json("GET", "/workers", 422, params={"limit": limit})
        assert found["field"] == "query.limit"


async def test_bodies_that_are_too_large(api: Api) -> None:
    """8 MiB are refused whether the length is declared or not, and before they are all sent."""
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield b'{"task": "'
        while sent < 64 * 2**20:
            sent += 2**16
            yield b"x" * 2**16

    before = await accepted(api)
    too_large = await api.ask("POST", "/workers", content=b" " * (8 * 2**20 + 1), headers=JSON)
    assert problem(too_large, 413)["type"].endswith("body-too-large")
    with suppress(httpx2.TransportError):  # the connection may be closed before the answer is read
        problem(await api.ask("POST", "/workers", content=endless(), headers=JSON), 413)
    assert sent < 64 * 2**20
    assert await accepted(api) == before


async def test_urls_and_headers_that_are_too_long(api: Api) -> None:
    """Both have bounds, and answers of their own."""
    problem(await api.ask("GET", "/workers?x=" + "y" * 9000), 414)
    problem(await api.ask("GET", "/stats", headers={"X-Long": "y" * 17_000}), 431)


async def test_a_body_that_does_not_come(api: Api) -> None:
    """Who is slow to send is told so; here the connection ends first, and nothing is accepted."""
    before = await accepted(api)
    reader, writer = await asyncio.open_connection("127.0.0.1", api.gateway.port)
    token = await api.token("spawn")
    head = (
        f"POST /v1/colonies/{api.runtime.colony_id}/workers HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
    )
    writer.write(head.encode() + b'{"task": "fetch"')
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert await reader.read() == b""
    assert (await api.ask("GET", "/stats")).status_code == 200
    assert await accepted(api) == before


async def test_a_bug_is_a_problem_that_tells_nothing() -> None:
    """500: the kind and no more; the reason is in the log alone."""
    app = create_app()

    async def fail() -> None:
        raise RuntimeError("the password is 1234")

    app.add_api_route("/fail", fail)
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/fail")
    assert problem(answer, 500)["type"].endswith("internal-error")
    assert "1234" not in answer.text
