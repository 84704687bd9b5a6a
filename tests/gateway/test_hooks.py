"""Webhooks in: the right signature spawns one worker, once; whatever is wrong spawns nothing, and says
why."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from standardwebhooks import Webhook

from tests.gateway.kit import Api

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="session")]

BODY = json.dumps({"issue": {"title": "It is broken", "number": 7}}).encode()
WHSEC = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

Put = Callable[..., Awaitable[str]]


@pytest_asyncio.fixture(loop_scope="session")
async def put(api: Api, tmp_path: Path) -> Put:
    """Puts a trigger for webhooks with secrets of its own, in files; its path."""

    async def put_one(
        scheme: str, *values: str, task: str = "See ${webhook.payload.issue.title}", **config: Any
    ) -> str:
        path = f"/{scheme}/{secrets.token_hex(4)}"
        files = []
        for index, value in enumerate(values or (WHSEC,)):
            files.append(tmp_path / f"secret-{index}")
            files[-1].write_text(value)
        await api.runtime.put_trigger(
            {
                "id": path[1:].replace("/", "."),
                "trigger_type": "webhook",
                "trigger_config": {
                    "path": path,
                    "scheme": scheme,
                    "secrets": [f"file:{file}" for file in files],
                    **config,
                },
                "task": task,
            }
        )
        return path

    return put_one


async def send(
    api: Api, path: str, headers: dict[str, str], body: bytes = BODY, method: str = "POST"
) -> httpx2.Response:
    url = f"{api.base}/hooks{path}"
    given = {
        name.encode(): value.encode("latin-1")
        for name, value in {"Content-Type": "application/json", **headers}.items()
    }
    return await api.client.request(method, url, content=body, headers=given)


def github(secret: str = WHSEC, body: bytes = BODY, delivery: str = "d-1") -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": delivery}


def standard(
    secret: str = WHSEC,
    body: bytes = BODY,
    message_id: str = "msg_1",
    age: timedelta = timedelta(0),
) -> dict[str, str]:
    at = datetime.now(UTC) - age
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, at, body.decode()),
    }


def bearer(secret: str = WHSEC, key: str = "k-1") -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}", "Idempotency-Key": key}


SIGNED: dict[str, Callable[..., dict[str, str]]] = {
    "github": github,
    "standard": standard,
    "bearer": bearer,
}


async def accepted(api: Api) -> int:
    return (await api.runtime.get_stats()).totals.get("accepted", 0)


@asynccontextmanager
async def counted(api: Api, **expected: int) -> AsyncIterator[None]:
    """What is refused meanwhile is counted so, and nothing is accepted beyond it."""
    before = (await api.runtime.get_stats()).totals
    yield
    after = (await api.runtime.get_stats()).totals
    kept = [name for name in after if name.startswith("webhook_") or name == "accepted"]
    added = {name: after[name] - before.get(name, 0) for name in kept}
    assert {name: n for name, n in added.items() if n} == expected


@pytest.mark.parametrize("scheme", SIGNED)
async def test_the_right_signature_spawns_once(api: Api, put: Put, scheme: str) -> None:
    """Scenario 32: 202 with the worker's id; the same delivery again, also five at once: 200 with the
    same."""
    path = await put(scheme)
    headers = SIGNED[scheme]()
    before = await accepted(api)
    first = await send(api, path, {**headers, "X-Trace": "abc"})
    assert first.status_code == 202, first.text
    again = await asyncio.gather(*(send(api, path, headers) for _ in range(5)))
    assert {answer.status_code for answer in again} == {200}
    worker_id = first.json()["worker_id"]
    assert {answer.json()["worker_id"] for answer in again} == {worker_id}
    assert await accepted(api) == before + 1
    record = await api.runtime.get_worker(worker_id)
    assert record is not None
    assert record.task == "See It is broken"
    webhook = record.data["webhook"]
    assert isinstance(webhook, dict)
    assert webhook["payload"] == json.loads(BODY)
    assert isinstance(webhook["headers"], dict)
    assert webhook["headers"]["x-trace"] == "abc"
    assert WHSEC not in record.model_dump_json()
    assert not {"authorization", "x-hub-signature-256", "webhook-signature"} & set(
        webhook["headers"]
    )


HIDDEN = "hidden-hunter2"
"""What is in nobody's log and record, wherever a sender puts it beside its signature."""


