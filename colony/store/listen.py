"""Listening on a channel for as long as one likes, across reconnections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from redis.asyncio.client import PubSub

from colony.store.link import CONNECTION_LOST, Link, heeding, safe_url

log = logging.getLogger("colony.listen")

SILENCE_SECONDS = 10.0
"""After so long without a word the server is asked for one; after twice that it counts as lost."""


async def listen(link: Link, channel: str) -> AsyncGenerator[str | None, None]:
    """Every message of a channel; None whenever the subscription was (re)confirmed.

    What was published before a None may have been missed: read the store again. Never ends and
    never raises for a lost connection; close the iterator to stop.
    """
    pause = 0.05
    while True:
        try:
            async with link.pubsub() as pubsub:
                await heeding(pubsub.subscribe(channel))
                async for message in _messages(pubsub):
                    pause = 0.05
                    yield message
        except CONNECTION_LOST as error:
            log.warning(
                "subscription to %s at %s was lost, reconnecting: %s",
                channel,
                safe_url(link.url),
                error,
            )
        await asyncio.sleep(pause)
        pause = min(1.0, pause * 2)


async def _messages(pubsub: PubSub) -> AsyncIterator[str | None]:
    loop = asyncio.get_running_loop()
    heard, asked = loop.time(), False
    while True:
        message: dict[str, Any] | None = await pubsub.get_message(timeout=SILENCE_SECONDS)
        if message is None:
            if loop.time() - heard > 2 * SILENCE_SECONDS:
                raise ConnectionError(
                    f"nothing was heard for {2 * SILENCE_SECONDS:g} s, not even an answer"
                )
            if not asked:
                await heeding(pubsub.ping())
                asked = True
            continue
        heard, asked = loop.time(), False
        if message["type"] == "subscribe":
            yield None
        elif message["type"] == "message":
            yield message["data"]
