"""The slices that run in this process: how the node's other parts find and cut them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from workers.agent.outcome import Outcome
from workers.showing import Progress


@dataclass(slots=True)
class Running:
    """One slice while its agent runs. `told`: to stop; `lost`: the claim is somebody else's now."""

    worker_id: str
    token: str
    progress: Progress | None = None
    agent: asyncio.Task[Outcome] | None = None
    claimed_at: float = field(default_factory=time.monotonic)
    told: bool = False
    lost: bool = False
    agent_name: str = ""
    outcome: str = "stale"
    """How the slice ended, for the metrics: until it has written its end, not at all."""

    def stop(self) -> None:
        """It was told to stop; the store knows with which status. On the agent loop."""
        self.told = True
        self._cancel()

    def drop(self) -> None:
        """Its claim is lost: nothing more is to be written. From any thread."""
        self.lost = True
        if self.agent is not None:
            self.agent.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self.agent is not None:
            self.agent.cancel()


RUNNING: dict[str, Running] = {}
"""By worker id; each entered after its claim and removed when its slice is over."""
