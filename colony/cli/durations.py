"""Durations and moments as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import typer

_SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_NUMBER = r"(\d+(?:\.\d+)?)"
_PLAIN = re.compile(_NUMBER, re.ASCII)
_UNITS = re.compile(
    rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?", re.ASCII
)
_ISO = re.compile(rf"p(?:{_NUMBER}d)?(?:t(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """``90`` and ``90s`` are seconds; also ``10m``, ``2h30m``, ``1.5h``, ``1d``, ``PT10M``.

    Raises `ValueError` for everything else, negative durations included.
    """
    compact = text.strip().lower()
    if plain := _PLAIN.fullmatch(compact):
        return _duration(text, {"s": plain[1]})
    match = _UNITS.fullmatch(compact) or _ISO.fullmatch(compact)
    if match is None or not any(match.groups()):
        raise ValueError(f"expected a duration such as 90s, 10m, 2h30m or PT10M, got {text!r}")
    return _duration(text, dict(zip(_SECONDS, match.groups(), strict=False)))


def _duration(text: str, amounts: dict[str, str | None]) -> timedelta:
    try:
        return timedelta(seconds=sum(_SECONDS[u] * float(n) for u, n in amounts.items() if n))
    except OverflowError as error:
        raise ValueError(
            f"the duration {text!r} is too long: at most {timedelta.max.days} days"
        ) from error


@dataclass(frozen=True, slots=True)
class When:
    """A moment on the command line: a duration from now, or a point in time."""

    value: timedelta | datetime


def parse_when(text: str) -> When:
    """A duration, or an ISO 8601 time with its zone (``2030-01-31T12:00:00Z``)."""
    try:
        return When(parse_duration(text))
    except ValueError:
        pass  # then it must be a point in time
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(
            f"expected a duration such as 10m or a time such as 2030-01-31T12:00:00Z, got {text!r}"
        ) from error
    if moment.tzinfo is None:
        raise ValueError(
            f"the time {text!r} has no zone: add Z for UTC, or an offset such as +02:00"
        )
    return When(moment.astimezone(UTC))


def duration_option(text: str) -> timedelta:
    """`parse_duration` for typer: a wrong value is wrong usage (exit code 2), with the reason."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def when_option(text: str) -> When:
    """`parse_when` for typer."""
    try:
        return parse_when(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def short_duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 m 20 s``, ``2 h 5 m``, ``4 d 1 h``: the two leading units."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for unit, name, lower, lower_name in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // lower
            return (
                f"{whole // unit} {name} {rest} {lower_name}" if rest else f"{whole // unit} {name}"
            )
    return f"{whole} s"


def age(moment: datetime) -> str:
    """How long ago a moment was, by this machine's clock: for people's eyes only."""
    return short_duration((datetime.now(UTC) - moment).total_seconds())
