"""`colony trigger`: every command, of a colony that nobody serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_kit import answer, call, registered_colony

NIGHTLY = {
    "id": "nightly",
    "trigger_type": "timer",
    "trigger_config": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"},
    "task": "Clean up.",
}
CALLED = {"id": "called", "trigger_type": "manual", "task": "Look at ${input.city}."}


@pytest.fixture
def url() -> Iterator[str]:
    """A Redis with a colony, which has a timer and a trigger that is called."""
    with registered_colony("shop") as found:
        for spec in (NIGHTLY, CALLED):
            code, out, err = put(found, spec)
            assert (code, out) == (0, f"Trigger {spec['id']} is kept.\n"), err
        yield found


def put(url: str, spec: dict[str, Any]) -> tuple[int, str, str]:
    """``colony trigger put -``."""
    return call("trigger", "put", "-", "--redis-url", url, stdin=json.dumps(spec))


def trigger(url: str, *arguments: str) -> tuple[int, str, str]:
    """``colony trigger …``."""
    return call("trigger", *arguments, "--redis-url", url)


def test_they_are_listed_and_shown(url: str) -> None:
    """When a timer fires next, and what the latest fires came to; for people, and as JSON."""
    listed = {found["trigger_id"]: found for found in answer(url, "trigger", "list")}
    assert set(listed) == {"nightly", "called"}
    assert listed["nightly"]["next_due"] is not None
    assert listed["called"]["next_due"] is None
    _, out, _ = trigger(url, "list")
    assert all(word in out for word in ("nightly", "timer", "Clean up.", "called", "never"))
    code, worker, err = trigger(url, "fire", "called", "--input", '{"city": "Rome"}')
    assert code == 0, err
    shown = answer(url, "trigger", "show", "called")
    assert shown["trigger"]["spec"]["task"] == CALLED["task"]
    assert [fire["worker_id"] for fire in shown["fires"]] == [worker.strip()]
    _, out, _ = trigger(url, "show", "called")
    assert worker.strip() in out
    code, out, _ = trigger(url, "show", "called", "--limit", "1")
    assert (code, out.count(worker.strip())) == (0, 1)


def test_fired_once_for_a_key(url: str) -> None:
    """Its task is filled in; the same key gives the first worker again."""
    call_ = ("trigger", "fire", "called", "-i", '{"city": "Rome"}', "--key", "k")
    first = answer(url, *call_)
    assert answer(url, *call_) == first
    assert answer(url, "show", first["worker_id"])["worker"]["task"] == "Look at Rome."
    assert answer(url, "trigger", "show", "called")["trigger"]["fired"] == 1


def test_one_is_changed_from_a_file(url: str, tmp_path: Path) -> None:
    """The same id: another task, the same next time."""
    before = answer(url, "trigger", "show", "nightly")["trigger"]
    file = tmp_path / "nightly.json"
    file.write_text(json.dumps({**NIGHTLY, "task": "Tidy up."}))
    assert answer(url, "trigger", "put", str(file))["task"] == "Tidy up."
    after = answer(url, "trigger", "show", "nightly")["trigger"]
    assert (after["spec"]["task"], after["next_due"]) == ("Tidy up.", before["next_due"])


def test_they_are_paused_and_resumed(url: str) -> None:
    """One, or all timers; what is paused refuses a call and has no next time."""
    assert trigger(url, "pause", "called")[1] == "Paused: called.\n"
    code, _, err = trigger(url, "fire", "called", "-i", '{"city": "Rome"}')
    assert (code, "paused" in err) == (1, True)
    assert trigger(url, "resume", "called")[1] == "Resumed: called.\n"
    assert trigger(url, "fire", "called", "-i", '{"city": "Rome"}')[0] == 0
    assert trigger(url, "pause", "--all-timers")[1] == "Paused: all timers.\n"
    assert trigger(url, "next", "nightly")[1] == "not by itself\n"
    assert trigger(url, "resume", "--all-timers")[1] == "Resumed: all timers.\n"
    assert trigger(url, "next", "nightly")[1].startswith("in ")
    assert trigger(url, "next", "called")[1] == "not by itself\n"


def test_one_is_removed(url: str) -> None:
    """And is then unknown to every command."""
    assert trigger(url, "remove", "called")[1] == "Trigger called is removed.\n"
    for verb in ("show", "fire", "pause", "resume", "next", "remove"):
        code, _, err = trigger(url, verb, "called")
        assert (code, "'called'" in err) == (1, True), verb
    assert trigger(url, "remove", "nightly")[0] == 0
    assert trigger(url, "list")[1] == "There are no triggers.\n"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{", "FILE"),
        ("[]", "expected a JSON object"),
        (
            {"id": "x", "trigger_type": "sundial", "task": "T"},
            "trigger_type: Input should be 'timer'",
        ),
        ({**NIGHTLY, "trigger_config": {"cron": "0 3 31 2 *"}}, "never"),
        ({**NIGHTLY, "trigger_config": {"cron": "* * * * *", "timezone": "Mars/Base"}}, "Mars"),
        ({**CALLED, "agent": "nobody"}, "nobody"),
    ],
    ids=["no JSON", "no object", "type", "cron", "time zone", "agent"],
)
def test_a_specification_that_nobody_can_mean(url: str, spec: Any, expected: str) -> None:
    """Refused with what is wrong; nothing is kept."""
    text = spec if isinstance(spec, str) else json.dumps(spec)
    code, _, err = call("trigger", "put", "-", "--redis-url", url, stdin=text)
    assert code in (1, 2)
    assert expected in err
    assert len(answer(url, "trigger", "list")) == 2
    kept = answer(url, "trigger", "show", "nightly")["trigger"]
    assert kept["spec"]["trigger_config"]["cron"] == "0 3 * * *"


def test_wrong_usage(url: str) -> None:
    """Said before anything is done."""
    for arguments in (
        ["fire", "called", "--input", "{"],
        ["fire", "called", "--input", "[]"],
        ["pause"],
        ["pause", "called", "--all-timers"],
        ["resume"],
        ["put", "/nowhere.json"],
        ["show", "called", "--limit", "0"],
    ):
        assert trigger(url, *arguments)[0] == 2, arguments
    code, _, err = trigger(url, "fire", "called")
    assert (code, "input.city" in err) == (1, True)
    assert answer(url, "trigger", "show", "called")["trigger"]["fired"] == 0
