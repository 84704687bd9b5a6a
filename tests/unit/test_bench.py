"""What the bench says of its figures, without measuring any."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from tests.bench import __main__ as bench
from tests.bench.fleet import Goal, Row

MET = Row("a page", "p99 7 ms", goal=Goal.at_most(50, 7, "ms (p99)"))
MISSED = Row("a burst", "900 per second", goal=Goal.at_least(1000, 900, "per second"))
FREE = Row("memory", "28 KB each")


def test_a_goal_that_is_missed_is_told() -> None:
    """In the table, and to who asked; a figure without a goal misses none. The bound itself is met."""
    said = io.StringIO()
    assert bench.tell([MET, MISSED, FREE], "a title", Console(file=said, width=120)) == [MISSED]
    assert said.getvalue().count("missed ≥ 1,000 per second") == 2
    assert said.getvalue().count("missed") == 2
    assert "≤ 50 ms (p99)" in said.getvalue()
    assert Goal.at_most(50, 50, "ms").is_met
    assert Goal.at_least(1000, 1000, "per second").is_met


@pytest.mark.parametrize(
    ("rows", "options", "code"),
    [([MET, FREE], [], 0), ([MET, MISSED], [], 1), ([MET, MISSED], ["--quick"], 0)],
)
def test_the_exit_code_says_whether_goals_are_met(
    rows: list[Row], options: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size only."""

    def peers(_: int) -> Iterator[Row]:
        yield from rows

    monkeypatch.setattr(bench, "peers", peers)
    assert bench.main(["peers", *options]) == code
