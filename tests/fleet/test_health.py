"""What the probes of a node are told, and when."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from colony.models import WorkerState
from colony.redis_server import EmbeddedRedis
from colony.testing import Fleet, Node, wait_until
from tests.fleet.helpers import wait_for_state
from tests.proxy import Proxy

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]


def free_port(count: int = 1) -> int:
    """A port that is free now, and those after it; below those that connections are given."""
    for _ in range(50):
        port = random.randrange(15000, 25000)
        try:
            for number in range(port, port + count):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", number))
        except OSError:
            continue
        return port
    raise AssertionError("no free ports")


def probe(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and body; status 0 when nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except (urllib.error.URLError, OSError):
        return 0, {}


async def until(port: int, path: str, status: int, timeout: float = 15.0) -> dict[str, Any]:
    """Wait for a status; the body that came with it."""

    async def answers() -> dict[str, Any] | None:
        found, body = await asyncio.to_thread(probe, port, path)
        return body if found == status else None

    body: dict[str, Any] = await wait_until(answers, timeout, what=f"{path} answers {status}")
    return body


async def test_a_healthy_node_is_ready_and_a_draining_one_is_not() -> None:
    """200 with the facts; while it drains it is alive and not ready; unknown paths are 404."""
    port = free_port()
    async with Fleet("tests.fleet.definitions:deadly", health_port=str(port)) as fleet:
        body = await until(port, "/readyz", 200)
        assert (body["ok"], body["reasons"]) == (True, [])
        assert 2 < body["lease_seconds"] <= 4
        assert body["lag_seconds"] < 1
        assert body["node"] == (await fleet.runtime.list_nodes())[0].node
        assert (await until(port, "/livez", 200))["ok"]
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/", timeout=2)
        await fleet.runtime.spawn("long-nap")
        await wait_for_state(fleet.runtime, WorkerState.RUNNING, 1)
        fleet.nodes[0].terminate()
        assert (await until(port, "/readyz", 503))["reasons"] == ["the node drains"]
        assert probe(port, "/livez")[0] in (0, 200)
        assert fleet.nodes[0].wait() == 0


async def test_a_node_without_redis_is_alive_and_not_ready() -> None:
    """Redis away: not ready (the lease is over), alive; back: ready."""
    port = free_port()
    async with Fleet(
        "tests.fleet.definitions:deadly",
        nodes=0,
        health_port=str(port),
        lease="1.5",
        beat_interval="0.4",
    ) as fleet:
        with Proxy(fleet.redis_url) as proxy:
            [node] = await fleet.add_nodes(redis_url=proxy.url)
            await until(port, "/readyz", 200)
            proxy.black_hole()
            body = await until(port, "/readyz", 503)
            assert body["reasons"][0].startswith("the lease is over: no answer to a beat for")
            assert probe(port, "/livez")[0] == 200
            proxy.open()
            await until(port, "/readyz", 200)
            node.terminate()
            assert node.wait() == 0


async def test_a_node_without_broker_is_alive_and_not_ready() -> None:
    """The broker away and the store there: not ready within seconds, alive; back: ready."""
    port = free_port()
    async with Fleet(
        "tests.fleet.definitions:deadly", nodes=0, health_port=str(port), deaf_after="24"
    ) as fleet:
        with Proxy(fleet.redis_url) as proxy:
            [node] = await fleet.add_nodes(broker_url=proxy.url)
            await until(port, "/readyz", 200)
            proxy.refuse()
            body = await until(port, "/readyz", 503)
            assert 5 < body["silent_seconds"] < 10

            async def says_why() -> bool:
                _, body = await asyncio.to_thread(probe, port, "/readyz")
                return "the broker is away" in body["reasons"]

            await wait_until(says_why, 20, what="it says that the broker is away")
            assert probe(port, "/livez")[0] == 200
            proxy.open()
            await until(port, "/readyz", 200)
            node.terminate()
            assert node.wait() == 0


async def test_a_frozen_broker_loop_is_neither_ready_nor_alive(tmp_path: Path) -> None:
    """Celery's loop hangs: 503 from both, with the reason, before the watchdog ends the process."""
    port, hook = free_port(), tmp_path / "block"
    async with Fleet(
        "tests.fleet.deaf_definitions:colony",
        nodes=0,
        health_port=str(port),
        deaf_after="2",
        drain_grace="2",
        test_block=str(hook),
    ) as fleet:
        [node] = await fleet.add_nodes()
        await until(port, "/readyz", 200)
        hook.touch()
        body = await until(port, "/readyz", 503)
        assert body["reasons"][0].startswith("no answer of the broker for")
        body = await until(port, "/livez", 503)
        assert body["reasons"][0].startswith("deaf: no answer to this node's consumer")
        await wait_until(lambda: node.process.poll() is not None, 20, what="the node has ended")


