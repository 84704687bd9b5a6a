"""No token, no service: who is let in, with what, for how long, how often."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from colony.models import WorkerState
from colony.runtime import ColonyRuntime
from colony.testing import Fleet, wait_until
from tests.gateway.kit import Api, Gateway, problem
from tests.store.kit import open_store

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="session")]

OPERATIONS = {
    "read": [
        *(("GET", "/workers"), ("GET", "/stats"), ("GET", "/nodes"), ("GET", "/limits")),
        *(("GET", "/quarantine"), ("GET", "/workers/w1"), ("GET", "/workers/w1/report")),
        *(("GET", "/workers/w1/conversation"), ("GET", "/batches/b1"), ("GET", "/trees/w1")),
        *(
            ("GET", "/batches/b1/result"),
            ("GET", "/batches/b1/members"),
            ("GET", "/batches/b1/reports"),
        ),
    ],
    "spawn": [
        *(("POST", "/workers"), ("POST", "/batches"), ("POST", "/workers/w1/retry")),
        *(("POST", "/batches/b1/retry"), ("POST", "/quarantine/w1/retry")),
    ],
    "stop": [("POST", "/workers/w1/stop"), ("POST", "/batches/b1/stop")],
    "admin": [("DELETE", "/quarantine/w1"), ("PUT", "/limits/x"), ("POST", "/nodes/n1/drain")],
}


@pytest.mark.parametrize("held", ["read", "spawn", "stop", "admin"])
async def test_a_scope_allows_what_it_says_and_nothing_else(api: Api, held: str) -> None:
    """Each operation needs its scope; admin has them all."""
    for needed, operations in OPERATIONS.items():
        for method, path in operations:
            answer = await api.ask(method, path, scopes=(held,))
            if held in (needed, "admin"):
                assert answer.status_code not in (401, 403), (method, path)
            else:
                body = problem(answer, 403)
                assert f"'{needed}'" in body["detail"], (method, path)
                assert f'scope="{needed}"' in answer.headers["www-authenticate"]


async def test_every_operation_is_in_the_matrix(api: Api) -> None:
    """The description says of each operation which scope it needs, and that is what is asked for."""
    paths = (await api.client.get(f"{api.gateway.url}/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        for method, operation in methods.items():
            if "/hooks/" in path:
                continue  # signatures guard it
            [[needed]] = [each["token"] for each in operation["security"]]
            there = path.removeprefix("/v1/colonies/{colony}").replace("{", "").replace("}", "")
            for other in {"read", "spawn", "stop"} - {needed}:
                answer = await api.ask(method.upper(), there, scopes=(other,))
                assert answer.status_code == 403, (method, path)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer nonsense",
        "Basic dXNlcjpwYXNz",
        "Bearer colony_0123456789abcdef_" + "A" * 43,
        "Bearer colony_0123456789abcdef_short",
        "colony_0123456789abcdef_" + "A" * 43,
    ],
)
async def test_without_a_good_token_there_is_no_service(api: Api, header: str | None) -> None:
    """Missing, malformed and unknown tokens: 401 on every route, also those that do not exist for it."""
    headers = {} if header is None else {"Authorization": header}
    for colony in (api.runtime.colony_id, "no-such-colony", "No%20Name"):
        for path in ("workers", "stats", "events"):
            url = f"{api.gateway.url}/v1/colonies/{colony}/{path}"
            problem(await api.client.get(url, headers=headers), 401)


async def test_a_token_in_the_url_is_no_token(api: Api) -> None:
    """Only the header counts: URLs end up in logs."""
    token = await api.token("read")
    for name in ("token", "access_token", "authorization"):
        problem(await api.client.get(f"{api.base}/stats", params={name: token}), 401)


async def test_the_wrong_secret_of_a_known_id(api: Api) -> None:
    """The id finds a token, the secret proves it."""
    token = await api.token("read")
    forged = token[:-43] + ("A" if token[-43] != "A" else "B") + token[-42:]
    answer = await api.ask("GET", "/stats", token=forged)
    assert (
        problem(answer, 401)["detail"]
        == problem(
            await api.ask("GET", "/stats", token="colony_0123456789abcdef_" + "A" * 43), 401
        )["detail"]
    )


async def test_a_revoked_token_is_refused_at_once(api: Api) -> None:
    """The next request after the revocation has no service."""
    made = await api.runtime.create_token("brief", ["read"])
    assert (await api.ask("GET", "/stats", token=made.token)).status_code == 200
    await api.runtime.revoke_token(made.token_id)
    problem(await api.ask("GET", "/stats", token=made.token), 401)


async def test_a_token_that_is_revoked_in_a_wait_gets_no_answer(api: Api) -> None:
    """Neither the report that came after, nor that there is none; another's wait goes on."""
    [worker_id] = await api.runtime.spawn("sleep")
    path = f"/workers/{worker_id}/report?wait=4"
    made = await api.runtime.create_token("brief", ["read"])
    waiting = asyncio.ensure_future(api.ask("GET", path, token=made.token))
    another = asyncio.ensure_future(api.json("GET", path))
    await asyncio.sleep(1)  # longer than a request without a wait takes
    assert not waiting.done()
    await api.runtime.revoke_token(made.token_id)
    await api.runtime.stop_worker(worker_id)
    assert "revoked" in problem(await waiting, 401)["detail"]
    assert (await another)["status"] == "stopped"


