"""A table at the end of a run of the tests: what each kind of them took, and what it may take."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MAY_TAKE_SECONDS = {
    "tour": 60,
    "store": 60,
    "unit": 120,
    "pool": 60,
    "fleet": 720,
    "gateway": 120,
    "chaos": 180,
}
"""On two cores that have nothing else to do, one after the other. `make test` runs four at a time: each takes
longer than alone, all of them a quarter of the sum. What is over here is to be made shorter."""

took: Counter[str] = Counter()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count setup, call and teardown of each test for its folder."""
    kind = report.nodeid.removeprefix(f"{TESTS.name}/").partition("/")[0]
    took[kind] += round(1000 * report.duration)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what each kind took, where there was more than one."""
    if len(took) < 2:
        return
    terminalreporter.section("what each kind of test took")
    for kind, millis in sorted(took.items(), key=lambda item: -item[1]):
        may = MAY_TAKE_SECONDS.get(kind, 0)
        over = "  OVER" if may and millis > 1000 * may else ""
        terminalreporter.line(f"{kind:<8} {millis / 1000:6.1f} s of {may or '-'} s{over}")
