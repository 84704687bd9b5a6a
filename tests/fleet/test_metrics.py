"""A real node and a real gateway, scraped: what they count, bounded, and alike of the fleet."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from colony import ColonyRuntime
from colony.doorbell import celery_app
from colony.metrics import fleet as of_fleet
from colony.metrics.fleet import FleetReader
from colony.models import Subscription, WorkerState
from colony.settings import Settings
from colony.store import Link, Store
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import wait_for_state
from tests.fleet.metrics_definitions import ANSWER, priced
from tests.fleet.receiver import SECRET, Answer, receiving
from tests.fleet.test_health import free_port
from tests.gateway.kit import Gateway
from tests.proxy import Proxy
from tests.secure_redis import USERS, secure_redis
from workers.agent.cost import cost_of
from workers.node.context import NodeContext

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

ROLES = ("heart", "janitor", "courier", "timekeeper")
Scraped = dict[str, dict[tuple[str, ...], float]]
"""By name, then by the values of the labels, but `colony`, in the order of their names."""


async def scrape(url: str, headers: Mapping[str, str] | None = None) -> Scraped:
    """All samples at an address."""
    request = urllib.request.Request(f"{url}/metrics", headers=dict(headers or {}))
    with await asyncio.to_thread(urllib.request.urlopen, request, timeout=5) as answer:
        text = answer.read().decode()
    found: Scraped = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels.items()
            key = tuple(value for name, value in sorted(labels) if name != "colony")
            found.setdefault(sample.name, {})[key] = sample.value
    return found


async def test_a_node_and_a_gateway_tell_what_happened(tmp_path: Path) -> None:
    """Workers, tokens, tools and times as they were; the same of the fleet from both; a rescue counted."""
    port = free_port(2)
    node, other = (f"http://127.0.0.1:{port + n}" for n in range(2))
    async with Fleet("tests.fleet.definitions:deadly", health_port=str(port)) as fleet:
        gateway = Gateway(fleet.redis_url, tmp_path / "log")
        try:
            runtime = fleet.runtime
            ids = [
                *await runtime.spawn("mixed", count=5),
                *await runtime.spawn("fail", agent="bare"),
            ]
            await runtime.wait_for_worker_reports(ids, 20)
            found = await scrape(node)
            assert found["colony_slices_total"] == {("agent", "ended"): 5, ("bare", "ended"): 1}
            assert found["colony_first_request_seconds_count"] == {("agent",): 5, ("bare",): 1}
            assert found["colony_model_request_seconds_count"] == {
                ("agent", "scripted", "ok"): 5 * 6,
                ("bare", "scripted", "ok"): 1,
            }
            calls = found["colony_tool_call_seconds_count"]
            assert calls[("ok", "echo")] == 5 * 3
            tokens = sum(found["colony_tokens_total"].values())
            records = [await runtime.get_worker(i) for i in ids]
            assert tokens == sum(r.tokens_used for r in records if r is not None) > 0
            assert 0 < found["colony_node_lease_seconds"][()] <= 4
            assert found["colony_node_loop_lag_seconds"][()] < 1
            assert found["process_cpu_seconds_total"][()] > 0
            failed = found["colony_role_failures_total"]
            assert [failed[role, "error"] for role in ROLES] == [0] * 4, "the first one is a rise"

            [slept] = await runtime.spawn("sleep")
            await wait_for_state(runtime, WorkerState.RUNNING, 1)
            assert (await scrape(node))["colony_node_running"] == {
                ("agent",): 1,
                ("bare",): 0,
            }
            await fleet.add_nodes(health_port=str(port + 1))
            fleet.nodes[0].kill()
            assert await runtime.wait_for_worker(slept, 30)

            async def rescued() -> bool:
                return (await scrape(other))["colony_workers_rescued_total"][()] == 1

            await wait_until(rescued, what="the rescue is counted")
            found = await scrape(other)
            assert found["colony_slots"][()] == found["colony_node_slots"][()] == 1000
            assert found["colony_workers_taken_from_dead_nodes_total"][()] == 1
            assert found["colony_workers_accepted_total"][()] == len(ids) + 1
            assert found["colony_workers"][("COMPLETED",)] == 6
            assert found["colony_workers_ended_total"][("failed",)] == 1
            assert found["colony_queue_messages"][()] == found["colony_intake_messages"][()] == 0
            await asyncio.to_thread(gateway.wait_ready)
            told = await scrape(gateway.url)
            of_fleet = found.keys() & told.keys() - {"colony_events_total"}
            assert len([name for name in of_fleet if name.startswith("colony_")]) > 35
            taken = "colony_workers_taken_from_dead_nodes_total"  # by the node that took it
            steady = {n for n in of_fleet if n.startswith("colony_workers")} - {taken}
            assert {n: told[n] for n in steady} == {n: found[n] for n in steady}
        finally:
            gateway.kill()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="names the children of a process")
async def test_what_children_of_prefork_count_is_told_by_their_node() -> None:
    """All of it, once: from two children, and from those that came when both had been killed."""
    port = free_port(2)
    async with Fleet(
        "tests.fleet.definitions:deadly", pool="prefork", concurrency=2, health_port=str(port)
    ) as fleet:
        runtime, node = fleet.runtime, f"http://127.0.0.1:{port}"

        async def counted(slices: int) -> bool:
            told = (await scrape(node)).get("colony_slices_total", {})
            return told == {("agent", "ended"): slices}

        await runtime.wait_for_worker_reports(await runtime.spawn("mixed", count=6), 20)
        await wait_until(lambda: counted(6), what="six slices are told")
        pid = fleet.nodes[0].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert len(children) == 2
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        await runtime.wait_for_worker_reports(await runtime.spawn("mixed", count=2), 20)
        await wait_until(lambda: counted(8), what="eight slices are told")
        found = await scrape(node)
        assert found["colony_model_request_seconds_count"] == {("agent", "scripted", "ok"): 8 * 6}
        assert found["colony_model_request_seconds_sum"][("agent", "scripted", "ok")] > 0
        assert found["colony_tool_call_seconds_count"][("ok", "echo")] == 8 * 3
        tokens = sum(found["colony_tokens_total"].values())
        assert tokens == sum(r.tokens_used for r in await runtime.list_workers()) > 0
        assert "colony_node_running" not in found


async def test_what_answers_cost_is_counted() -> None:
    """By pydantic-ai's price list, for agent and model, as the workers' records have it."""
    port = free_port()
    async with Fleet("tests.fleet.metrics_definitions:priced", health_port=str(port)) as fleet:
        ids = await fleet.runtime.spawn("add up", count=3)
        await fleet.runtime.wait_for_worker_reports(ids, 20)
        found = await scrape(f"http://127.0.0.1:{port}")
    one = cost_of(ANSWER)
    assert one is not None
    assert one > 0.0001
    assert found["colony_cost_usd_total"] == {("agent", "scripted"): pytest.approx(3 * one)}


async def registered(url: str) -> Store:
    """The store of a colony with three agents that nobody serves."""
    settings = Settings(redis_url=url)
    context = NodeContext(priced, settings, celery_app(priced.name, settings))
    store = context.open_store(patience=None)
    await store.register(context.face())
    return store


COUNTED = {
    "rescued": "colony_workers_rescued_total",
    "lost": "colony_workers_lost_total",
    "stale_refused": "colony_stale_writes_refused_total",
    "rung_again": "colony_doorbells_rung_again_total",
    "rejected": "colony_messages_rejected_total",
    "intake_refused": "colony_intake_refused_total",
}


async def test_what_the_store_knows_is_what_is_told(colony_redis: str) -> None:
    """Each with a figure of its own: workers by agent and state, ages, quarantine, what is counted."""
    store = await registered(colony_redis)
    try:
        async with ColonyRuntime("priced", settings=Settings(redis_url=colony_redis)) as runtime:
            await runtime.spawn("cook", count=2, agent="cook")
            await runtime.spawn("write", count=3, agent="clerk")
        with Redis.from_url(colony_redis) as redis:
            redis.zadd(store.keys("quarantine"), {f"w-{n}": n for n in range(4)})
        for times, figure in enumerate(COUNTED, start=2):
            for _ in range(times):
                await store.tally(figure)
        await asyncio.sleep(0.3)
        told = await told_by(FleetReader(colony_redis, colony_redis, ["priced"]))
    finally:
        await store.link.close()
    assert told["colony_store_up"] == {(): 1}
    assert told["colony_workers_active"] == {("agent",): 0, ("clerk",): 3, ("cook",): 2}
    states = dict.fromkeys(WorkerState, 0) | {WorkerState.PENDING: 5}
    assert told["colony_workers"] == {(state.value,): n for state, n in states.items()}
    assert 0.3 <= told["colony_oldest_pending_seconds"][()] < 10
    assert told["colony_workers_quarantined"] == {(): 4}
    assert told["colony_workers_accepted_total"] == {(): 5}
    assert told["colony_queue_messages"] == {(): 5}
    for times, name in enumerate(COUNTED.values(), start=2):
        assert told[name] == {(): times}, name
    assert set(told["colony_figures_left_out"].values()) == {0}


async def told_by(reader: FleetReader) -> Scraped:
    """The fleet's metrics, as `scrape` gives them."""
    found: Scraped = {}
    for family in await reader.families():
        of_name = found.setdefault(family.name, {})
        for labels, value in family.samples:
            key = tuple(value for name, value in sorted(labels.items()) if name != "colony")
            assert key not in of_name, (family.name, key)
            of_name[key] = value
    return found


