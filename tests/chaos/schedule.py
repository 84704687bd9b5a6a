"""What goes wrong when: a list of faults that follows from a seed.

====================  ==============================================================================
kill                  SIGKILL of a node; another one is started
crash                 a node is started that dies or freezes at a point in the code (`colony.faults`)
freeze                SIGSTOP of a node, SIGCONT after `seconds`: mostly past its lease
deploy                SIGTERM to a node while one of the other version of the definition is started
quit                  SIGQUIT to a node: it hands over at once
expire_lease          a node's lease ends in Redis while the node lives and works
restart_redis         the server ends in order and comes back after `seconds`
kill_redis            SIGKILL of the server, back after `seconds`
kill_clients          CLIENT KILL of every connection
stall_redis           DEBUG SLEEP for `seconds`
flush_scripts         SCRIPT FLUSH
lose_doorbells        all messages in the queue vanish
double_doorbells      all messages in the queue are there twice
delay                 a node's way to Redis takes 20 to 150 ms, for `seconds`
black_hole            a node's way to Redis swallows all, for `seconds`: a partition
mute                  a node's requests arrive, the answers do not, for `seconds`
cut                   a node's connections are reset
refuse                a node's connections are reset and refused, for `seconds`
kill_worker_node      a worker is spawned that kills its node each time it runs
stop                  a random worker is stopped
====================  ==============================================================================

The seed fixes which fault comes when and to which of the nodes that are there; what it meets depends
on the machine.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

EVERY_SECONDS = 0.25

WEIGHTS: dict[str, int] = {
    "kill": 6,
    "crash": 5,
    "freeze": 5,
    "deploy": 5,
    "quit": 2,
    "expire_lease": 4,
    "restart_redis": 1,
    "kill_redis": 2,
    "kill_clients": 4,
    "stall_redis": 3,
    "flush_scripts": 3,
    "lose_doorbells": 3,
    "double_doorbells": 3,
    "delay": 6,
    "black_hole": 4,
    "mute": 4,
    "cut": 7,
    "refuse": 3,
    "kill_worker_node": 1,
    "stop": 6,
}
LASTS: dict[str, tuple[float, float]] = {
    "freeze": (0.2, 4.0),
    "restart_redis": (0.1, 1.0),
    "kill_redis": (0.1, 2.5),
    "stall_redis": (0.1, 1.2),
    "delay": (0.5, 3.0),
    "black_hole": (0.3, 4.0),
    "mute": (0.3, 3.0),
    "refuse": (0.2, 3.0),
}
"""How long each of those that last does, in seconds."""

COSTLY = frozenset({"kill", "crash", "deploy", "quit", "kill_worker_node"})
"""Faults that cost the start of a node, a core for most of a second."""
REST_AFTER_COSTLY_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: when (seconds after the start), which, to whom (0 to 1 of those there are), how long."""

    at: float
    what: str
    whom: float
    seconds: float = 0.0


def schedule(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, one each quarter of a second."""
    dice = random.Random(seed)
    faults: list[Fault] = []
    costly_at = 0.0
    for step in range(1, int(seconds / EVERY_SECONDS)):
        at = step * EVERY_SECONDS
        what = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        while what in COSTLY and at - costly_at < REST_AFTER_COSTLY_SECONDS:
            what = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        if what in COSTLY:
            costly_at = at
        faults.append(Fault(at, what, dice.random(), dice.uniform(*LASTS.get(what, (0.0, 0.0)))))
    return faults
