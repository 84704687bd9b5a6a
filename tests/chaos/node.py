"""A node of the chaos suite: ``python -m tests.chaos.node MODULE:COLONY …``, as ``python -m workers``.

``TEST_CLOCK=jumps``: this process's wall clock jumps by up to a day to either side every second, before
anything else is imported. The host's clock stays as it is.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import sys
import time

JUMP_EVERY_SECONDS = 1.0
FARTHEST_SECONDS = 86_400.0


def let_the_clock_jump() -> None:
    """Shift `time.time` in this process, by another amount each second."""
    true_time, monotonic = time.time, time.monotonic
    dice = random.Random(os.getpid())
    shift, until = 0.0, 0.0

    def jumping() -> float:
        nonlocal shift, until
        if monotonic() > until:
            shift, until = (
                dice.uniform(-FARTHEST_SECONDS, FARTHEST_SECONDS),
                monotonic() + JUMP_EVERY_SECONDS,
            )
        return true_time() + shift

    time.time = jumping


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)  # `World` asks a node that does not end where it stands
    if os.environ.get("TEST_CLOCK") == "jumps":
        let_the_clock_jump()
    from workers.serve import main

    sys.exit(main(sys.argv[1:]))
