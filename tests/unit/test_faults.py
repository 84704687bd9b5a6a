"""Fail points are armed by an environment variable, and a misspelt one is refused."""

from __future__ import annotations

import signal

import pytest

from colony.errors import ConfigurationError
from colony.faults import parse_faults


def test_several_faults() -> None:
    """Separated by commas; nothing is armed by an empty text."""
    assert parse_faults("after-settle@3:kill, before-ring@1:stop") == {
        "after-settle": (3, signal.SIGKILL),
        "before-ring": (1, signal.SIGSTOP),
    }
    assert parse_faults("") == {}


@pytest.mark.parametrize("text", ["settle@1:kill", "after-settle:kill", "after-settle@0:kill", "x"])
def test_a_fault_that_is_none_is_refused(text: str) -> None:
    """A misspelt fault would be a test that cannot fail."""
    with pytest.raises(ConfigurationError, match="COLONY_FAULT: expected"):
        parse_faults(text)
