"""A node that is to drain and does not answer: nobody waits for it for ever, and it ends if it comes back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from colony.testing import Fleet, wait_until
from tests.fleet.helpers import node_name
from tests.unit.cli_kit import answer, call

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

LEASE = 2.0
BEAT: dict[str, Any] = {"lease": str(LEASE), "beat_interval": "0.4"}


async def drain(fleet: Fleet, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``colony drain …``."""
    return await asyncio.to_thread(call, "drain", *arguments, "--redis-url", fleet.redis_url)


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_drain_waits_for_a_frozen_node_until_its_lease_is_over(nodes: int) -> None:
    """Alone, or beside one that rescues what it held: it is said to be gone, not to have ended. Thawed, it
    drains and ends; it never serves again."""
    async with Fleet("tests.definitions:basic", nodes=nodes, **BEAT) as fleet:
        frozen = fleet.nodes[0]
        name = await node_name(fleet.runtime, frozen)
        frozen.freeze()
        began = time.monotonic()
        code, out, _ = await drain(fleet, name, "--wait")
        assert (code, time.monotonic() - began < LEASE + 5) == (0, True)
        assert out.startswith(f"{name} is gone: its lease ran out")
        if nodes == 2:

            async def rescued() -> bool:
                return name not in {found.node for found in await fleet.runtime.list_nodes()}

            await wait_until(rescued, 10, what="the other node has rescued it")
        frozen.thaw()
        assert await asyncio.to_thread(frozen.wait, 15) == 0
        assert "drained by an operator" in frozen.tail(500)
        assert [node.process.poll() for node in fleet.nodes[1:]] == [None] * (nodes - 1)


async def test_a_drain_waits_no_longer_than_it_is_told() -> None:
    """One that takes longer: after --timeout the command says that it still drains; exit code 1."""
    async with Fleet("tests.definitions:basic") as fleet:
        [node] = fleet.nodes
        name = await node_name(fleet.runtime, node)
        node.freeze()
        code, out, err = await drain(fleet, name, "--wait", "--timeout", "0.5s")
        node.thaw()
        assert (code, out) == (1, f"{name} drains\n")
        assert "Not all have ended within 0.5 s" in err
        assert await asyncio.to_thread(node.wait, 15) == 0


async def test_a_drain_of_nobody_says_so() -> None:
    """`--all` where no node is alive."""
    async with Fleet("tests.definitions:basic") as fleet:
        code, out, _ = await drain(fleet, "--all", "--wait")
        assert (code, out.rstrip().endswith("has ended")) == (0, True)
        assert await asyncio.to_thread(fleet.nodes[0].wait, 10) == 0
        code, out, _ = await drain(fleet, "--all")
        assert (code, out) == (0, "No node is alive: there is nothing to drain.\n")
        told = await asyncio.to_thread(answer, fleet.redis_url, "drain", "--all", "--wait")
        assert told == {"drained": [], "ended": True, "gone": []}
