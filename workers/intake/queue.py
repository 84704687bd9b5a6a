"""The intake queue in the broker: each message is in Redis, in one list or another, until it is acknowledged.

    <queue>               what clients push (Celery's priorities 3 to 9: lists of their own beside it)
    <queue>.taken:<node>  what this node has taken and not acknowledged: one message at a time
    <queue>.takers        the nodes that may have such a list
    <queue>.look          who has just looked for lists of dead nodes

A message moves from list to list in one step, so a node can die at any moment and nothing is lost:
Celery's own consumer takes it out first and notes it later. What a dead node had taken is given back.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kombu.transport.redis import Channel
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from colony.doorbell import intake_of
from colony.settings import Settings

WAIT_SECONDS = 1
LOOK_EVERY_MS = 2000
PRIORITIES = [step for step in Channel.priority_steps if step]
"""What Celery calls priorities 3 to 9 waits in lists of their own; here it is first in, first out."""


class IntakeQueue:
    """One node's face of the queue, for the event loop that uses it first. Raises redis-py's errors."""

    def __init__(self, colony_id: str, node: str, settings: Settings) -> None:
        self._queue = intake_of(colony_id)
        self._node = node
        self._redis = Redis.from_url(
            settings.queue_url,
            socket_timeout=5.0,
            socket_connect_timeout=1.0,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )

    async def take(self) -> tuple[bytes | None, bool]:
        """The next message, None when none comes within a second; and whether it is this node's turn to
        `rescue`. What was taken before and not acknowledged, perhaps unheard, comes first."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.lmove(self._taken_by(self._node), self._queue, "LEFT", "RIGHT")
        pipe.sadd(f"{self._queue}.takers", self._node)
        pipe.set(f"{self._queue}.look", self._node, nx=True, px=LOOK_EVERY_MS)
        for priority in PRIORITIES:
            pipe.lmove(f"{self._queue}{Channel.sep}{priority}", self._queue, "RIGHT", "LEFT")
        pipe.blmove(self._queue, self._taken_by(self._node), WAIT_SECONDS, "RIGHT", "LEFT")
        replies: list[Any] = await pipe.execute()
        return replies[-1], bool(replies[2])

    async def acknowledge(self, message: bytes) -> None:
        """It is done; what Redis may have handed over since, to a connection that was lost, is not."""
        await self._redis.lrem(self._taken_by(self._node), 1, message)  # type: ignore[arg-type]

    async def put_back(self, node: str | None = None) -> int:
        """What was taken by this node (or `node`) is the next to be taken again. Returns how many."""
        count, taken = 0, self._taken_by(node or self._node)
        while await self._redis.lmove(taken, self._queue, "LEFT", "RIGHT") is not None:
            count += 1
        return count

    async def takers(self) -> set[str]:
        """The other nodes that may have taken something."""
        names: set[Any] = await self._redis.smembers(f"{self._queue}.takers")
        return {name.decode() for name in names} - {self._node}

    async def rescue(self, dead: Collection[str]) -> int:
        """Put back what these nodes had taken, and forget them. Returns how many messages."""
        count = 0
        for node in dead:
            count += await self.put_back(node)
            await self._redis.srem(f"{self._queue}.takers", node)
        return count

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    def _taken_by(self, node: str) -> str:
        return f"{self._queue}.taken:{node}"
