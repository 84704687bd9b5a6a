"""Each route on a running fleet: what it does, and what it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from colony.errors import NotQuarantined
from colony.runtime import ColonyRuntime
from colony.testing import wait_until
from tests.gateway.kit import Api

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="session")]


async def spawn(api: Api, task: str, **more: Any) -> str:
    """The id of a worker with this task."""
    answer = await api.json("POST", "/workers", 202, json={"task": task, **more})
    [worker_id] = answer["worker_ids"]
    return str(worker_id)


async def ended(api: Api, worker_id: str) -> Any:
    """A worker's report, once it has ended."""
    return await api.json("GET", f"/workers/{worker_id}/report?wait=20", 200)


async def test_a_worker_is_spawned_and_its_report_is_waited_for(api: Api) -> None:
    """A task goes in over HTTP, one report comes out, and all of it can be looked at."""
    worker_id = await spawn(api, "fetch rows", data={"n": 2**53 + 1}, correlation_id="c 1")
    report = await ended(api, worker_id)
    assert (report["status"], report["data"]) == ("success", {"rows": 5})
    worker = await api.json("GET", f"/workers/{worker_id}")
    assert (worker["state"], worker["correlation_id"]) == ("COMPLETED", "c 1")
    assert worker["data"] == {"n": 2**53 + 1}
    first = await api.json("GET", f"/workers/{worker_id}/conversation?limit=1")
    assert first["items"][0]["kind"] == "request"
    rest = await api.json(
        "GET", f"/workers/{worker_id}/conversation", params={"cursor": first["next_cursor"]}
    )
    assert rest["items"][0]["kind"] == "answer"
    assert rest["next_cursor"] is None
    tree = await api.json("GET", f"/trees/{worker_id}")
    assert (tree["workers"], tree["tops"][0]["worker"]["status"]) == (1, "success")


async def test_a_wait_is_bounded_and_says_so(api: Api) -> None:
    """Whoever has not ended is answered 202 after the wait; a stop ends it, and a second one says so."""
    worker_id = await spawn(api, "sleep")
    loop = asyncio.get_running_loop()
    began = loop.time()
    answer = await api.json("GET", f"/workers/{worker_id}/report?wait=0.5", 202)
    assert answer["id"] == worker_id
    assert 0.4 < loop.time() - began < 4
    assert await api.json("POST", f"/workers/{worker_id}/stop", json={"reason": "enough"}) == {
        "stopped": True,
        "descendants": 0,
    }
    report = await ended(api, worker_id)
    assert report["status"] == "stopped"
    assert await api.json("POST", f"/workers/{worker_id}/stop") == {
        "stopped": False,
        "descendants": 0,
    }
    again = await api.json("POST", f"/workers/{worker_id}/retry", 202)
    assert again["retried"] == worker_id
    assert (await api.json("POST", f"/workers/{again['worker_id']}/retry", 409))["type"].endswith(
        "not-ended"
    )
    assert (await api.json("POST", f"/workers/{again['worker_id']}/stop"))["stopped"] is True


async def test_a_batch_over_http(api: Api) -> None:
    """A batch is accepted whole, joined once, read in pages, and what failed is retried."""
    tasks = [{"task": "fetch"}, {"task": "fail"}, {"task": "fetch"}]
    batch = await api.json("POST", "/batches", 202, json={"tasks": tasks, "deadline": 60})
    where = f"/batches/{batch['batch_id']}"
    result = await api.json("GET", f"{where}/result?wait=20")
    assert [m["worker_id"] for m in result["members"]] == batch["worker_ids"]
    assert result["counts"] == {"success": 2, "failed": 1}
    seen = await api.json("GET", where)
    assert (seen["state"], seen["arrived"], seen["counts"]) == ("JOINED", 3, result["counts"])
    page = await api.json("GET", f"{where}/members?limit=2")
    rest = await api.json("GET", f"{where}/members", params={"cursor": page["next_cursor"]})
    found = [m["worker_id"] for m in (*page["items"], *rest["items"])]
    assert (found, rest["next_cursor"]) == (batch["worker_ids"], None)
    reports = await api.json("GET", f"{where}/reports?limit=2")
    assert [r["status"] for r in reports["items"]] == ["success", "failed"]
    tree = await api.json("GET", f"/trees/{batch['batch_id']}")
    assert [top["worker_id"] for top in tree["tops"]] == batch["worker_ids"]
    retried = await api.json("POST", f"{where}/retry", 202)
    assert len(retried["worker_ids"]) == 1
    assert await api.json("POST", f"{where}/stop") == {"stopped": 0}


