"""A table at the end of a run of the tests: each kind's share of the time, and what it may be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MAY_TAKE_SECONDS = {
    "fleet": 400,
    "chaos": 40,
    "gateway": 35,
    "unit": 35,
    "tour": 25,
    "pool": 25,
    "deploy": 20,
    "store": 20,
}
"""Of `make test` on two cores that have nothing else to do: together the ten minutes of that stage of CI.
Tests run several at a time: a kind's share is what its tests took, divided by how many run at once."""

took: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count setup, call and teardown of each test for its folder."""
    kind = report.nodeid.removeprefix(f"{TESTS.name}/").partition("/")[0]
    took[kind] += round(1000 * report.duration)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each kind took, where there was more than one."""
    if len(took) < 2:
        return
    at_once = getattr(terminalreporter.config.option, "numprocesses", None) or 1
    terminalreporter.section("what each kind of test took")
    for kind, millis in sorted(took.items(), key=lambda item: -item[1]):
        seconds, may = millis / 1000 / at_once, MAY_TAKE_SECONDS.get(kind)
        over = "  OVER" if may and seconds > may else ""
        terminalreporter.line(f"{kind:<8} {seconds:6.1f} s of {may or '-':>4} s{over}")
