"""Whether a process is well, as probes and systemd ask it.

Live: it can mend itself; where it is not, it is to be started again. Ready: it can do its work now.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Protocol

STUCK_SECONDS = 20.0
"""An event loop that has not turned for so long will not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a probe is told, by whoever is asked with fields of its own."""

    ok: bool
    reasons: list[str]


class Probed(Protocol):
    """Who is asked; from any thread."""

    def live(self) -> Verdict:
        """Whether it can mend itself."""

    def ready(self) -> Verdict:
        """Whether it can do its work now."""


class LoopHealth:
    """A process that is as well as its event loop, and ready when it is made."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turned_at = time.monotonic()

    def live(self) -> Verdict:
        """Whether the loop turns: each question is one more turn."""
        try:
            self._loop.call_soon_threadsafe(self._turn)
        except RuntimeError:  # it is closed: the process ends
            return Verdict(True, [])
        still = time.monotonic() - self._turned_at
        stuck = [f"the event loop has been blocked for {still:.0f} s"]
        return Verdict(False, stuck) if still > STUCK_SECONDS else Verdict(True, [])

    def ready(self) -> Verdict:
        """As `live`."""
        return self.live()

    def _turn(self) -> None:
        self._turned_at = time.monotonic()
