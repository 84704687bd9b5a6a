"""A colony whose node's main thread hangs as soon as a file is there, as in a deadlock."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from celery import signals

from colony.testing_model import Call, report
from tests.definitions import SCRIPTS, make

SCRIPTS["block-loop"] = [Call("block_loop", {"seconds": 4.0}), report("success", "Blocked.")]
colony = make("deaf")
HOOK = os.environ.get("COLONY_TEST_BLOCK")


@colony.tool
async def block_loop(seconds: float) -> str:
    """Block the loop on which all agents run."""
    time.sleep(seconds)
    return "blocked"


def hang_when_told(sender: Any, **_: Any) -> None:
    """Have Celery's event loop look for the file; once it is there it never comes back."""

    def look() -> None:
        if HOOK and Path(HOOK).exists():
            forever = threading.Lock()
            with forever:
                forever.acquire()  # signal handlers run; what they ask for is never looked at

    sender.consumer.hub.call_repeatedly(0.1, look)


signals.worker_ready.connect(lambda sender, **_: hang_when_told(sender.controller), weak=False)