async def test_a_blocked_agent_loop_is_not_alive() -> None:
    """A tool blocks the loop that all agents share: told with the time, also in the node's lease."""
    port = free_port()
    async with Fleet(
        "tests.fleet.deaf_definitions:colony", health_port=str(port), deaf_after="1.5"
    ) as fleet:
        await until(port, "/livez", 200)
        await fleet.runtime.spawn("block-loop")
        body = await until(port, "/livez", 503)
        assert body["reasons"][0].startswith("the agent loop has been blocked for")

        async def lag_is_told() -> bool:
            return (await fleet.runtime.list_nodes())[0].lag_ms > 1500

        await wait_until(lag_is_told, 5, what="the lease tells the lag")
        await until(port, "/livez", 200)


async def test_each_process_has_a_port_of_its_own() -> None:
    """--processes 2: the port and the next one; a taken port is told of in words."""
    port = free_port(2)
    async with Fleet("tests.fleet.definitions:deadly", nodes=0, health_port=str(port)) as fleet:
        made = fleet.start_node()
        made.kill()
        command = [sys.executable, "-m", "workers", fleet.definition, "--processes", "2"]
        node = Node(command, fleet._env(), None, made.log)
        fleet.nodes.append(node)
        names = {(await until(at, "/readyz", 200, 30))["node"] for at in (port, port + 1)}
        assert len(names) == 2
        late = fleet.start_node()
        assert await asyncio.to_thread(late.wait, 30) != 0
        assert "COLONY_HEALTH_PORT: cannot listen on 127.0.0.1" in late.tail(100)
        node.terminate()
        assert node.wait() == 0


async def test_beats_answer_probes_and_say_who_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are ready, one leads. Without Redis they live and are not ready. A port that is taken is said."""
    ports = [free_port(), free_port()]
    with EmbeddedRedis() as redis:
        async with Fleet("tests.definitions:basic", nodes=1, redis_url=redis.url) as fleet:
            for port in ports:
                monkeypatch.setenv("COLONY_HEALTH_PORT", str(port))
                fleet.start_beat()
            for port in ports:
                assert (await until(port, "/readyz", 200))["reasons"] == []

            async def one_leads() -> bool:
                said = [await asyncio.to_thread(scrape, port) for port in ports]
                told = [
                    re.search(r'colony_beat_leads{colony="basic"} (\S+)', page) for page in said
                ]
                return sorted(found[1] for found in told if found) == ["0.0", "1.0"]

            await wait_until(one_leads, 30, what="one leads, one stands by")
            redis.kill()
            assert "no answer of Redis" in str(await until(ports[0], "/readyz", 503, 30))
            assert probe(ports[0], "/livez")[0] == 200
            redis.restart()
            await until(ports[0], "/readyz", 200, 30)
            third = fleet.start_beat()
            assert await asyncio.to_thread(third.wait) == 1
            assert "COLONY_HEALTH_PORT: cannot listen" in third.tail()
            assert "Traceback" not in third.tail()


def scrape(port: int) -> str:
    """All metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())
