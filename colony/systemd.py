"""What a process tells systemd, if systemd started it (``Type=notify``), over the socket NOTIFY_SOCKET.

    READY=1      once it is ready for the first time
    WATCHDOG=1   every half of WatchdogSec, while it is live
    STOPPING=1   when a node begins to drain, and at the end
    STATUS=…     why it is not ready, or that it is

One that is alive but stuck so sends no sign, and systemd starts it again. For a node give WatchdogSec more
than COLONY_DRAIN_GRACE and 10 s: one that is deaf ends itself within that time, and hands over what it runs.
Without NOTIFY_SOCKET nothing is done. One node per unit: the nodes of ``--processes`` are not heard.

The protocol is that of ``sd_notify(3)``.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

from colony.health import Probed

log = logging.getLogger("colony.systemd")

LOOK_SECONDS = 0.5


class Notifier:
    """A thread that looks at the process' health and tells systemd what changed. `ending`: whether it has
    begun to end."""

    def __init__(
        self,
        health: Probed,
        ending: Callable[[], bool] = lambda: False,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._health = health
        self._ending = ending
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._sign_every = _sign_every(environment)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name="colony-notifier", daemon=True)
        self._told: set[str] = set()
        self._status = ""

    def start(self) -> None:
        """Begin, if there is somebody to tell."""
        if self._address:
            self._thread.start()

    def stop(self) -> None:
        """Say no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _main(self) -> None:
        due_at = 0.0
        while not self._stopping.wait(LOOK_SECONDS):
            ready = self._health.ready()
            words = self._news(ready.ok, "; ".join(ready.reasons) or "ready")
            now = time.monotonic()
            if self._sign_every and now >= due_at and self._health.live().ok:
                words.append("WATCHDOG=1")
                due_at = now + self._sign_every
            if words:
                self._tell("\n".join(words))
        self._tell("STOPPING=1")

    def _news(self, ready: bool, status: str) -> list[str]:
        """What systemd has not been told yet."""
        news = []
        if ready and "READY=1" not in self._told:
            news.append("READY=1")
        if self._ending() and "STOPPING=1" not in self._told:
            news.append("STOPPING=1")
        self._told.update(news)
        if status != self._status:
            self._status = status
            news.append(f"STATUS={status}".replace("\n", " "))
        return news

    def _tell(self, words: str) -> None:
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
                told.settimeout(1.0)
                told.sendto(words.encode(), address)
        except OSError as error:
            log.warning("NOTIFY_SOCKET %s: systemd could not be told: %s", self._address, error)


def _sign_every(environment: Mapping[str, str]) -> float | None:
    """Seconds between two signs of life; None where nobody waits for them from this process."""
    waited_for = environment.get("WATCHDOG_PID", str(os.getpid()))
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or waited_for != str(os.getpid()):
        return None
    return int(microseconds) / 2_000_000
