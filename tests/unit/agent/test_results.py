"""What the model is shown of results that are too long."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.agent.results import Reports, shown

MOST = 65_536


def reports(count: int, data_bytes: int, **more: Any) -> Any:
    """So many, with data of so many bytes each."""
    made: list[Any] = [
        {
            "worker_id": f"w{n}",
            "status": "failed" if n % 2 else "success",
            "summary": f"The end of {n}.",
            "data": {"text": "ü" * (data_bytes // 2)},
            "duration_seconds": 1.5,
            "tokens_used": n,
            **more,
        }
        for n in range(count)
    ]
    return Reports(worker_count=count, reports=made)


def size_of(value: Any) -> int:
    """Bytes of its JSON."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


@pytest.mark.parametrize(("count", "data_bytes"), [(40, 3000), (64, 100_000), (1, 1_000_000)])
def test_of_each_report_it_is_shown_how_it_ended(count: int, data_bytes: int) -> None:
    """Who, status, words and numbers of all of them, and the beginning of their data."""
    given = reports(count, data_bytes)
    seen: Any = shown(given, MOST)
    assert size_of(seen) <= MOST + 1000
    assert seen["worker_count"] == len(seen["reports"]) == count
    for before, after in zip(given["reports"], seen["reports"], strict=True):
        kept = {name: value for name, value in after.items() if name != "data"}
        assert kept.items() <= before.items()
        assert kept.keys() == before.keys() - {"data"}
        assert after["data"].startswith('{"text":"üüü')
        assert after["data"].endswith(f"[cut: the data have {size_of(before['data'])} bytes]")


def test_short_reports_are_whole_and_leave_their_room_to_the_long() -> None:
    """One with much to say among many that have little."""
    given = reports(20, 100)
    long = reports(1, 50_000)["reports"][0]
    given["reports"].append(long)
    assert shown(given, MOST) == given
    given = reports(20, 1000)
    given["reports"].append(long)
    seen: Any = shown(given, MOST)
    assert seen["reports"][:20] == given["reports"][:20]
    assert len(seen["reports"][20]["data"]) > 10_000


def test_long_words_are_cut() -> None:
    """A summary and an error are text like any other."""
    seen: Any = shown(reports(10, 10, summary="s" * 100_000, error="e" * 100_000), MOST)
    assert size_of(seen) <= MOST
    for report in seen["reports"]:
        assert report["summary"].endswith("[cut]")
        assert report["error"].endswith("[cut]")
        assert len(report["summary"]) > 1000


def test_secrets_are_taken_out_before_anything_is_cut() -> None:
    """Half a secret is one, too."""
    seen = shown(
        reports(40, 3000), MOST, lambda value: json.loads(json.dumps(value).replace("\\u00fc", "x"))
    )
    assert "ü" not in json.dumps(seen, ensure_ascii=False)
