"""Triggers over HTTP: put, looked at, fired, paused, removed."""

from __future__ import annotations

import asyncio

import pytest

from tests.gateway.kit import Api

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="session")]

MANUAL = {"trigger_type": "manual", "task": "fetch ${input.city}"}
TIMER = {
    "trigger_type": "timer",
    "trigger_config": {"cron": "0 8 * * 1-5", "timezone": "Europe/Paris"},
    "task": "fetch",
}


async def test_the_life_of_a_trigger(api: Api) -> None:
    """It is put, fired once for one key, paused, resumed, changed and removed."""
    made = await api.json("PUT", "/triggers/cities", json=MANUAL)
    assert (made["trigger_id"], made["spec"]["task"]) == ("cities", MANUAL["task"])
    key = {"Idempotency-Key": "k1"}
    body = {"input": {"city": "Paris"}}
    fired = await asyncio.gather(
        *(api.json("POST", "/triggers/cities/fire", 202, json=body, headers=key) for _ in range(5))
    )
    assert len({each["worker_id"] for each in fired}) == 1
    worker = await api.json("GET", f"/workers/{fired[0]['worker_id']}")
    assert (worker["task"], worker["data"]["input"]) == ("fetch Paris", {"city": "Paris"})
    fires = await api.json("GET", "/triggers/cities/fires")
    assert [(f["outcome"], f["worker_id"]) for f in fires] == [("accepted", fired[0]["worker_id"])]
    missing = await api.json("POST", "/triggers/cities/fire", 422)
    assert "input.city" in missing["detail"]
    assert await api.json("POST", "/triggers/cities/pause") == {"paused": True}
    paused = await api.json("POST", "/triggers/cities/fire", 409, json=body)
    assert paused["type"].endswith("trigger-paused")
    assert await api.json("POST", "/triggers/cities/resume") == {"paused": False}
    changed = await api.json("PUT", "/triggers/cities", json={**MANUAL, "max_concurrent": 2})
    assert (changed["spec"]["max_concurrent"], changed["fired"]) == (2, 1)
    await api.json("DELETE", "/triggers/cities", 204)
    gone = await api.json("GET", "/triggers/cities", 404)
    assert gone["type"].endswith("unknown-trigger")


async def test_timers_and_pages(api: Api) -> None:
    """A timer says when it is due; the list comes in pages by id; all timers are held and let go."""
    for n in range(5):
        await api.json("PUT", f"/triggers/timer-{n}", json=TIMER)
    seen: list[str] = []
    cursor = None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = await api.json("GET", "/triggers", params=params)
        seen += [each["trigger_id"] for each in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [t for t in seen if t.startswith("timer-")] == [f"timer-{n}" for n in range(5)]
    assert len(seen) == len(set(seen))
    assert (await api.json("GET", "/triggers/timer-0"))["next_due"]
    assert await api.json("POST", "/timers/pause") == {"paused": True}
    assert await api.json("POST", "/timers/resume") == {"paused": False}
    for n in range(5):
        await api.json("DELETE", f"/triggers/timer-{n}", 204)


def timer(**config: object) -> dict[str, object]:
    return {"trigger_type": "timer", "trigger_config": config, "task": "x"}


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (timer(cron="0 0 30 2 *"), "trigger_config"),
        (timer(cron="* * * * *", interval=60), "trigger_config"),
        (timer(cron="* * * * *", timezone="Mars/Base"), "trigger_config"),
        (timer(cron=["* * * * *"]), "trigger_config.cron"),
        (timer(interval=60, jitter=61), "trigger_config.jitter"),
        (timer(interval=0), "trigger_config.interval"),
        ({"trigger_type": "nonsense", "task": "x"}, "trigger_type"),
        ({"trigger_type": "manual", "task": "${nonsense.x}"}, "task"),
        ({"trigger_type": "manual"}, "task"),
        ({"trigger_type": "manual", "task": "x", "id": "another"}, "id"),
        ({"trigger_type": "manual", "task": "x", "agent": "nobody"}, "agent"),
        ({"trigger_type": "manual", "task": "x", "nonsense": 1}, "nonsense"),
        ({}, "trigger_type"),
    ],
)
async def test_what_is_no_trigger_changes_nothing(
    api: Api, wrong: dict[str, object], field: str
) -> None:
    """Refused with its field and reason; there is no such trigger afterwards."""
    told = await api.json("PUT", "/triggers/wrong", 422, json=wrong)
    assert told["field"] == f"body.{field}", told
    await api.json("GET", "/triggers/wrong", 404)


async def test_a_pasted_secret_is_refused_and_not_repeated(api: Api) -> None:
    """A webhook's secrets are references; neither the answer nor the gateway's log holds what was given."""
    config = {"path": "/pasted", "secrets": ["whsec_cGFzdGVkIGJ5IG1pc3Rha2U"]}
    wrong = {"trigger_type": "webhook", "trigger_config": config, "task": "x"}
    told = await api.json("PUT", "/triggers/pasted", 422, json=wrong)
    assert "env:NAME or file:/path" in told["detail"]
    assert "whsec" not in str(told)
    assert "cGFzdGVk" not in api.gateway.log.read_text()
    await api.json("GET", "/triggers/pasted", 404)


async def test_a_token_watches_no_other_colony(api: Api) -> None:
    """It is good for one: 403 that says where such a trigger is declared; its own name may be said."""
    watching = {"trigger_type": "event", "task": "x ${event.data.summary}"}
    config: dict[str, object] = {"types": ["subagent_report"], "where": {"data.status": "none"}}
    other = {**watching, "trigger_config": {**config, "colony": "treasury"}}
    told = await api.json("PUT", "/triggers/spy", 403, json=other)
    assert told["field"] == "body.trigger_config.colony"
    assert "definition" in told["detail"]
    assert "colony trigger put" in told["detail"]
    odd = {**watching, "trigger_config": {**config, "colony": "a}:x{b"}}
    await api.json("PUT", "/triggers/spy", 422, json=odd)
    await api.json("GET", "/triggers/spy", 404)
    own = {**watching, "trigger_config": {**config, "colony": api.runtime.colony_id}}
    await api.json("PUT", "/triggers/own", json=own)
    await api.json("DELETE", "/triggers/own", 204)


async def test_a_webhook_asks_for_no_bodies_that_cannot_come(api: Api) -> None:
    """What the gateway would refuse anyway is refused when it is asked for; the bound itself is taken."""
    config = {"path": "/large", "secrets": "env:HOOK_SECRET"}
    large = {"trigger_type": "webhook", "task": "x"}
    most = 8 * 1024 * 1024
    wrong = {**large, "trigger_config": {**config, "max_bytes": most + 1}}
    told = await api.json("PUT", "/triggers/large", 422, json=wrong)
    assert "COLONY_GATEWAY_MAX_BODY_BYTES" in told["detail"]
    await api.json("GET", "/triggers/large", 404)
    await api.json(
        "PUT", "/triggers/large", json={**large, "trigger_config": {**config, "max_bytes": most}}
    )
    await api.json("DELETE", "/triggers/large", 204)
