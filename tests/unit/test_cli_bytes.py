"""Command lines are bytes: an id, name or text that is no UTF-8 is told in one line, by every command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from colony import ColonyRuntime
from colony.errors import InvalidTask, InvalidTrigger
from tests.unit.cli_kit import answer, call, registered_colony

BAD = "w-\udcff"
"""What Python makes of the argument $'w-\\xff'."""
SUBSCRIBE = ("subscription", "add", "a", "https://shop.example/")

COMMANDS = [
    *(["show", BAD], ["show", "b" + BAD], ["tree", BAD], ["wait", BAD], ["wait", "b" + BAD]),
    *(["retry", BAD], ["stop", BAD], ["stop", "b" + BAD], ["stop", "--all", "--reason", BAD]),
    *(["drain", BAD], ["limit", BAD, "3"], ["limit", f"agent:{BAD}", "3"]),
    *(["quarantine", verb, BAD] for verb in ("show", "retry", "drop")),
    *(["deliveries", verb, BAD] for verb in ("show", "retry", "drop")),
    *(["subscription", verb, BAD] for verb in ("remove", "pause", "resume")),
    *([*SUBSCRIBE, "--secret", f"env:{BAD}"],),
    *([*SUBSCRIBE, "--secret", "env:HOOK", "--where", f"a={BAD}"],),
    *(["trigger", verb, BAD] for verb in ("show", "fire", "pause", "resume", "remove")),
    *(["token", "revoke", BAD], ["token", "create", BAD, "--scope", "spawn"]),
    *(["spawn", BAD, "--queue"], ["spawn", "x", "--queue", "--agent", BAD]),
    *(["spawn", "x", "--queue", "--idempotency-key", BAD],),
    *(["stats", "--colony", BAD],),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A Redis with a colony."""
    with registered_colony("shop") as url:
        yield url


@pytest.mark.parametrize("command", COMMANDS, ids=ascii)
def test_what_is_no_text_is_told_in_a_line(url: str, command: list[str]) -> None:
    """Exit code 1, and one line that names it and says what was expected."""
    code, out, err = call(*command, "--redis-url", url)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: ")
    assert "\\udcff" in err
    assert any(words in err for words in ("expected", "unknown", "no colony"))


def test_doctor_looks_for_a_colony_whose_name_is_no_text(url: str) -> None:
    """It is not registered; that can be printed, also as JSON."""
    assert "? is not registered" in call("doctor", "-c", BAD, "--redis-url", url)[1]
    findings = answer(url, "doctor", "-c", BAD, code=1)["findings"]
    assert "? is not registered" in findings[-1]["found"]


async def test_the_same_in_python(url: str) -> None:
    """An id is refused as a task is; so is a trigger with such a task."""
    async with ColonyRuntime("shop", redis_url=url) as runtime:
        with pytest.raises(InvalidTask, match=r"expected Unicode text.*0xff"):
            await runtime.get_worker(BAD)
        trigger = {"id": "t", "trigger_type": "manual", "task": "x", "data": {"of": BAD}}
        with pytest.raises(InvalidTrigger, match="expected Unicode text"):
            await runtime.put_trigger(trigger)
