"""The guard's part for webhooks out: lists, lanes and records agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_deliveries(whole: Mapping[str, Any]) -> None:
    """Fail when a delivery is listed where it should not be, or is not where it should."""
    records = _of(whole, "delivery")
    owed, dead = set(whole.get("deliveries", ())), set(whole.get("dead", ()))
    assert not owed & dead
    assert set(records) == owed | dead
    lanes = _of(whole, "lane")
    assert {name for lane in lanes.values() for name in lane} == owed
    assert set(whole.get("lanes", ())) == set(lanes), "a lane that nobody looks at"
    for lane, members in lanes.items():
        assert all(records[name]["lane"] == lane for name in members)
    for lane, members in _of(whole, "sending").items():
        assert set(members) <= set(lanes[lane])
    subscriptions = _of(whole, "subscription")
    assert set(subscriptions) == set(whole.get("subscriptions", ()))
    for subscription, members in _of(whole, "owed").items():
        listed = {n for n in owed if records[n]["subscription"] == subscription}
        assert set(members) == listed
        assert subscription in subscriptions


def _of(whole: Mapping[str, Any], name: str) -> dict[str, Any]:
    start = name + ":"
    return {k.removeprefix(start): v for k, v in whole.items() if k.startswith(start)}
