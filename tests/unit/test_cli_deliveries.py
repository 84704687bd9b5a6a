"""`colony subscription` and `colony deliveries`: every command, of a colony that nobody serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from colony.store import Link, Store
from tests.store.delivery_kit import owed
from tests.unit.cli_kit import answer, call, registered_colony

URL = "https://hooks.example.org/a"
PATIENCE = timedelta(seconds=1)


@pytest.fixture
def url() -> Iterator[str]:
    """A Redis with a colony."""
    with registered_colony("shop") as found:
        yield found


def tell(url: str, *arguments: str) -> str:
    """What a command says that succeeds."""
    code, out, err = call(*arguments, "--redis-url", url)
    assert code == 0, err
    return out


def owe(url: str, count: int, *, dead: bool) -> list[str]:
    """The ids of webhooks that are owed, or were given up."""

    async def work() -> list[str]:
        store = Store(Link(url, patience=PATIENCE), "shop")
        try:
            ids = [await owed(store) for _ in range(count)]
            if dead:
                await store.claim_deliveries("t", lease=PATIENCE, most=count, per_lane=count)
                for delivery_id in ids:
                    await store.delivery_failed(delivery_id, "t", "410 Gone", again_after=None)
            return ids
        finally:
            await store.link.close()

    return asyncio.run(work())


def test_the_life_of_a_subscription(url: str) -> None:
    """Added, listed, paused, resumed, changed, removed."""
    assert tell(url, "subscription", "list") == "There are no subscriptions.\n"
    add = ["subscription", "add", "ops", URL, "--secret", "env:HOOK_A", "--secret", "env:HOOK_B"]
    where = ["--type", "subagent_report", "--where", "data.status=failed", "--where", "data.n=1"]
    assert tell(url, *add, *where, "--from-start") == "Subscribed: ops.\n"
    [found] = answer(url, "subscription", "list")
    assert found["subscription"] == {
        "id": "ops",
        "url": URL,
        "secret": ["env:HOOK_A", "env:HOOK_B"],
        "types": ["subagent_report"],
        "where": {"data.status": "failed", "data.n": 1},
    }
    assert tell(url, "subscription", "pause", "ops") == "Paused: ops.\n"
    assert "off: paused" in tell(url, "subscription", "list")
    assert tell(url, "subscription", "resume", "ops") == "Resumed: ops.\n"
    row = tell(url, "subscription", "list").splitlines()[-1]
    assert all(word in row.split() for word in ("ops", "on", "subagent_report", URL))
    assert tell(url, *add) == "Subscribed: ops.\n"
    [changed] = answer(url, "subscription", "list")
    assert (changed["subscription"]["types"], changed["subscription"]["where"]) == ([], {})
    assert tell(url, "subscription", "remove", "ops") == "Removed: ops.\n"
    for verb in ("pause", "resume", "remove"):
        code, _, err = call("subscription", verb, "ops", "--redis-url", url)
        assert (code, "'ops'" in err) == (1, True), verb


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["s", "ftp://hooks.example.org", "--secret", "env:A"], "url"),
        (["s", URL, "--secret", "whsec_in_plain_sight"], "secret"),
        (["s", URL, "--secret", "env:A", "--where", "data.status"], "PATH=VALUE"),
    ],
    ids=["url", "secret", "where"],
)
def test_a_subscription_that_nobody_can_mean(url: str, arguments: list[str], expected: str) -> None:
    """Refused with the field that is wrong, and no secret that was given by mistake."""
    code, out, err = call("subscription", "add", *arguments, "--redis-url", url)
    assert code == 1
    assert expected in err
    assert "in_plain_sight" not in out + err
    assert answer(url, "subscription", "list") == []


def test_what_is_owed_is_shown_and_dropped(url: str) -> None:
    """Where it goes; what is sent only when that is asked for."""
    assert tell(url, "deliveries", "list") == "No webhook is owed.\n"
    kept, dropped = owe(url, 2, dead=False)
    assert {found["id"] for found in answer(url, "deliveries", "list")} == {kept, dropped}
    assert "hooks.example.org" in tell(url, "deliveries", "list")
    assert len(answer(url, "deliveries", "list", "--limit", "1")) == 1
    shown: dict[str, Any] = answer(url, "deliveries", "show", kept)
    assert (shown["url"], shown["attempts"], "data" in shown) == (URL, 0, False)
    assert answer(url, "deliveries", "show", kept, "--payload")["data"]["status"] == "success"
    assert "Done." not in tell(url, "deliveries", "show", kept)
    assert "Done." in tell(url, "deliveries", "show", kept, "--payload")
    assert answer(url, "deliveries", "drop", dropped, dropped) == {"dropped": [dropped]}
    assert [found["id"] for found in answer(url, "deliveries", "list")] == [kept]
    for verb in ("show", "retry", "drop"):
        code, _, err = call("deliveries", verb, dropped, "--redis-url", url)
        assert (code, dropped in err) == (1, True), verb


def test_what_was_given_up_is_tried_again(url: str) -> None:
    """One that is named, or all; nothing of it is lost meanwhile."""
    assert tell(url, "deliveries", "list", "--dead") == "No webhook was given up.\n"
    first, *others = owe(url, 3, dead=True)
    assert "410 Gone" in tell(url, "deliveries", "list", "--dead")
    assert "given up" in tell(url, "deliveries", "show", first)
    assert answer(url, "deliveries", "retry", first) == {"retried": [first]}
    assert tell(url, "deliveries", "retry", "--all-dead") == "To be sent now: 2.\n"
    assert answer(url, "deliveries", "list", "--dead") == []
    assert len(answer(url, "deliveries", "list")) == 3
    for wrong in ([], [others[0], "--all-dead"]):
        assert call("deliveries", "retry", *wrong, "--redis-url", url)[0] == 2


def test_all_that_was_given_up_is_dropped(url: str) -> None:
    """What is owed stays."""
    owe(url, 2, dead=True)
    [live] = owe(url, 1, dead=False)
    assert tell(url, "deliveries", "drop", "--all-dead") == "Dropped: 2.\n"
    assert [found["id"] for found in answer(url, "deliveries", "list")] == [live]
