"""Webhooks that are owed, and the subscriptions whose events they carry.

settle, join ──▶ owed ──claim──▶ being sent ──▶ delivered (forgotten, counted)
events ─follow─▶  ▲                  │ failed
                  └──── later ───────┴──▶ dead (kept to be looked at and tried again)
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from colony.models import Delivery, OnComplete, Subscription, SubscriptionInfo, from_ms
from colony.store.base import StoreBase, millis, pairs


class Failed(StrEnum):
    """What becomes of a delivery whose attempt has failed."""

    LATER = "later"
    DEAD = "dead"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Owed:
    """A delivery that was claimed, when (by Redis' clock) and with which token: what to send, where to, and
    which attempt it is."""

    id: str
    type: str
    at_ms: int
    data: str
    to: OnComplete
    subscription_id: str
    attempt: int
    token: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """A delivery as `follow` writes it; `data` is JSON."""

    id: str
    type: str
    at_ms: int
    data: str


@dataclass(frozen=True, slots=True)
class Behind:
    """A subscription that has events before it, and the id of the last one that it has passed."""

    subscription: Subscription
    cursor: str


class DeliveryKeeping(StoreBase):
    """What couriers do, each of them any number of times, and what operators see and change of it."""

    async def claim_deliveries(
        self, token: str, *, lease: timedelta, most: int, per_lane: int
    ) -> list[Owed]:
        """Take up to `most` deliveries that are due, for a lease; at most `per_lane` of one origin are
        being sent at once. A token is used once."""
        now, flat = await self.run("claim_deliveries", token, millis(lease), most, per_lane)
        columns = [iter(flat)] * 7
        return [
            Owed(
                delivery_id,
                kind,
                int(at),
                data,
                OnComplete.model_validate_json(to),
                subscription,
                int(attempt),
                token,
                int(now),
            )
            for delivery_id, kind, at, data, to, subscription, attempt in zip(*columns, strict=True)
        ]

    async def delivered(self, delivery_id: str) -> None:
        """It has arrived."""
        await self.run("delivered", delivery_id)

    async def delivery_failed(
        self,
        delivery_id: str,
        token: str,
        error: str,
        *,
        again_after: timedelta | None,
        gone: bool = False,
    ) -> Failed:
        """An attempt has failed: again later, or (None) never. `gone`: its subscription is paused."""
        delay = "" if again_after is None else millis(again_after)
        return Failed(
            await self.run("delivery_failed", delivery_id, token, error, delay, int(gone))
        )

    async def retry_delivery(self, delivery_id: str) -> bool:
        """Send it now, whatever became of it before. False when there is none."""
        return bool(await self.run("retry_delivery", delivery_id) == "ok")

    async def drop_delivery(self, delivery_id: str) -> bool:
        """Forget it. False when there is none."""
        return bool(await self.run("drop_delivery", delivery_id) == "ok")

    async def put_subscription(
        self, subscription: Subscription, *, from_start: bool, most: int
    ) -> bool:
        """Add or change one. False when there are `most` others already."""
        to = OnComplete(url=subscription.url, secret=subscription.secret)
        reply = await self.run(
            "put_subscription",
            subscription.id,
            subscription.model_dump_json(),
            to.model_dump_json(exclude_none=True),
            "0" if from_start else "",
            most,
        )
        return bool(reply == "ok")

    async def pause_subscription(self, subscription_id: str, reason: str) -> bool:
        """Neither follow it nor send for it. False when there is none."""
        return bool(await self.run("pause_subscription", subscription_id, "0", reason) == "ok")

    async def resume_subscription(self, subscription_id: str) -> bool:
        """Go on where it was. False when there is none."""
        return bool(await self.run("pause_subscription", subscription_id, "1", "") == "ok")

    async def remove_subscription(self, subscription_id: str) -> bool:
        """Forget it and what is owed to it. False when there is none."""
        return bool(await self.run("remove_subscription", subscription_id) == "ok")

    async def behind(self, *, interval: timedelta, backlog: int) -> tuple[str, list[Behind]]:
        """The id of the latest event, and the subscriptions before it that are owed less than `backlog`;
        none when another node has just asked."""
        latest, flat = await self.run("behind", millis(interval), backlog)
        columns = [iter(flat)] * 3
        return latest, [
            Behind(Subscription.model_validate_json(spec), cursor)
            for _, spec, cursor in zip(*columns, strict=True)
        ]

    async def follow(
        self, subscription_id: str, cursor: str, to: str, deliveries: Sequence[NewDelivery]
    ) -> bool:
        """Move a cursor and owe what lies between. False when somebody else was there first."""
        flat = [text for d in deliveries for text in (d.id, d.type, d.at_ms, d.data)]
        return bool(await self.run("follow", subscription_id, cursor, to, *flat) == "ok")

    async def subscriptions(self) -> list[SubscriptionInfo]:
        """All of them, oldest first."""
        ids = await self.link.call("ZRANGE", self.keys("subscriptions"), 0, -1)
        found = await asyncio.gather(*(self._subscription(i) for i in ids))
        return [info for info in found if info is not None]

    async def _subscription(self, subscription_id: str) -> SubscriptionInfo | None:
        raw = await self._fields("subscription", subscription_id)
        created = await self.link.call("ZSCORE", self.keys("subscriptions"), subscription_id)
        if not raw or created is None:
            return None
        return SubscriptionInfo(
            subscription=Subscription.model_validate_json(raw["spec"]),
            enabled=raw["enabled"] == "1",
            reason=raw["reason"] or None,
            cursor=raw["cursor"],
            owed=int(await self.link.call("SCARD", self.keys("owed", subscription_id))),
            delivered=int(raw.get("delivered", 0)),
            created_at=from_ms(created),
        )

    async def deliveries(self, *, dead: bool, limit: int) -> list[Delivery]:
        """Those that are owed, or those that were given up; newest first."""
        key = self.keys("dead" if dead else "deliveries")
        ids = await self.link.call("ZREVRANGE", key, 0, limit - 1)
        found = await asyncio.gather(*(self.delivery(i) for i in ids))
        return [delivery for delivery in found if delivery is not None]

    async def delivery(self, delivery_id: str) -> Delivery | None:
        """One delivery, or None when it has arrived or there never was one."""
        raw = await self._fields("delivery", delivery_id)
        if not raw:
            return None
        due = await self.link.call("ZSCORE", self.keys("lane", raw["lane"]), delivery_id)
        return Delivery(
            id=delivery_id,
            type=raw["type"],
            url=OnComplete.model_validate_json(raw["to"]).url or "",
            subscription_id=raw["subscription"] or None,
            dead=due is None,
            attempts=int(raw["attempts"]),
            next_attempt_at=None if due is None else from_ms(due),
            error=raw.get("error"),
            created_at=from_ms(raw["created"]),
            data=raw["data"],
        )

    async def _fields(self, name: str, of: str) -> dict[str, str]:
        return pairs(await self._hash(self.keys(name, of)))