async def test_a_token_expires_by_the_clock_of_redis(api: Api) -> None:
    """It is good until its end, and then it is not."""
    made = await api.runtime.create_token("brief", ["read"], expires_in=timedelta(seconds=1))
    assert (await api.ask("GET", "/stats", token=made.token)).status_code == 200

    async def refused() -> httpx2.Response | None:
        answer = await api.ask("GET", "/stats", token=made.token)
        return answer if answer.status_code != 200 else None

    answer = await wait_until(refused, 5, what="the token expires")
    assert "expired" in problem(answer, 401)["detail"]


async def test_a_token_is_good_for_its_colony_alone(api: Api, served: Fleet) -> None:
    """In another colony of the same Redis it is unknown; there is nothing to tell of."""
    other = await open_store(served.redis_url, "other-colony")
    try:
        token = await api.token("admin")
        url = f"{api.gateway.url}/v1/colonies/other-colony/workers"
        problem(await api.client.get(url, headers={"Authorization": f"Bearer {token}"}), 401)
    finally:
        await other.link.close()


async def test_only_a_hash_is_kept(api: Api, served: Fleet) -> None:
    """No key of Redis holds a token's secret; lists do not show it, reprs do not either."""
    made = await api.runtime.create_token("secretive", ["read"])
    secret = made.token.rpartition("_")[2][-20:]
    assert secret not in repr(made)
    kept = await api.runtime._store.tokens()
    assert secret not in "".join(kept.values())
    assert made.token_id in {each.token_id for each in await api.runtime.list_tokens()}
    assert secret not in repr(await api.runtime.list_tokens())
    await api.ask("GET", "/stats", token=made.token)
    assert secret not in api.gateway.log.read_text()


async def test_refusals_are_counted(api: Api) -> None:
    """What was refused shows in the totals of the colony."""

    async def total(name: str) -> int:
        return (await api.runtime.get_stats()).totals.get(name, 0)

    before = [await total(f"http_{code}") for code in (401, 403, 422)]
    await api.client.get(f"{api.base}/stats")
    await api.ask("GET", "/stats", scopes=("spawn",))
    await api.ask("POST", "/workers", json={"nonsense": 1})
    after = [await total(f"http_{code}") for code in (401, 403, 422)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]


@pytest.fixture
def start(served: Fleet, tmp_path: Path) -> Iterator[Any]:
    """Starts gateways with options of their own, and ends them."""
    started: list[Gateway] = []

    def begin(*arguments: str, **settings: str) -> Gateway:
        log = tmp_path / f"gateway-{len(started)}.log"
        started.append(Gateway(served.redis_url, log, *arguments, **settings))
        return started[-1]

    yield begin
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.kill()


