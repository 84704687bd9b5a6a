"""A record as a line: for people, as JSON, without secrets."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from colony import logs

SECRETS = {
    "redis://user:s3cret@host/0": "s3cret",
    "redis://:s3cret@host/0": "s3cret",
    "Authorization: Bearer abc.def-ghi": "abc.def-ghi",
    "signed with whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw": "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "token colony_" + "aB3-_" * 9: "aB3-_" * 9,
    "key sk-proj-0123456789abcdefghij": "0123456789abcdefghij",
}


def record(message: str, **beside: object) -> logging.LogRecord:
    """A record of a library."""
    made = logging.LogRecord("some.library", logging.WARNING, "x", 1, message, (), None)
    made.__dict__.update(beside)
    return made


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_secrets_are_struck_out(format: logs.LogFormat, text: str, secret: str) -> None:
    """Also inside of JSON, which stays JSON."""
    line = logs.formatter(format).format(record(f'it said "{text}"'))
    assert secret not in line
    assert logs.STRUCK in line
    assert format == "text" or "it said" in json.loads(line)["event"]


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("before", ["\n", "\t", "\r\n"])
@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_secrets_at_the_beginning_of_a_line(
    format: logs.LogFormat, before: str, text: str, secret: str
) -> None:
    """Which JSON, and the `repr` of a library, write as a backslash and a letter."""
    made = record(f"it said:{before}{text.split(' ', 1)[-1]}{before}{text!r}")
    try:
        raise ValueError(f"it said:{before}{text.split(' ', 1)[-1]}")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert secret not in logs.formatter(format).format(made)
    assert secret not in logs.formatter(format).format(record(repr(made.getMessage())))


def test_names_are_no_secrets() -> None:
    """Metrics, modules and plain URLs stay."""
    text = (
        "colony_workers_taken_from_dead_nodes_total http://host:80/a colony.examples.survey:colony"
        " task-of-some-other-worker-there"
    )
    assert logs.scrubbed(text) == text


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_is_bound_is_told_and_what_stands_beside_is_not(
    format: logs.LogFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bound fields; of Celery's data the task alone."""
    monkeypatch.setattr(logs, "ABOUT", {"colony": "survey", "node": "n1"})
    data = {"id": "w1", "name": "colony.run_worker", "args": "hunter2", "kwargs": {"p": "hunter2"}}
    with logs.bound(epoch=3):
        line = logs.formatter(format).format(record("Task received", data=data))
    assert "hunter2" not in line
    if format == "json":
        told = json.loads(line)
        assert (told["epoch"], told["worker"], told["level"]) == (3, "w1", "warning")
        assert (told["logger"], told["colony"], told["node"]) == ("some.library", "survey", "n1")
    else:
        assert line.endswith("Task received  (epoch=3 colony=survey node=n1)")


def test_an_exception_is_one_line_of_json() -> None:
    """With its traceback."""
    made = record("it failed")
    try:
        raise ValueError("one\ntwo")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = logs.formatter("json").format(made)
    assert "\n" not in line
    assert "ValueError: one\ntwo" in json.loads(line)["exception"]
