"""What `colony top` makes of the events of model answers: tokens and cost of the last minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from colony.cli.top import MOST_EVENTS, WINDOW, Spending
from colony.models import Event, EventType

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def answer(seconds_ago: float, number: int = 0) -> Event:
    """An answer of 15 tokens for a tenth of a cent."""
    data = {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.001}
    at = NOW - timedelta(seconds=seconds_ago)
    return Event(
        id=f"1-{number}", type=EventType.LLM_TURN_COMPLETE, colony_id="c", at=at, data=data
    )


def test_the_last_minute_counts_by_the_clock_of_the_events() -> None:
    """Whatever the clock here says; what is older is forgotten, what has no price costs nothing."""
    spending = Spending()
    free = answer(1).model_copy(update={"data": {"input_tokens": 1}})
    spending.take([answer(59), answer(30), free], since=NOW - WINDOW)
    assert spending.tokens == 31
    assert spending.cost == pytest.approx(0.002)
    spending.take([], since=NOW - WINDOW + timedelta(seconds=10))
    assert spending.tokens == 16
    assert spending.cost == pytest.approx(0.001)
    spending.take([], since=NOW)
    assert (spending.tokens, spending.cost) == (0, 0)


def test_a_full_page_stands_for_what_it_left_out() -> None:
    """The newest events of ten seconds stand for the minute that they are the end of."""
    spending = Spending()
    step = 10 / (MOST_EVENTS - 1)
    page = [answer(10 - number * step, number) for number in range(MOST_EVENTS)]
    spending.take(page, since=NOW - WINDOW)
    assert spending.tokens == pytest.approx(6 * 15 * MOST_EVENTS, rel=0.01)
    assert spending.cost == pytest.approx(6 * 0.001 * MOST_EVENTS, rel=0.01)