async def test_what_metrics_leave_out_is_told(
    colony_redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colonies, agents and counts beyond what is told of: how many."""
    monkeypatch.setattr(of_fleet, "MOST_NAMES", 1)
    monkeypatch.setattr(of_fleet, "MOST_COLONIES", 1)
    store = await registered(colony_redis)
    try:
        for name in ("quite", "rare"):
            await Store(store.link, name).register({"version": "1"})
        for figure in ("one", "other", "third", "accepted"):
            await store.tally(figure)
        told = await told_by(FleetReader(colony_redis, colony_redis))
    finally:
        await store.link.close()
    assert told["colony_workers_active"].keys() == {("agent",)}
    assert told["colony_counted_total"] == {("one",): 1}
    left_out = {("colonies",): 2, ("agents",): 2, ("counts",): 2}
    assert told["colony_figures_left_out"] == left_out


async def test_a_gateway_guards_its_metrics(tmp_path: Path, colony_redis: str) -> None:
    """Through a proxy not without a token, with one for nobody else; requests by operation; bounded."""
    gateway = Gateway(colony_redis, tmp_path / "log")
    guarded = Gateway(colony_redis, tmp_path / "guarded", gateway_metrics_token="let-me-see")
    try:
        for each in (gateway, guarded):
            await asyncio.to_thread(each.wait_ready)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            await scrape(gateway.url, {"X-Forwarded-For": "192.0.2.1"})
        for headers in ({}, {"Authorization": "Bearer let-me-se"}):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                await scrape(guarded.url, headers)
        assert await scrape(guarded.url, {"Authorization": "Bearer let-me-see"})
        for path in ("/v1/colonies/none/stats", "/nowhere/1", "/nowhere/2"):
            with pytest.raises(urllib.error.HTTPError):
                await asyncio.to_thread(urllib.request.urlopen, gateway.url + path, timeout=5)
        counted = (await scrape(gateway.url))["colony_http_request_seconds_count"]
        assert counted[("get_stats", "401")] == 1
        assert counted[("none", "404")] == 2
        assert {operation for operation, _ in counted} <= {"get_stats", "none", "_ready", "answer"}
    finally:
        gateway.kill()
        guarded.kill()


async def test_without_redis_a_node_says_so_at_once() -> None:
    """The scrape answers, with what the node knows itself, and that the store is away."""
    port = free_port()
    async with Fleet("tests.fleet.definitions:deadly", nodes=0) as fleet:
        with Proxy(fleet.redis_url) as proxy:
            [node] = await fleet.add_nodes(redis_url=proxy.url, health_port=str(port))
            url = f"http://127.0.0.1:{port}"
            assert (await scrape(url))["colony_store_up"] == {(): 1}
            proxy.refuse()

            async def away() -> Scraped | None:
                found = await scrape(url)
                return found if found["colony_store_up"] == {(): 0} else None

            found: Scraped = await wait_until(away, what="the store is away")
            assert "colony_nodes" not in found
            assert found["colony_node_unheard_seconds"][()] > 0
            proxy.open()
            node.kill()


async def test_webhooks_events_and_ticks_are_counted() -> None:
    """Deliveries by outcome, how old events were, the ticks of a beat and that one leads."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    node: dict[str, Any] = {
        "hook_secret": SECRET,
        "sweep_interval": "0.1",
        "delivery_retries": "0.1",
        "delivery_allow_private": "127.0.0.1/32",
    }
    async with Fleet("tests.fleet.definitions:deadly", nodes=0, **node) as fleet:
        await fleet.add_nodes(health_port=str(port))
        with receiving() as receiver:
            fleet.start_beat()
            receiver.answers["/bad"] = [Answer(500)]
            for path in ("/good", "/bad"):
                asked = Subscription(
                    id=path.strip("/"),
                    url=receiver.url(path),
                    secret=("env:COLONY_HOOK_SECRET",),
                    types=("subagent_report",),
                )
                await fleet.runtime.put_subscription(asked)
            await fleet.runtime.spawn("fetch")

            async def told() -> Scraped | None:
                found = await scrape(url)
                leads = found["colony_beat_leads"][()] and found["colony_beat_ticks_total"][()]
                return found if leads and found["colony_webhooks_dead_total"][()] else None

            found: Scraped = await wait_until(told, 20, what="all is told")
    counted = {outcome: n for (outcome,), n in found["colony_delivery_seconds_count"].items()}
    assert counted == {"delivered": 1, "failed": 1, "dead": 1}
    assert found["colony_webhooks_delivered_total"] == found["colony_deliveries_dead"] == {(): 1}
    assert found["colony_event_lag_seconds_count"] == {("subscription",): 2}
    assert found["colony_event_lag_seconds_sum"][("subscription",)] < 10