async def test_what_may_be_a_secret_is_not_told(api: Api, put: Put) -> None:
    """Neither to the worker nor in the gateway's log: headers and parts of the query by their names."""
    path = await put("github")
    names = ("Password", "JWT-Assertion", "Session-Id", "Credential", "Amzn-Oidc-Data", "Api-Key")
    headers = github() | {f"X-{name}": HIDDEN for name in names}
    query = "&".join(f"{name}={HIDDEN}" for name in ("token", "Secret", "api_key", "sig", "auth"))
    answer = await send(api, f"{path}?{query}&key=ABC-1&author=jo", headers)
    assert answer.status_code == 202, answer.text
    record = await api.runtime.get_worker(answer.json()["worker_id"])
    assert record is not None
    assert HIDDEN not in record.model_dump_json()
    webhook = record.data["webhook"]
    assert isinstance(webhook, dict)
    assert webhook["query"] == {"key": "ABC-1", "author": "jo"}
    log = api.gateway.log.read_text()
    assert f'hooks{path} HTTP/1.1" 202' in log
    assert HIDDEN not in log


async def test_the_same_delivery_after_a_stage_has_taken_its_id_out(api: Api, put: Put) -> None:
    """GitHub sends it again: it is known by its body, and no replay for what a Transform has left."""
    path = await put("github")
    first = await send(api, path, github())
    worker_id = first.json()["worker_id"]
    store = api.runtime._store
    left = json.dumps({"webhook": {"payload": json.loads(BODY)}})
    await store.link.call("HSET", store.keys("worker", worker_id), "data", left)
    again = await send(api, path, github())
    assert (again.status_code, again.json()["worker_id"]) == (200, worker_id)


@pytest.mark.parametrize("scheme", SIGNED)
async def test_five_at_once_are_one(api: Api, put: Put, scheme: str) -> None:
    """Nobody was first yet: one 202, four times 200, one worker."""
    path = await put(scheme)
    before = await accepted(api)
    answers = await asyncio.gather(*(send(api, path, SIGNED[scheme]()) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 200, 202]
    assert len({answer.json()["worker_id"] for answer in answers}) == 1
    assert await accepted(api) == before + 1


@pytest.mark.parametrize("scheme", SIGNED)
@pytest.mark.parametrize("how", ["wrong", "missing", "garbage"])
async def test_a_wrong_signature_spawns_nothing(api: Api, put: Put, scheme: str, how: str) -> None:
    """Scenario 32: 401, nothing accepted, counted."""
    path = await put(scheme)
    headers = SIGNED[scheme](secret=OTHER) if how == "wrong" else {}
    if how == "garbage":
        headers = dict.fromkeys(SIGNED[scheme](), "v1,ÿ~ \xe9")
    async with counted(api, webhook_401=1):
        answer = await send(api, path, headers)
    assert answer.status_code == 401, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_changed_body_does_not_fit_its_signature(api: Api, put: Put) -> None:
    """One byte more: 401."""
    path = await put("standard")
    assert (await send(api, path, standard(), BODY + b" ")).status_code == 401


@pytest.mark.parametrize("age", [timedelta(minutes=6), timedelta(minutes=-6)])
async def test_a_replayed_one_is_refused(api: Api, put: Put, age: timedelta) -> None:
    """Scenario 32: rightly signed, but of another time: 409. Wrongly signed as well: 401."""
    path = await put("standard")
    async with counted(api, webhook_409=1, webhook_401=1):
        assert (await send(api, path, standard(age=age))).status_code == 409
        assert (await send(api, path, standard(OTHER, age=age))).status_code == 401


async def test_a_body_under_another_delivery_id_is_a_replay(api: Api, put: Put) -> None:
    """GitHub does not sign the id: who replays a body with a new one is refused."""
    path = await put("github")
    async with counted(api, accepted=1, webhook_409=1):
        assert (await send(api, path, github())).status_code == 202
        assert (await send(api, path, github(delivery="d-2"))).status_code == 409


async def test_a_secret_is_changed_without_a_gap(api: Api, put: Put) -> None:
    """The new one beside the old: both fit; Standard Webhooks also signs with both at once."""
    path = await put("standard", WHSEC, OTHER)
    assert (await send(api, path, standard(WHSEC, message_id="a"))).status_code == 202
    assert (await send(api, path, standard(OTHER, message_id="b"))).status_code == 202
    both = standard(OTHER, message_id="c")
    both["webhook-signature"] = f"v1,AAAA {both['webhook-signature']}"
    assert (await send(api, path, both)).status_code == 202


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"body": b"{"}, 400, "no application/json"),
        ({"body": b'{"a": NaN}'}, 400, "no application/json"),
        ({"body": b"[" * 50_000}, 400, "no application/json"),
        ({"body": b'{"other": 1}'}, 422, "issue"),
        ({"body": json.dumps({"issue": {"title": "x" * 2000}}).encode()}, 413, "1000 bytes"),
        ({"method": "PUT"}, 405, "PUT"),
    ],
)
async def test_a_bad_call_spawns_nothing(
    api: Api, put: Put, change: dict[str, Any], status: int, says: str
) -> None:
    """Rightly signed: malformed, too large, without what the task names, by another method."""
    path = await put("github", max_bytes=100_000 if status == 400 else 1000)
    body = change.get("body", BODY)
    async with counted(api, **{f"webhook_{status}": 1}):
        answer = await send(api, path, github(body=body), body, change.get("method", "POST"))
    assert answer.status_code == status, answer.text
    assert says in answer.text


