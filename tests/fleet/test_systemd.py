"""What systemd is told: that a process is ready, that it lives, that it ends; one that is stuck is silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from colony.health import LoopHealth, Verdict
from colony.models import WorkerState
from colony.systemd import Notifier
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import wait_for_state

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


COMMANDS = {
    "beat": ("beat", "tests.definitions:basic"),
    "gateway": ("gateway", "--port", "0"),
    "flower": ("flower", "--colony", "basic", "--port", "0", "--no-auth"),
}


@pytest.mark.fleet
@pytest.mark.parametrize("name", COMMANDS)
async def test_the_others_say_ready_and_signs_of_life(
    systemd: Systemd, colony_redis: str, tmp_path: Path, name: str
) -> None:
    """A beat, a gateway and a Flower that their units start; none once the process stands still."""
    env = {
        **os.environ,
        "COLONY_REDIS_URL": colony_redis,
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "1000000",
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        command = (sys.executable, "-m", "colony.cli", *COMMANDS[name])
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
    try:
        await wait_until(lambda: "READY=1" in systemd.heard(), 20, what=f"READY=1 of {name}")
        await wait_until(lambda: systemd.heard().count("WATCHDOG=1") >= 3, what="three signs")
        process.send_signal(signal.SIGSTOP)
        systemd.heard()
        signs = len(systemd.words)
        until = time.monotonic() + 1.5
        await wait_until(lambda: time.monotonic() > until)
        assert len(systemd.heard()) <= signs + 1  # one may have been under way
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0, log.read_text()
        assert ("STOPPING=1" in systemd.heard()) == (name != "flower")
    finally:
        process.kill()
        process.wait()


async def test_a_loop_that_is_blocked_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked from another thread; when it turns again it is live again, and closed it is not stuck."""
    monkeypatch.setattr("colony.health.STUCK_SECONDS", 0.2)
    loop, turning = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    health = LoopHealth(loop)
    await wait_until(lambda: health.live().ok)
    loop.call_soon_threadsafe(turning.wait)
    await wait_until(lambda: not health.live().ok, what="it is seen to be blocked")
    assert "the event loop has been blocked" in health.ready().reasons[0]
    turning.set()
    await wait_until(lambda: health.live().ok, what="it turns again")
    loop.call_soon_threadsafe(loop.stop)
    await asyncio.to_thread(thread.join)
    loop.close()
    assert health.live() == Verdict(True, [])


class Health:
    """A process that is as a test says."""

    def __init__(self) -> None:
        self.well = True

    def live(self) -> Verdict:
        """As the test says."""
        return Verdict(self.well, [] if self.well else ["stuck"])

    ready = live


def notifier_of(health: Health, tmp_path: Path, **more: str) -> Notifier:
    """A notifier of such a process."""
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000", **more}
    return Notifier(health, environment=environment)


async def test_a_stuck_node_gives_no_sign_of_life(systemd: Systemd, tmp_path: Path) -> None:
    """From then on: systemd's own clock does the rest."""
    health = Health()
    notifier = notifier_of(health, tmp_path)
    notifier.start()
    try:
        await wait_until(lambda: systemd.heard().count("WATCHDOG=1") >= 2, what="signs of life")
        health.well = False
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
    notifier = notifier_of(Health(), tmp_path, WATCHDOG_PID=str(os.getppid()))
    notifier.start()
    await wait_until(lambda: "READY=1" in systemd.heard(), what="READY=1")
    notifier.stop()
    assert "WATCHDOG=1" not in systemd.heard()
    assert "STOPPING=1" in systemd.heard()