async def test_the_fleet_is_seen_and_steered(api: Api) -> None:
    """Numbers, nodes, caps, and an intake that is closed and opened again."""
    stats = await api.json("GET", "/stats")
    assert (stats["nodes"], stats["intake_paused"]) == (1, False)
    [node] = await api.json("GET", "/nodes")
    assert node["lease_seconds"] > 0
    limits = await api.json("PUT", "/limits/max_concurrent_workers", json={"most": 7})
    assert limits[0]["most"] == 7
    reset = await api.json("PUT", "/limits/max_concurrent_workers", json={"most": None})
    assert reset[0]["most"] is None
    assert (await api.json("GET", "/limits")) == reset
    nobody = await api.json("PUT", "/limits/agent:nosuch", 422, json={"most": 1})
    assert "no agent is named 'nosuch'" in nobody["detail"]
    assert await api.json("POST", "/intake/pause") == {"paused": True}
    refused = await api.json("POST", "/workers", 503, json={"task": "fetch"})
    assert refused["type"].endswith("intake-paused")
    assert await api.json("POST", "/intake/resume") == {"paused": False}
    await ended(api, await spawn(api, "fetch"))
    assert (await api.json("POST", "/nodes/nobody/drain", 404))["type"].endswith("unknown-node")


async def test_all_workers_are_stopped(api: Api) -> None:
    """Whoever has not ended is stopped, and counted."""
    ids = [await spawn(api, "sleep"), await spawn(api, "fetch", not_before=3600)]
    assert (await api.json("POST", "/workers/stop"))["stopped"] >= 2
    assert {(await ended(api, i))["status"] for i in ids} == {"stopped"}


async def test_quarantine_over_http(api: Api) -> None:
    """Who is in quarantine is listed, retried and dropped; who is not is not found."""
    ids = [await spawn(api, "fetch"), await spawn(api, "fetch")]
    for worker_id in ids:
        await ended(api, worker_id)
        store = api.runtime._store
        await store.link.call("ZREM", store.keys("ended"), worker_id)
        await store.link.call("ZADD", store.keys("quarantine"), 1, worker_id)
    page = await api.json("GET", "/quarantine")
    assert {each["worker_id"] for each in page["items"]} == set(ids)
    async with ColonyRuntime(api.runtime.colony_id, settings=api.runtime.settings) as other:
        retries = (other.retry_quarantined(ids[0]) for _ in range(5))
        answers = await asyncio.gather(*retries, return_exceptions=True)
    [retried] = {answer for answer in answers if not isinstance(answer, NotQuarantined)}
    assert (await ended(api, str(retried)))["status"] == "success"
    again = await api.json("POST", f"/quarantine/{ids[0]}/retry", 404)
    assert again["type"].endswith("not-quarantined")
    assert await api.json("DELETE", f"/quarantine/{ids[1]}", 204) is None
    assert (await api.json("GET", "/quarantine"))["items"] == []
    gone = await api.json("DELETE", f"/quarantine/{ids[1]}", 404)
    assert gone["type"].endswith("not-quarantined")


async def test_the_same_key_gives_the_first_answer(api: Api) -> None:
    """Five requests at once with one key are one spawn; another caller's key is another key."""
    key = {"Idempotency-Key": "job 7"}
    body = {"task": "fetch", "count": 3}
    answers = await asyncio.gather(
        *(api.json("POST", "/workers", 202, json=body, headers=key) for _ in range(5))
    )
    assert all(answer == answers[0] for answer in answers)
    other = await api.json("POST", "/workers", 202, json=body, headers=key, scopes=("spawn",))
    assert not set(other["worker_ids"]) & set(answers[0]["worker_ids"])
    tasks = {"tasks": [{"task": "fetch"}]}
    batches = await asyncio.gather(
        *(api.json("POST", "/batches", 202, json=tasks, headers=key) for _ in range(5))
    )
    assert len({batch["batch_id"] for batch in batches}) == 1
    [first] = batches[0]["worker_ids"]
    await ended(api, first)
    retries = await asyncio.gather(
        *(api.json("POST", f"/workers/{first}/retry", 202, headers=key) for _ in range(5))
    )
    assert len({retry["worker_id"] for retry in retries}) == 1


async def test_a_list_stays_put_while_the_fleet_works(api: Api) -> None:
    """Who is there from the first page to the last is listed once, though workers begin, change and end
    between the pages; the pages of a state, too."""
    held = await api.json("POST", "/workers", 202, json={"task": "nap", "count": 40})
    delayed = await api.json(
        "POST", "/workers", 202, json={"task": "fetch", "count": 20, "not_before": 600}
    )
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params: dict[str, Any] = {"limit": 7, **({"cursor": cursor} if cursor else {})}
        page = await api.json("GET", "/workers", params=params)
        seen += [each["worker_id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        await spawn(api, "fetch")
    assert len(seen) == len(set(seen))
    assert {*held["worker_ids"], *delayed["worker_ids"]} <= set(seen)
    parked = await api.json("GET", "/workers?status=PARKED&limit=15")
    for worker_id in delayed["worker_ids"][:10]:
        await api.json("POST", f"/workers/{worker_id}/stop")
    rest = await api.json(
        "GET", "/workers", params={"status": "PARKED", "cursor": parked["next_cursor"]}
    )
    ids = [each["worker_id"] for each in (*parked["items"], *rest["items"])]
    assert len(ids) == len(set(ids))
    assert set(delayed["worker_ids"][10:]) <= set(ids)
    wrong = await api.json("GET", "/workers", 422, params={"cursor": parked["next_cursor"]})
    assert wrong["field"] == "query.cursor"
    await api.json("POST", "/workers/stop")

    async def all_ended() -> bool:
        return not (await api.json("GET", "/workers?status=RUNNING"))["items"]

    await wait_until(all_ended, 20)
