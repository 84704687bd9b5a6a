"""A rolling upgrade of nodes, beats, gateway and Flower under load; `make upgrade` draws it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.upgrade.checks import check
from tests.upgrade.journey import upgraded

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.timeout(300)]


async def test_a_rolling_upgrade_under_load_loses_nothing_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes, two beats, gateway, producer and Flower are replaced one after the other, while work
    comes in by the producer, over HTTP and by a timer."""
    for name in ("TEST_CALLS", "TEST_RELEASE"):
        monkeypatch.setenv(name, "")  # the journey's; set back at the end
    async with upgraded(tmp_path, steady_seconds=3) as seen:
        print(await check(seen))
