"""What the invariants say of evidence that is rare in a run."""

from __future__ import annotations

import pytest

from tests.chaos.checker import check
from tests.chaos.history import Evidence, Store
from tests.chaos.witness import Found, Line

RUNNING = Found("RUNNING", "t1", 1, "", "", 2)
PARKED = Found("PARKED", "", 1, "", "", 2)
PARK = Line(1000, "park", "w1", "t1", RUNNING, PARKED, "parked", ("t1", "children", "b1"))


@pytest.mark.parametrize(
    ("status", "overruled", "is_breach"),
    [
        ("success", None, True),
        ("stopped", None, False),
        ("success", "timeout", False),  # it had filed a report before it was ended
        ("stopped", "success", False),  # it had, and its own batch did not need it any more
    ],
)
def test_a_parent_that_nobody_wakes_was_ended_otherwise(
    status: str, overruled: str | None, *, is_breach: bool
) -> None:
    """A parent parks and is not claimed again: a breach, unless it was stopped or its deadline came."""
    record = {"state": "COMPLETED", "status": status, "task": "parent r1x0"}
    record |= {"overruled": overruled} if overruled else {}
    evidence = Evidence([], [], [], [PARK], Store({"w1": record}, {}, {}, {}, {}, {}, []))
    assert ("parents_wake_after_their_last_child" in check(evidence)) is is_breach