async def test_the_rate_of_a_token_is_that_of_all_gateways(api: Api, start: Any) -> None:
    """Two gateways, one rate: what is over it is refused with the time to wait; another token has its
    own."""
    limits = {"gateway_rate": "2", "gateway_burst": "10"}
    gateways = [start(**limits), start(**limits)]
    for gateway in gateways:
        gateway.wait_ready()
    made = await api.runtime.create_token("eager", ["read"])
    headers = {"Authorization": f"Bearer {made.token}"}
    path = f"/v1/colonies/{api.runtime.colony_id}/limits"
    answers = await asyncio.gather(
        *(api.client.get(gateways[n % 2].url + path, headers=headers) for n in range(40))
    )
    good = [answer for answer in answers if answer.status_code == 200]
    assert 10 <= len(good) <= 20, len(good)
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert problem(refused, 429)["retry_after"] > 0
    other = {"Authorization": f"Bearer {await api.token('read')}"}
    assert (await api.client.get(gateways[0].url + path, headers=other)).status_code == 200


async def test_the_rate_of_a_webhook_is_that_of_all_gateways(
    api: Api, start: Any, tmp_path: Path
) -> None:
    """More than its share is refused with the time to wait, and counted. Whoever cannot sign uses up nothing
    of it, and other triggers and tokens are not touched."""
    limits = {"gateway_hook_rate": "1", "gateway_hook_burst": "5"}
    gateways = [start(**limits), start(**limits)]
    for gateway in gateways:
        gateway.wait_ready()
    (tmp_path / "secret").write_text("hush-hush")
    for name in ("flooded", "quiet"):
        config = {"path": f"/{name}", "scheme": "bearer", "secrets": f"file:{tmp_path / 'secret'}"}
        spec = {"id": name, "trigger_type": "webhook", "trigger_config": config, "task": "fetch"}
        await api.runtime.put_trigger(spec)
    before = (await api.runtime.get_stats()).totals.get("webhook_429", 0)
    hooks = f"/v1/colonies/{api.runtime.colony_id}/hooks"
    good = {"Authorization": "Bearer hush-hush"}

    async def flood(count: int, headers: dict[str, str]) -> Counter[int]:
        posts = (
            api.client.post(f"{gateways[n % 2].url}{hooks}/flooded", headers=headers, content=b"{}")
            for n in range(count)
        )
        answers = await asyncio.gather(*posts)
        for refused in (answer for answer in answers if answer.status_code == 429):
            assert problem(refused, 429)["retry_after"] > 0
        return Counter(answer.status_code for answer in answers)

    assert await flood(40, {"Authorization": "Bearer a-guess"}) == {401: 40}
    found = await flood(20, good)
    assert set(found) == {202, 429}
    assert 5 <= found[202] <= 10, found
    counted = (await api.runtime.get_stats()).totals["webhook_429"] - before
    assert counted == found[429]
    quiet = await api.client.post(f"{gateways[0].url}{hooks}/quiet", headers=good, content=b"{}")
    assert quiet.status_code == 202
    assert (await api.ask("GET", "/stats")).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
async def test_without_tokens_only_on_loopback(start: Any, host: str) -> None:
    """`--no-auth` on an address that others can reach does not start, and says why."""
    gateway = start("--no-auth", "--host", host)
    assert gateway.process.wait(20) == 1
    assert "--no-auth is for this machine alone" in gateway.tail()


async def test_without_tokens_on_loopback(api: Api, served: Fleet, start: Any) -> None:
    """There everything is allowed, except to a page in a browser that came from elsewhere."""
    gateway = start("--no-auth")
    gateway.wait_ready()
    base = f"{gateway.url}/v1/colonies/{api.runtime.colony_id}"
    answer = await api.client.post(f"{base}/workers", json={"task": "fetch", "not_before": 600})
    [worker_id] = answer.json()["worker_ids"]
    async with ColonyRuntime(api.runtime.colony_id, redis_url=served.redis_url) as runtime:
        record = await runtime.get_worker(worker_id)
    assert record is not None
    assert record.state is WorkerState.PARKED
    stop = f"{base}/workers/{worker_id}/stop"
    for name, value in {
        "Origin": "https://evil.example",
        "Host": "evil.example",
        "X-Forwarded-For": "192.0.2.1",
    }.items():
        problem(await api.client.post(stop, headers={name: value}), 403)
    for broken in ({"Host": "[::1"}, {"Origin": "http://[::1"}, {"Origin": "null"}):
        problem(await api.client.post(stop, headers=broken), 403)
    problem(await api.client.get(f"{gateway.url}/nothing", headers={"Host": "[::1"}), 404)
    own = {"Origin": f"http://localhost:{gateway.port}"}
    assert (await api.client.post(stop, headers=own)).status_code == 200
