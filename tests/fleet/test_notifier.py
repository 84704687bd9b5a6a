"""A node tells systemd that it is ready, that it lives, and that it ends; one that is stuck is silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from colony.models import WorkerState
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import wait_for_state
from workers.node.health import Health
from workers.node.notifier import Notifier

pytestmark = pytest.mark.asyncio


class Systemd:
    """The receiving end of NOTIFY_SOCKET: every word that came, and when."""

    def __init__(self, address: str) -> None:
        self.words: list[tuple[float, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(address)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def heard(self) -> list[str]:
        """All words so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                said = self._socket.recv(4096).decode()
                self.words += [(time.monotonic(), word) for word in said.splitlines()]
        return [word for _, word in self.words]


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    """Listens at `tmp_path`/notify."""
    made = Systemd(str(tmp_path / "notify"))
    yield made
    made.close()


@pytest.mark.fleet
async def test_a_node_says_ready_signs_of_life_and_the_drain(
    systemd: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY=1 comes once and before the first sign of life is due again; STOPPING=1 with the drain."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    async with Fleet("tests.fleet.definitions:deadly") as fleet:
        await wait_until(lambda: "READY=1" in systemd.heard(), what="READY=1")
        await wait_until(lambda: "STATUS=ready" in systemd.heard(), what="STATUS=ready")
        await wait_until(lambda: systemd.heard().count("WATCHDOG=1") >= 3, what="three signs")
        await fleet.runtime.spawn("long-nap")
        await wait_for_state(fleet.runtime, WorkerState.RUNNING, 1)
        fleet.nodes[0].terminate()
        await wait_until(lambda: "STATUS=the node drains" in systemd.heard(), what="the drain")
        assert "STOPPING=1" in systemd.heard()
        assert await asyncio.to_thread(fleet.nodes[0].wait) == 0
        assert systemd.heard().count("READY=1") == 1


def notifier_of(health: dict[str, bool], tmp_path: Path, **more: str) -> Notifier:
    """A notifier of a node that is as `health` says."""

    def verdict(name: str) -> Any:
        return lambda: SimpleNamespace(ok=health[name], reasons=[] if health[name] else ["stuck"])

    asked = cast(Health, SimpleNamespace(live=verdict("live"), ready=verdict("ready")))
    return Notifier(
        asked,
        draining=lambda: False,
        environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000", **more},
    )


async def test_a_stuck_node_gives_no_sign_of_life(systemd: Systemd, tmp_path: Path) -> None:
    """From then on: systemd's own clock does the rest."""
    health = {"live": True, "ready": True}
    notifier = notifier_of(health, tmp_path)
    notifier.start()
    try:
        await wait_until(lambda: systemd.heard().count("WATCHDOG=1") >= 2, what="signs of life")
        health |= {"live": False, "ready": False}
        await wait_until(lambda: "STATUS=stuck" in systemd.heard(), what="STATUS=stuck")
        signs = systemd.heard().count("WATCHDOG=1")
        until = time.monotonic() + 1.5
        await wait_until(lambda: time.monotonic() > until)
        assert systemd.heard().count("WATCHDOG=1") == signs
    finally:
        notifier.stop()


async def test_a_watchdog_that_waits_for_another_process_is_not_answered(
    systemd: Systemd, tmp_path: Path
) -> None:
    """WATCHDOG_PID names the process that is to give the signs."""
    notifier = notifier_of({"live": True, "ready": True}, tmp_path, WATCHDOG_PID=str(os.getppid()))
    notifier.start()
    await wait_until(lambda: "READY=1" in systemd.heard(), what="READY=1")
    notifier.stop()
    assert "WATCHDOG=1" not in systemd.heard()
    assert "STOPPING=1" in systemd.heard()