async def test_what_is_no_json_is_text(api: Api, put: Put) -> None:
    """A form, say: under raw_body."""
    path = await put("bearer", task="See ${webhook.payload.raw_body}")
    answer = await send(api, path, {**bearer(), "Content-Type": "text/plain"}, b"a=b")
    record = await api.runtime.get_worker(answer.json()["worker_id"])
    assert record is not None
    assert record.task == "See a=b"


async def test_a_path_of_nobody_and_a_trigger_that_is_paused(api: Api, put: Put) -> None:
    """404, and 409 until it is resumed; the delivery that was refused is then accepted."""
    async with counted(api, webhook_404=2, webhook_422=1):
        assert (await send(api, "/of/nobody", github())).status_code == 404
        assert (await send(api, "/no%20path", github())).status_code == 404
        assert (await send(api, "/" + "long" * 51, github())).status_code == 422
    path = await put("github")
    trigger_id = path[1:].replace("/", ".")
    await api.runtime.pause_trigger(trigger_id)
    async with counted(api, webhook_409=1):
        assert (await send(api, path, github())).status_code == 409
    await api.runtime.resume_trigger(trigger_id)
    async with counted(api, accepted=1):
        assert (await send(api, path, github())).status_code == 202


async def test_one_more_than_may_live_is_passed_over(api: Api, put: Put) -> None:
    """`max_concurrent`: 429, and 202 for the same delivery when there is room."""
    path = await put("github", task="sleep")
    trigger_id = path[1:].replace("/", ".")
    spec = (await api.runtime.get_trigger(trigger_id)).spec
    await api.runtime.put_trigger({**spec, "max_concurrent": 1})
    other = json.dumps({"another": 1}).encode()
    async with counted(api, accepted=2, webhook_429=1):
        first = await send(api, path, github())
        assert first.status_code == 202
        busy = await send(api, path, github(body=other), other)
        assert busy.status_code == 429
        assert int(busy.headers["retry-after"]) >= 1
        await api.runtime.stop_worker(first.json()["worker_id"])
        await api.runtime.wait_for_worker(first.json()["worker_id"], timeout=20)
        second = await send(api, path, github(body=other), other)
        assert second.status_code == 202
    await api.runtime.stop_worker(second.json()["worker_id"])


async def test_a_paused_intake_asks_to_send_again(api: Api, put: Put) -> None:
    """503, counted; the same delivery is accepted afterwards."""
    path = await put("bearer")
    await api.runtime.pause_intake()
    try:
        async with counted(api, webhook_503=1):
            assert (await send(api, path, bearer())).status_code == 503
    finally:
        await api.runtime.resume_intake()
    async with counted(api, accepted=1):
        assert (await send(api, path, bearer())).status_code == 202


ODD_SECRETS = {
    "no base64": "whsec_abcde",
    "not even ASCII": "whsec_geheimniß",
    "a space": "whsec_ ",
    "no characters of base64": "!!!!",
    "one letter": "a",
    "bytes": "\x00\x01",
}


@pytest.mark.parametrize("name", ODD_SECRETS)
async def test_a_secret_that_is_none_does_not_stop_the_good_one(
    api: Api, put: Put, name: str
) -> None:
    """Beside a good one it is passed over, with one line in the log that does not tell it; alone: 503."""
    path = await put("standard", ODD_SECRETS[name], WHSEC)
    assert (await send(api, path, standard())).status_code == 202
    assert (await send(api, path, standard(OTHER, message_id="x"))).status_code == 401
    of = path[1:].replace("/", ".")
    told = [line for line in api.gateway.log.read_text().splitlines() if of in line]
    assert len(told) == 1
    assert "secrets[0] is not used" in told[0]
    assert ODD_SECRETS[name] not in told[0].replace("whsec_…", "") or name == "one letter"
    alone = await put("standard", ODD_SECRETS[name])
    async with counted(api, webhook_503=1):
        assert (await send(api, alone, standard())).status_code == 503


