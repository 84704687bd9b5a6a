"""What goes on by itself beside the producer: a timer of every second, a trigger that follows events, and a
subscription. What comes of them goes to the history and into the store.

The workers of the timer have the names ``t.<due time>``, those of the trigger ``e.<event id>``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from colony.errors import StoreUnavailable
from colony.models import EventType, Subscription
from colony.runtime import ColonyRuntime
from tests.chaos.history import History
from tests.fleet.receiver import SECRET, receiving

TIMER, WATCHER, SUBSCRIPTION = "every-second", "after-batches", "batches"
FOLLOWED = EventType.BATCH_COMPLETED.value
SECRET_VARIABLE = "HOOK_CHAOS"
SETTINGS = {
    SECRET_VARIABLE: SECRET,
    "COLONY_DELIVERY_ALLOW_PRIVATE": "127.0.0.1/32",
    "COLONY_DELIVERY_TIMEOUT": "1",
    "COLONY_DELIVERY_RETRIES": ",".join(["0.5"] * 20),
}
"""Of the nodes."""
AGAIN_SECONDS = 0.2


class Standing:
    """`begin` before anything goes wrong, `end` once nothing does any more, `caught_up` after all work.

    `reachable`: whether nodes can send webhooks to this process.
    """

    def __init__(self, runtime: ColonyRuntime, history: History, *, reachable: bool) -> None:
        self._runtime, self._history, self._reachable = runtime, history, reachable
        self._stack = contextlib.ExitStack()
        self._begun = False

    async def begin(self) -> None:
        """Put them."""
        self._begun = True
        self._history.add("standing", subscribed=self._reachable)
        await self._runtime.put_trigger(
            {
                "id": TIMER,
                "trigger_type": "timer",
                "trigger_config": {"interval": 1, "misfire": "all"},
                "task": "plain t.${trigger.due}",
            }
        )
        await self._runtime.put_trigger(
            {
                "id": WATCHER,
                "trigger_type": "event",
                "trigger_config": {"types": [FOLLOWED]},
                "task": "plain e.${event.id}",
            }
        )
        if self._reachable:
            self._receiver = self._stack.enter_context(receiving())
            await self._runtime.put_subscription(
                Subscription(
                    id=SUBSCRIPTION,
                    url=self._receiver.url("/"),
                    secret=(f"env:{SECRET_VARIABLE}",),
                    types=(FOLLOWED,),
                )
            )

    async def end(self) -> None:
        """No more fires of the timer."""
        if self._begun:
            await _until_answered(lambda: self._runtime.pause_trigger(TIMER))

    async def caught_up(self) -> bool:
        """Whether every event so far has fired its trigger and was delivered."""
        if not self._begun:
            return True
        joined = (await self._runtime.get_stats()).totals.get("joined", 0)
        watcher = await self._runtime.get_trigger(WATCHER)
        told = await self._runtime.list_subscriptions()
        return watcher.fired >= joined and all(each.delivered >= joined for each in told)

    def note(self) -> None:
        """What was delivered, to the history; no more is."""
        if self._reachable and self._begun:
            for request in self._receiver.received:
                event = request.verified()["data"]
                self._history.add("delivered", webhook=request.id, event=event["id"])
        self._stack.close()


async def _until_answered(verb: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        with contextlib.suppress(StoreUnavailable):
            return await verb()
        await asyncio.sleep(AGAIN_SECONDS)
