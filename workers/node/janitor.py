"""The janitor: asks the store what is due in the fleet, and does it.

Any node can do any of it, any number of times: the store hands each round to one of the nodes and
takes every item atomically. The work is in proportion to what is due, not to what exists.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Sequence
from datetime import timedelta

from colony.bell import Bell
from colony.doorbell import Doorbells
from colony.errors import StoreUnavailable
from colony.metrics.names import ROUNDS_FAILED, WORKERS_RESCUED
from colony.store import Due, Store
from workers.node.context import NodeContext
from workers.node.role import Role

log = logging.getLogger("colony.janitor")

CAP = 200
"""Most items of a kind in one round."""
PAGES = 50
"""Most pages of due items in one round."""
RETAIN_EVERY_ROUNDS = 10
NOTICE_AGAIN = timedelta(seconds=10)


class Janitor(Role):
    """One round: dead nodes, due deadlines and wakes, unanswered doorbells, now and then retention."""

    name = "janitor"

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._doorbells: Doorbells = context.doorbells()
        self._bell = Bell(self._doorbells)
        self._rounds_done = 0
        self._set_aside: deque[tuple[str, str]] = deque(maxlen=1000)

    @property
    def interval(self) -> timedelta:
        return self.context.settings.sweep_interval

    async def round(self, store: Store) -> None:
        """Ask, and do what is due: each job also where another one failed."""
        await self._job(self._keep_rejected(store))
        settings = self.context.settings
        due = await store.sweep(
            interval=settings.sweep_interval * 0.9, lease=settings.lease, cap=CAP
        )
        if due is None:
            return
        for job in (
            self._rescue,
            self._do_items,
            self._join,
            self._send_notices,
            self._ring_again,
            self._retain,
        ):
            await self._job(job(store, due))

    async def _job(self, work: Awaitable[None]) -> None:
        """A part of the round whose failure holds up no other. Without Redis there is none to go on with."""
        try:
            await work
        except StoreUnavailable:
            raise
        except Exception:
            ROUNDS_FAILED.add(self.name, "error")
            log.exception("janitor: a part of the round failed, the rest goes on")

    def set_aside(self, reason: str, message: str) -> None:
        """Keep a message that is not ours, with its reason. From any thread; never waits."""
        self._set_aside.append((reason, message))

    async def _keep_rejected(self, store: Store) -> None:
        """What cannot be kept is dropped: tried again, it would be in the way of all that come after it."""
        while self._set_aside:
            reason, message = self._set_aside[0]
            try:
                await store.reject(reason, message)
            except StoreUnavailable:
                raise
            except Exception:
                ROUNDS_FAILED.add(self.name, "error")
                log.exception("janitor: a message that was set aside (%.200a) is dropped", reason)
            self._set_aside.popleft()

    async def _rescue(self, store: Store, due: Due) -> None:
        word = self.context.word
        if due.dead_nodes:
            await word.tell_earlier(store)  # one of them may have been on this host
        for node in due.dead_nodes:
            log.warning("node %s is dead (its lease ran out): its workers are rescued", node)
            witnessed, taken = word.witnessed(node), 1
            while taken:
                taken, rings = await store.rescue(
                    node,
                    cap=CAP,
                    ring_again_after=self.context.settings.ring_again_after,
                    witnessed=witnessed,
                )
                WORKERS_RESCUED.add(by=taken)
                await self._bell.ring(rings)

    async def _do_items(self, store: Store, due: Due) -> None:
        """Deadlines, wakes, stops; also what the doing of them makes due (a tree, level by level)."""
        items = due.items
        for _ in range(PAGES):
            await self._do_page(store, items)
            if not items:
                return
            items = await store.due_items(CAP)

    async def _do_page(self, store: Store, items: Sequence[str]) -> None:
        settings = self.context.settings
        wakes = [item.removeprefix("wake:") for item in items if item.startswith("wake:")]
        others = [item for item in items if not item.startswith("wake:")]
        after = settings.ring_again_after
        woken = await asyncio.gather(*(store.wake(w, ring_again_after=after) for w in wakes))
        rung = await asyncio.gather(
            *(store.expire(item, grace=settings.stop_grace, cap=CAP) for item in others)
        )
        await self._bell.ring(
            [*(r for r in woken if r is not None), *(r for each in rung for r in each)]
        )

    async def _join(self, store: Store, due: Due) -> None:
        """Batches that have what they need and were joined by nobody."""
        after = self.context.settings.ring_again_after
        rings = await asyncio.gather(
            *(store.join(batch_id, ring_again_after=after) for batch_id in due.joins)
        )
        await self._bell.ring([ring for each in rings for ring in each])

    async def _send_notices(self, store: Store, due: Due) -> None:
        """What a join has promised to tell (on_complete): at least once, with an id of its own."""
        if not due.notices:
            return
        due_now = await store.notices(again_after=NOTICE_AGAIN, cap=CAP)
        for notice, text in due_now.items():
            await self._job(self._send_notice(store, notice, text))

    async def _send_notice(self, store: Store, notice: str, text: str) -> None:
        what = json.loads(text)
        task_id = f"{notice.partition(':')[2]}.complete"
        try:
            await self._doorbells.in_time(
                self._doorbells.notify,
                what["to"]["task"],
                [what["result"]],
                task_id,
                what["to"]["queue"],
            )
        except StoreUnavailable as error:
            log.warning("janitor: notice %s is sent later: %s", notice, error)
        else:
            await store.notice_sent(notice)

    async def _ring_again(self, store: Store, due: Due) -> None:
        """PENDING with messages in the queue only means waiting; with an empty one it means lost."""
        if not due.pending:
            return
        try:
            waiting, unacknowledged = await self._doorbells.in_time(self._doorbells.depth)
        except StoreUnavailable as error:
            log.warning("janitor: %s", error)
            return
        if waiting or unacknowledged:
            return
        rings = await store.ring_again(after=self.context.settings.ring_again_after, cap=CAP)
        if rings:
            log.info("%d doorbells went unanswered and are rung again", len(rings))
        await self._bell.ring(rings)

    async def _retain(self, store: Store, _due: Due) -> None:
        """Now and then: forget what has ended beyond what is kept."""
        self._rounds_done += 1
        if self._rounds_done % RETAIN_EVERY_ROUNDS:
            return
        config = self.context.colony.config
        await store.retain(
            most=config.result_retention_max,
            ttl=config.result_retention_ttl,
            cap=CAP * RETAIN_EVERY_ROUNDS,
        )
