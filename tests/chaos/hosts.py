"""Hosts of their own for nodes, on one machine: network namespaces, each with a link to where Redis is.

A partition takes a host's link down: no packet passes, no connection is told, and what was sent meanwhile is
sent again when the link is up. Needs the right to make namespaces (root, or CAP_NET_ADMIN and CAP_SYS_ADMIN)
and iproute2; `why_not` says what is missing.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.history import History
from tests.chaos.schedule import Fault
from tests.chaos.world import Hurt, World
from tests.proxy import Proxy

HOSTS = 2
CHUNK = 65536


def why_not() -> str | None:
    """Why there can be no hosts here; None when there can."""
    if shutil.which("ip") is None:
        return "partitions between hosts need iproute2 (ip), which is not installed"
    try:
        with Host(0):
            return None
    except subprocess.CalledProcessError as error:
        return f"partitions between hosts need the right to make network namespaces: {error.stderr}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True, text=True)


class Host:
    """A network namespace, joined to this one by a pair of links. Use it as ``with``."""

    def __init__(self, number: int) -> None:
        self.name = f"chaos{os.getpid()}h{number}"
        self.outer = f"co{os.getpid() % 100_000}n{number}"
        inner = f"ci{os.getpid() % 100_000}n{number}"
        net = f"10.213.{os.getpid() % 200 + number}"
        self.gateway = f"{net}.1"
        _ip("netns", "add", self.name)
        try:
            self._join(inner, net)
        except BaseException:
            self.__exit__()
            raise

    def _join(self, inner: str, net: str) -> None:
        _ip("link", "add", self.outer, "type", "veth", "peer", "name", inner, "netns", self.name)
        _ip("addr", "add", f"{net}.1/24", "dev", self.outer)
        _ip("link", "set", self.outer, "up")
        _ip("-n", self.name, "addr", "add", f"{net}.2/24", "dev", inner)
        for link in (inner, "lo"):
            _ip("-n", self.name, "link", "set", link, "up")

    def link(self, state: str) -> None:
        """Take its link ``down``, or ``up`` again."""
        _ip("link", "set", self.outer, state)

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "link", "del", self.outer], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


class Hosts(World):
    """A world whose nodes live on hosts of their own; one more fault: ``partition``."""

    reaches_us = False

    def __init__(
        self, folder: Path, history: History, seed: int, env: Mapping[str, str], *, concurrency: int
    ) -> None:
        super().__init__(folder, history, seed, env, concurrency=concurrency)
        self.hosts = [self._stack.enter_context(Host(number)) for number in range(HOSTS)]
        self._host_of: dict[int, Host] = {}
        self._ways: list[asyncio.Task[Any]] = []

    def start_node(self, version: str, env: Mapping[str, str] | None = None) -> Hurt:
        """On the host that has the fewest."""
        counts = [
            sum(self._host_of.get(h.node.pid) is host for h in self.nodes) for host in self.hosts
        ]
        self._next = self.hosts[counts.index(min(counts))]
        hurt = super().start_node(version, env)
        self._host_of[hurt.node.pid] = self._next
        return hurt

    def _place(self, proxy: Proxy) -> tuple[list[str], str]:
        host = self._next
        self._ways.append(asyncio.create_task(way_in(host.gateway, proxy.port)))
        url = proxy.url.replace("127.0.0.1", host.gateway)
        return ["ip", "netns", "exec", host.name], url

    async def partition(self, fault: Fault) -> Any:
        """One host is cut off from Redis, with all its nodes."""
        host = self.hosts[int(fault.whom * len(self.hosts))]
        host.link("down")
        await asyncio.sleep(fault.seconds)
        host.link("up")
        return host.name

    def _end(self) -> None:
        super()._end()
        for way in self._ways:
            way.get_loop().call_soon_threadsafe(way.cancel)


async def way_in(address: str, port: int) -> None:
    """Let what connects to an address of ours through to the same port of loopback."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        pumps = [
            asyncio.create_task(_pump(reader, back)),
            asyncio.create_task(_pump(there, writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for end in (writer, back):
            end.transport.abort()

    async with await asyncio.start_server(accept, address, port) as server:
        await server.serve_forever()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        return  # the other end is closed by whoever waits for this
