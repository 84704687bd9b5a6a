"""Three hosts, each a network namespace: Redis on one, a node on each of two; on the third a producer, a beat
and a gateway.

A host is cut off and comes back; the way to Redis is 2 ms and 50 ms long in each direction. That is done by a
proxy and not by netem, which not every kernel has: so it is the same test wherever there are namespaces. The
proxy loses nothing and delays evenly; what is lost on a real way TCP sends again, which here is the cut.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from redis import Redis
from redis.exceptions import ConnectionError

from colony import ColonyRuntime
from colony.redis_server import newest_server
from colony.settings import Settings
from colony.testing import Node, wait_until
from tests.chaos.hosts import Host, way_in, why_not
from tests.fleet.secure_journey import DEFINITION, PLANTED
from tests.proxy import Proxy

pytestmark = [pytest.mark.fleet]

PORT = 6379
CUT_SECONDS = 3.0
"""Longer than a lease."""
SETTINGS = {
    **PLANTED,
    "COLONY_LEASE": "1.5",
    "COLONY_BEAT_INTERVAL": "0.4",
    "COLONY_SWEEP_INTERVAL": "0.2",
}


@dataclass
class Hosts:
    """What runs where; `way` is between all of them."""

    hosts: Sequence[Host]
    nodes: Sequence[Node]
    way: Proxy
    folder: Path

    def command(self, host: Host, *command: str) -> tuple[list[str], dict[str, str]]:
        """A command on a host, and its environment there."""
        url = self.way.url.replace("127.0.0.1", host.gateway)
        path = os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)])
        env = {**os.environ, **SETTINGS, "COLONY_REDIS_URL": url, "PYTHONPATH": path}
        return ["ip", "netns", "exec", host.name, sys.executable, "-m", *command], env

    def start(self, host: Host, name: str, *command: str, **settings: str) -> Node:
        """A process on a host."""
        words, env = self.command(host, *command)
        env |= {f"COLONY_{setting.upper()}": value for setting, value in settings.items()}
        return Node(words, env, None, self.folder / f"{name}.log")

    async def produce(self, *tasks: str) -> asyncio.subprocess.Process:
        """A producer on the third host, that has its workers accepted."""
        command, env = self.command(self.hosts[2], "tests.fleet.host_producer", *tasks)
        process = await asyncio.create_subprocess_exec(*command, env=env, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"accepted\n", self.tails()
        return process

    async def produced(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        """What it says in the end: every worker was successful, and told of once."""
        out, _ = await process.communicate()
        assert process.returncode == 0, self.tails()
        said: dict[str, Any] = json.loads(out)
        assert set(said["statuses"]) == {"success"}, (said, self.tails())
        assert set(said["told"]) == {1}, said
        assert said["joined"]
        return said

    def tails(self) -> str:
        """The ends of the nodes' logs."""
        return "\n\n".join(node.tail(15) for node in self.nodes)


