"""Fail points: where a process can be made to die, to see what a crash leaves behind. For tests only.

``COLONY_FAULT=after-settle@3:kill`` kills this process (SIGKILL) when it passes that point for the third
time; ``stop`` freezes it (SIGSTOP) instead; several faults are separated by commas. Without the variable
nothing is armed.

Points are ``before-X`` and ``after-X``, where X is a step between which a crash can fall: the name of any
script of the store (``accept``, ``claim``, ``checkpoint``, ``park``, ``settle``, ``join``, …: lua/*.lua),
``ring`` (doorbells are sent), ``body`` (the body of a batch's chord); ``after-part`` (a member has
returned its part of the chord), ``before-acknowledge`` (a foreign producer's message was accepted and
answered).
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from functools import cache

from colony.errors import ConfigurationError

FAULT = re.compile(r"((?:before|after)-\w+)@([1-9]\d*):(kill|stop)")
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

_passed: Counter[str] = Counter()


def reached(point: str) -> None:
    """Note that a point is passed; the process ends here if a fault says so."""
    armed = _armed()
    if point not in armed:
        return
    _passed[point] += 1
    after, action = armed[point]
    if _passed[point] == after:
        os.kill(os.getpid(), action)


@cache
def _armed() -> dict[str, tuple[int, signal.Signals]]:
    return parse_faults(os.environ.get("COLONY_FAULT", ""))


def parse_faults(text: str) -> dict[str, tuple[int, signal.Signals]]:
    """What `COLONY_FAULT` arms: point → (which passage, which signal). Raises `ConfigurationError`."""
    armed = {}
    for fault in filter(None, (part.strip() for part in text.split(","))):
        found = FAULT.fullmatch(fault)
        if found is None:
            raise ConfigurationError(
                f"COLONY_FAULT: expected <before|after>-<step>@<n>:<kill|stop>, such as "
                f"after-settle@1:kill, got {fault!r}"
            )
        armed[found[1]] = (int(found[2]), SIGNALS[found[3]])
    return armed