async def test_a_secret_that_is_not_there_yet_does_not_stop_the_old_one(
    api: Api, put: Put, tmp_path: Path
) -> None:
    """While it is changed: one gateway has the new one, another not yet."""
    path = await put("github", WHSEC, OTHER)
    (tmp_path / "secret-1").unlink()
    assert (await send(api, path, github())).status_code == 202
    assert (await send(api, path, github(OTHER, delivery="d-2"))).status_code == 401


ODD_HEADERS = [
    "",
    "v1,",
    ",",
    "v1",
    "v1,a b,c d",
    "v1,====",
    "v1,AAAA v2,AAAA",
    "Bearer",
    "Bearer \u00df",
    "sha256=",
    "nan",
    "inf",
    "-1e400",
    "99999999999999999999",
    "\xff\xfe",
    "x" * 4000,
]
NAMED = {
    "github": ("X-Hub-Signature-256", "X-GitHub-Delivery", "Content-Type"),
    "standard": ("webhook-id", "webhook-timestamp", "webhook-signature"),
    "bearer": ("Authorization", "Idempotency-Key", "Content-Type"),
}


@pytest.mark.parametrize("secret", [WHSEC, *ODD_SECRETS.values()])
@pytest.mark.parametrize("scheme", SIGNED)
async def test_no_header_and_no_secret_is_a_bug(
    api: Api, put: Put, scheme: str, secret: str
) -> None:
    """Whatever stands in the headers, beside what fits: taken or refused; 503 for a secret that is none."""
    path = await put(scheme, secret, task="See it.")
    unusable = scheme == "standard" and secret != WHSEC
    sendable = secret.isascii() and secret.isprintable() and secret == secret.strip()
    fits = SIGNED[scheme](secret) if sendable and not unusable else {}
    for name in NAMED[scheme]:
        for odd in ODD_HEADERS:
            answer = await send(api, path, {**fits, name: odd})
            assert (answer.status_code == 503) == unusable, (name, odd, answer.text)
            assert answer.status_code < 500 or unusable, (name, odd, answer.text)


async def test_a_trigger_of_another_version_that_cannot_be_read(api: Api, put: Put) -> None:
    """It holds a secret itself, which never worked. Its sender is told 503, operators 409 that names the
    field, never what it holds; it can be looked at, paused, and put anew."""
    path = await put("github")
    store, trigger_id = api.runtime._store, path[1:].replace("/", ".")
    good = (await api.runtime.get_trigger(trigger_id)).spec
    kept = {**good, "trigger_config": {"path": path, "scheme": "github", "secrets": [WHSEC]}}
    await store.link.call("HSET", store.keys("triggers"), trigger_id, json.dumps(kept))
    assert (await send(api, path, github())).status_code == 503
    for verb in ("fire", "resume"):
        told = await api.json("POST", f"/triggers/{trigger_id}/{verb}", 409)
        assert "secrets" in told["detail"]
        assert "put it anew" in told["detail"]
        assert WHSEC not in told["detail"]
    await api.json("GET", f"/triggers/{trigger_id}")
    assert await api.json("GET", f"/triggers/{trigger_id}/fires") == []
    await api.json("POST", f"/triggers/{trigger_id}/pause")
    log = api.gateway.log.read_text()
    assert f"{path} is called: trigger {trigger_id!r} as it is kept cannot be read" in log
    assert WHSEC not in log
    await api.runtime.put_trigger(good)
    await api.json("POST", f"/triggers/{trigger_id}/resume")
    assert (await send(api, path, github())).status_code == 202


@pytest.mark.parametrize("depth", [100, 150, 199, 200, 500, 2000])
async def test_a_body_however_deep_is_taken_or_refused(api: Api, put: Put, depth: int) -> None:
    """And what is taken can be read: a record that cannot would be in the way of whoever lists it."""
    path = await put("github", task="See it.")
    body = b'{"a":' * depth + b"1" + b"}" * depth
    answer = await send(api, path, github(body=body), body)
    assert answer.status_code in (202, 400, 422), answer.text
    if answer.status_code == 202:
        await api.json("GET", f"/workers/{answer.json()['worker_id']}")


async def test_a_secret_that_cannot_be_read(api: Api, put: Put, tmp_path: Path) -> None:
    """503, and the reference is not told to whoever calls."""
    path = await put("github")
    (tmp_path / "secret-0").unlink()
    answer = await send(api, path, github())
    assert answer.status_code == 503
    assert "secret-0" not in answer.text
