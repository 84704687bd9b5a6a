"""Switches that break one promise each, in the scripts of a test's nodes only: the suite must see it.

``TEST_MUTANT=no-fence`` in a node's environment. Each has the invariant that it violates and a short,
fixed schedule that brings it about (`tests.chaos.test_mutants`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.schedule import Fault


@dataclass(frozen=True, slots=True)
class Mutant:
    """`changes`: script (``_prelude:<script>`` for what stands before it) → text → other text.
    `twice`: the share of requests that nodes send twice."""

    invariant: str
    changes: Mapping[str, tuple[str, str]]
    faults: tuple[Fault, ...] = ()
    tasks: tuple[str, ...] = ("slow",) * 20
    seconds: float = 3.0
    env: Mapping[str, str] = field(default_factory=dict)


OWNS = "return rec.state == 'RUNNING' and rec.token == token"
ANYBODY_OWNS = "return rec.state == 'RUNNING'"
JOINS = (
    "redis.call('ZRANGEBYSCORE', K.joins, '-inf', int(now - JOIN_AFTER_MS), 'LIMIT', 0, ARGV[3])"
)
ENDS_AGAIN = "if TERMINAL[rec.state] then rec.filed_status = false end\nif not rec.state then"

MUTANTS: dict[str, Mutant] = {
    # The fence: whoever has a token writes, also one whose claim was taken.
    "no-fence": Mutant(
        "no_stale_write",
        {f"_prelude:{name}": (OWNS, ANYBODY_OWNS) for name in ("checkpoint", "settle", "park")},
        tuple(Fault(0.6 + 0.2 * n, "expire_lease", n / 3 % 1) for n in range(15)),
        seconds=4.0,
    ),
    # The rejoin: a batch whose last slice died before it joined is joined by nobody.
    "no-rejoin": Mutant(
        "each_batch_is_joined_once",
        {"sweep": (JOINS, "{}")},
        tasks=("plain",) * 3,
        env={"COLONY_FAULT": "before-join@1:kill"},
    ),
    # The re-ring: a worker whose doorbell was lost waits for ever.
    "no-ring-again": Mutant(
        "every_accepted_worker_ends",
        {"ring_again": ("local ring = {}", "do return {} end\nlocal ring = {}")},
        tuple(Fault(0.05 * n, "lose_doorbells", 0.0) for n in range(20)),
        tasks=("slow",) * 60,
    ),
    # Settle once: a settle that is sent twice, as after a lost answer, ends the worker twice.
    "settle-twice": Mutant(
        "one_report_each",
        {"settle": ("if not owns(rec, token) then", ENDS_AGAIN)},
        env={"TEST_TWICE": "1"},
    ),
}


def change(mutant: str, script: str, text: str) -> str:
    """The text of a script as the mutant has it. Fails when the script has no such text any more."""
    found = MUTANTS[mutant].changes.get(script)
    if found is None:
        return text
    old, new = found
    if text.count(old) != 1:
        raise ValueError(
            f"mutant {mutant}: expected {old!r} once in {script}, found it {text.count(old)} times"
        )
    return text.replace(old, new)
