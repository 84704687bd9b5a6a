"""The events of one colony for any number of readers, through one subscription.

Each reader has an inbox of a fixed size. One that is slow finds it emptied and is told to read the log
instead, as `colony.events.Reader` does after every lost connection: it costs the gateway no more memory than
its inbox, and loses no kept event. What nobody keeps (text as it streams) is gone for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from datetime import timedelta
from typing import Any

from colony.errors import StoreUnavailable
from colony.metrics.names import EVENT_LAG
from colony.store import Store
from colony.store.listen import listen
from colony.tokens import is_alive

log = logging.getLogger("colony.gateway")

TOKENS_EVERY_SECONDS = 0.5
"""How often it is seen to that the tokens of open streams are good: how late a revocation ends them."""

Heard = dict[str, Any] | None
"""A message of the channel ``live``, or None: read the log."""


class Inbox:
    """What one reader has not heard yet. `ended` says why there will be no more."""

    def __init__(self, size: int, token_id: str | None) -> None:
        self.token_id = token_id
        self.ended: str | None = None
        self._size = size
        self._messages: deque[Heard] = deque([None])
        self._came = asyncio.Event()
        self._came.set()

    def put(self, message: Heard) -> None:
        """Add a message; if there is no room, all of them become the word to read the log."""
        if message is None or len(self._messages) >= self._size:
            self._messages.clear()
            message = None
        self._messages.append(message)
        self._came.set()

    def end(self, why: str) -> None:
        """No more: the reader ends."""
        self.ended = self.ended or why
        self._came.set()

    async def came(self, within: timedelta) -> bool:
        """Wait until there is a message, or the end; False when neither came in time."""
        try:
            async with asyncio.timeout(within.total_seconds()):
                await self._came.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> Heard:
        """The next message, once one has come."""
        message = self._messages.popleft()
        if not self._messages and self.ended is None:
            self._came.clear()
        return message


class Feed:
    """Hands what is heard to all inboxes, and ends those whose token has ended."""

    def __init__(self, store: Store, size: int) -> None:
        self.store = store
        self._size = size
        self._inboxes: set[Inbox] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def readers(self) -> int:
        """How many inboxes there are."""
        return len(self._inboxes)

    @contextmanager
    def inbox(self, token_id: str | None) -> Iterator[Inbox]:
        """An inbox for one reader; its first message is to read the log."""
        if not self._tasks:
            self._begin()
        made = Inbox(self._size, token_id)
        self._inboxes.add(made)
        try:
            yield made
        finally:
            self._inboxes.discard(made)

    def end(self, why: str) -> None:
        """End all readers."""
        for inbox in self._inboxes:
            inbox.end(why)

    async def close(self) -> None:
        """End all readers and stop listening."""
        self.end("the gateway ends")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self) -> None:
        self._tasks = [
            asyncio.create_task(self._listen(), name="gateway-feed"),
            asyncio.create_task(self._check_tokens(), name="gateway-tokens"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._failed)

    def _failed(self, task: asyncio.Task[None]) -> None:
        """Neither ends by itself: better no stream than one that is silent, or outlives its token."""
        if task.cancelled() or task not in self._tasks:
            return
        log.error("the events of %s failed", self.store.colony_id, exc_info=task.exception())
        for each in self._tasks:
            each.cancel()
        self._tasks = []
        self.end("the gateway failed; connect again")

    async def _listen(self) -> None:
        async with aclosing(listen(self.store.link, self.store.keys("live"))) as heard:
            async for text in heard:
                message = None if text is None else json.loads(text)
                if message is not None and "at" in message:
                    EVENT_LAG.observe(max(0.0, time.time() - message["at"] / 1000), "reader")
                for inbox in self._inboxes:
                    inbox.put(message)

    async def _check_tokens(self) -> None:
        while True:
            await asyncio.sleep(TOKENS_EVERY_SECONDS)
            for token_id in {inbox.token_id for inbox in self._inboxes} - {None}:
                await self._check_token(str(token_id))

    async def _check_token(self, token_id: str) -> None:
        try:
            if await is_alive(self.store, token_id):
                return
        except StoreUnavailable as error:
            log.warning("the tokens of streams could not be read: %s", error)
            return
        for inbox in self._inboxes:
            if inbox.token_id == token_id:
                inbox.end("this token was revoked, or has expired")