async def test_each_role_may_read_what_it_tells(tmp_path: Path) -> None:
    """With the users that we deploy Redis denies neither a node nor a gateway anything."""
    with secure_redis(tmp_path, users=True) as redis:
        link = Link(redis.url("node"), patience=None)
        await Store(link, "c").register({"version": "1"})
        await link.close()
        told = {}
        for role, colonies in (("node", ["c"]), ("gateway", None)):
            families = await FleetReader(redis.url(role), redis.url(role), colonies).families()
            told[role] = {family.name for family in families}
        with Redis.from_url(redis.url("admin"), decode_responses=True) as admin:
            entries = [e for e in admin.acl_log(100) if "client" not in e["object"]]
        assert entries == []
    assert told["node"] - told["gateway"] == {"colony_messages_set_aside"}
    assert {"colony_nodes", "colony_queue_messages", "colony_beat_leads"} <= told["gateway"]


async def test_a_gateway_of_one_colony_tells_of_that_one(tmp_path: Path) -> None:
    """Where users.acl keeps colonies apart, what is not for it hides nothing that is."""
    [rules] = re.findall(r"^user gateway (.*)", USERS.read_text(), re.MULTILINE)
    own = rules.replace("colony:{*}:", "colony:{mine}:").replace("colony.*", "colony.mine*")
    with secure_redis(tmp_path, users=True) as redis:
        link = Link(redis.url("node"), patience=None)
        for name in ("mine", "others"):
            await Store(link, name).register({"version": "1"})
        await link.close()
        with Redis.from_url(redis.url("admin")) as admin:
            admin.execute_command("ACL", "SETUSER", "gateway", *own.split())
        url = redis.url("gateway")
        families = {f.name: f.samples for f in await FleetReader(url, url).families()}
    assert families["colony_store_up"] == [({}, 1)]
    assert families["colony_nodes"] == [({"colony": "mine"}, 0)]
    assert ({"what": "colonies"}, 1) in families["colony_figures_left_out"]
