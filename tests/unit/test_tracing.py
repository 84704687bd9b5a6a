"""What is handed down of a trace, with and without spans."""

from __future__ import annotations

import asyncio

import pytest

from colony import tracing

GIVEN = f"00-{'a1' * 16}-{'b2' * 8}-01"


def test_a_traceparent_is_handed_down_to_tasks_and_threads() -> None:
    """Within its block, and not after it."""

    async def run() -> list[str | None]:
        with tracing.inherited(GIVEN):
            return [
                await asyncio.create_task(asyncio.sleep(0, tracing.current())),
                await asyncio.to_thread(tracing.current),
            ]

    assert asyncio.run(run()) == [GIVEN, GIVEN]
    assert tracing.current() is None


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "x", GIVEN.upper(), GIVEN + "-more", GIVEN[3:], "01" + GIVEN[2:], GIVEN + "\n"),
        GIVEN.replace("a1", "00"),
        GIVEN.replace("b2", "00"),
    ],
)
def test_what_is_none_is_ignored(wrong: str) -> None:
    """A header is whatever somebody sends."""
    with tracing.inherited(wrong):
        assert tracing.current() is None


def test_a_tree_has_one_of_its_own() -> None:
    """Valid, the same each time, another for another tree."""
    made = tracing.traceparent_of("w1")
    assert tracing.TRACEPARENT.fullmatch(made)
    assert made == tracing.traceparent_of("w1") != tracing.traceparent_of("w2")


def test_nothing_is_made_while_tracing_is_off() -> None:
    """One object for all."""
    assert not tracing.is_on()
    assert tracing.span("chat x", {}) is tracing.OFF
    with tracing.span("chat x", {}) as span:
        span.set({"a": 1})
        span.fail("X")


def test_the_span_of_an_application_is_continued() -> None:
    """Its own provider, of which we know nothing; it goes before what was inherited."""
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed")
    tracer = sdk.TracerProvider().get_tracer("application")
    with tracing.inherited(GIVEN), tracer.start_as_current_span("order") as span:
        of = span.get_span_context()
        current = tracing.current() or ""
        assert current.startswith(f"00-{of.trace_id:032x}-{of.span_id:016x}-0")
        assert tracing.TRACEPARENT.fullmatch(current)
    assert tracing.current() is None