@asynccontextmanager
async def three_hosts(folder: Path) -> AsyncIterator[Hosts]:
    """All up."""
    async with AsyncExitStack() as stack:
        hosts = [stack.enter_context(Host(number)) for number in range(3)]
        address = hosts[0].gateway.removesuffix(".1") + ".2"
        log = stack.enter_context((folder / "redis.log").open("wb"))
        options = ["--bind", address, "--port", str(PORT), "--protected-mode", "no", "--save", ""]
        server = subprocess.Popen(
            ["ip", "netns", "exec", hosts[0].name, str(newest_server().path), *options],
            stdout=log,
            cwd=folder,
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        url = f"redis://{address}:{PORT}/0"
        with Redis.from_url(url, socket_timeout=1) as client:
            await wait_until(lambda: _answers(client), 10, what="Redis is up")
        way = stack.enter_context(Proxy(url))
        for host in hosts[1:]:
            task = asyncio.create_task(way_in(host.gateway, way.port))
            stack.callback(task.cancel)
        made = Hosts(hosts, nodes := [], way, folder)
        for host in hosts[1:]:
            nodes.append(made.start(host, host.name, "workers", DEFINITION))
            stack.callback(nodes[-1].kill)
        for node in nodes:
            await wait_until(partial(_is_ready, node), 40, what="a node is ready")
        yield made


def _is_ready(node: Node) -> bool:
    assert node.process.poll() is None, node.tail()
    return " ready." in node.tail(200)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except ConnectionError:
        return False


async def produce_until(there: Hosts, nodes: int, *tasks: str) -> dict[str, Any]:
    """Have tasks done, again and again, until so many nodes have taken part at once."""
    said: dict[str, Any] = {}

    async def all_take_part() -> bool:
        said.update(await there.produced(await there.produce(*tasks)))
        return len(said["nodes"]) == nodes

    await wait_until(all_take_part, 30, what=f"{nodes} nodes take part: {said} {there.tails()}")
    return said


async def spawn_over_http(there: Hosts, gateway: str) -> None:
    """A client of the gateway, which is on another host."""
    async with ColonyRuntime("secure", settings=Settings(redis_url=there.way.url)) as runtime:
        token = (await runtime.create_token("shop", ("spawn", "read"))).token
    asks = httpx2.AsyncClient(
        base_url=f"{gateway}/v1/colonies/secure",
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    async with asks as client:
        accepted = await client.post("/workers", json={"task": "echo"})
        assert accepted.status_code == 202, accepted.text
        [worker] = accepted.json()["worker_ids"]
        report = await client.get(f"/workers/{worker}/report", params={"wait": 20})
        assert report.json()["status"] == "success", report.text


async def try_ready(url: str) -> bool:
    """Whether a gateway is."""
    try:
        async with httpx2.AsyncClient(timeout=2) as client:
            return (await client.get(f"{url}/readyz")).status_code == 200
    except httpx2.TransportError:
        return False


async def test_a_beat_and_a_gateway_on_a_host_of_their_own(tmp_path: Path) -> None:
    """The beat leads and has a node fire a timer; who asks the gateway has its worker done."""
    unless_hosts()
    async with three_hosts(tmp_path) as there:
        third = there.hosts[2]
        url = f"http://{third.gateway.removesuffix('.1')}.2:8080"
        beat = there.start(third, "beat", "colony.cli", "beat", DEFINITION)
        gateway = there.start(third, "gateway", "colony.cli", "gateway", gateway_host="0.0.0.0")
        try:
            await wait_until(lambda: try_ready(url), 20, what="the gateway is ready")
            await spawn_over_http(there, url)
            with Redis.from_url(there.way.url) as client:
                await wait_until(
                    lambda: client.exists("colony.secure.beat::lock"), 20, what="the beat leads"
                )
            async with ColonyRuntime(
                "secure", settings=Settings(redis_url=there.way.url)
            ) as runtime:
                await wait_until(lambda: runtime.get_fires("clock"), 20, what="the timer fires")
        finally:
            for process in (beat, gateway):
                process.terminate()
                process.wait()


def unless_hosts() -> None:
    """Skip where there can be none, but not in CI."""
    missing = why_not()
    if missing and "CI" not in os.environ:
        pytest.skip(missing)
    assert missing is None, missing


@pytest.mark.timeout(120)
async def test_a_fleet_on_three_hosts(tmp_path: Path) -> None:
    """The whole journey; one host away for longer than a lease; 2 ms and 50 ms each way."""
    unless_hosts()
    async with three_hosts(tmp_path) as there:
        await produce_until(there, 2, *["echo", "tree fetch / echo"] * 4)

        process = await there.produce(*["doze"] * 12)

        await wait_until(lambda: _running(there) >= 12, 15, what=f"all run {there.tails()}")
        there.hosts[1].link("down")
        cut = time.monotonic()
        await wait_until(lambda: time.monotonic() - cut > CUT_SECONDS, CUT_SECONDS + 5)
        there.hosts[1].link("up")
        said = await there.produced(process)
        assert said["rescued"] > 0, said
        assert all(node.process.poll() is None for node in there.nodes)
        # There are two nodes: both take part, so the one that was cut off takes work again.
        await produce_until(there, 2, *["echo", "tree fetch / echo"] * 4)

        for milliseconds in (2, 50):
            there.way.delay(milliseconds)
            said = await produce_until(there, 2, *["echo", "tree fetch / echo"] * 4)
            print(f"{milliseconds} ms each way: {said['seconds']:.1f} s")


def _running(there: Hosts) -> int:
    with Redis.from_url(there.way.url) as client:
        return int(client.zcard("colony:{secure}:state:RUNNING"))
