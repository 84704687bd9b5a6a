"""Webhooks out: what Colony tells others by HTTP, signed as Standard Webhooks (standardwebhooks.com).

    POST <url>
    webhook-id: b0194…_completed            the same each time it is sent: drop what you have seen
    webhook-timestamp: 1767225600           of this attempt
    webhook-signature: v1,…                 of id, timestamp and body; several with several secrets

    {"type": "batch.completed", "timestamp": "2026-01-01T00:00:00Z", "data": {…}}

=====================  =============================  ================================================
type                   webhook-id                     data
=====================  =============================  ================================================
``worker.completed``   ``<worker>_completed``         the report, with ``colony_id``
``batch.completed``    ``<batch>_completed``          the batch's result without its members
an event's type        ``<subscription>_<event>``     the event: its id, ids, and ``data``
``gap``                ``<subscription>_gap_<from>``  how many events the log no longer had, and why
=====================  =============================  ================================================

A report or event of more than 8 KB comes without its content, ``"data_omitted": true``: ask for it by its id.

What is owed is written by the script that ends the worker, joins the batch or moves a subscription past the
event, so nothing is passed over; couriers (one in each node) send it, at least once, in no certain order. An
answer of 2xx is a delivery. 410 gives it up and pauses its subscription; anything else, a redirect too, is
tried again after `COLONY_DELIVERY_RETRIES` (5 s … 24 h, or later if Retry-After says so), then given up:
kept among the dead, up to `dead_deliveries_max`, until you retry or drop it. So is, at once, what would go
to an address that is not public, or by http (`colony.urls`). An endpoint that is slow delays only itself.

Nodes sign with whatever secret of theirs a callback names. So those who come over HTTP, or by the intake, may
name only what `COLONY_CALLBACK_SECRETS` lists: who chooses the URL gets signatures made with the secret.
"""

from __future__ import annotations

from collections.abc import Sequence

from colony.errors import InvalidSubscription, UnknownDelivery, UnknownSubscription
from colony.models import Delivery, OnComplete, Subscription, SubscriptionInfo
from colony.operations import Operations, unknown_colony
from colony.sizes import check_limit, check_spec

MAX_SUBSCRIPTIONS = 100


def why_not_named(on_complete: OnComplete | None, listed: Sequence[str]) -> str | None:
    """Why a caller who is not trusted with a node's secrets may not name those of this callback; None where
    it may."""
    for reference in () if on_complete is None else on_complete.secret:
        if not any(_fits(reference, entry) for entry in listed):
            return (
                f"{reference!r} is not among the secrets that callbacks may name here: expected "
                f"{' or '.join(listed)} (COLONY_CALLBACK_SECRETS of gateway and nodes)"
            )
    return None


def _fits(reference: str, entry: str) -> bool:
    if ".." in reference.partition(":")[2].split("/"):
        return False  # it leads out of the directory that is listed
    return reference.startswith(entry[:-1]) if entry.endswith("*") else reference == entry


class DeliveryVerbs(Operations):
    """The verbs for webhooks out, part of `ColonyRuntime`."""

    async def put_subscription(
        self, subscription: Subscription, *, from_start: bool = False
    ) -> None:
        """Send events to a URL from now on (`from_start`: from the oldest that is kept).

        One that exists is changed, goes on where it was, and is no longer paused; what is owed to it goes
        to the new URL. Raises `InvalidSubscription` when there are too many, or `UnknownColony`.
        """
        check_spec(f"subscription {subscription.id!r}", subscription, InvalidSubscription)
        if "id" not in await self._store.face():
            raise unknown_colony(self.colony_id)
        kept = await self._store.put_subscription(
            subscription, from_start=from_start, most=MAX_SUBSCRIPTIONS
        )
        if not kept:
            raise InvalidSubscription(
                f"colony {self.colony_id!r} has {MAX_SUBSCRIPTIONS} subscriptions, the most there may be: "
                "remove one"
            )

    async def list_subscriptions(self) -> list[SubscriptionInfo]:
        """All subscriptions, the oldest first."""
        return await self._store.subscriptions()

    async def pause_subscription(self, subscription_id: str) -> None:
        """Send it nothing until `resume_subscription`; what happens meanwhile is sent then, as far as the log
        still has it, and a gap is announced. Raises `UnknownSubscription`."""
        self._known(
            subscription_id, await self._store.pause_subscription(subscription_id, "paused")
        )

    async def resume_subscription(self, subscription_id: str) -> None:
        """Go on where it was. Raises `UnknownSubscription`."""
        self._known(subscription_id, await self._store.resume_subscription(subscription_id))

    async def remove_subscription(self, subscription_id: str) -> None:
        """Forget it, with all that is owed to it. Raises `UnknownSubscription`."""
        self._known(subscription_id, await self._store.remove_subscription(subscription_id))

    async def list_deliveries(self, *, dead: bool = False, limit: int = 100) -> list[Delivery]:
        """The webhooks that are owed, or those that were given up; newest first."""
        check_limit(limit)
        return await self._store.deliveries(dead=dead, limit=limit)

    async def get_delivery(self, delivery_id: str) -> Delivery | None:
        """One of them; None when it has arrived or never was."""
        return await self._store.delivery(delivery_id)

    async def retry_delivery(self, delivery_id: str) -> None:
        """Send it now, with all its attempts before it again. Raises `UnknownDelivery`."""
        if not await self._store.retry_delivery(delivery_id):
            raise self._unknown_delivery(delivery_id)

    async def drop_delivery(self, delivery_id: str) -> None:
        """Forget it: it is not sent any more. Raises `UnknownDelivery`."""
        if not await self._store.drop_delivery(delivery_id):
            raise self._unknown_delivery(delivery_id)

    def _known(self, subscription_id: str, known: bool) -> None:
        if not known:
            raise UnknownSubscription(
                f"there is no subscription {subscription_id!r} in colony {self.colony_id!r}: see "
                "list_subscriptions or `colony subscription list`"
            )

    def _unknown_delivery(self, delivery_id: str) -> UnknownDelivery:
        return UnknownDelivery(
            f"there is no delivery {delivery_id!r} in colony {self.colony_id!r}: it has arrived, was "
            "dropped, or never was; see list_deliveries or `colony deliveries list`"
        )
