"""Fan-in: many waiters, one subscription.

Subscribe, await the confirmation, then read what has already happened, then wait. Every
confirmation, also the silent one after a reconnection, means: read the store again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import timedelta

from colony.errors import StoreUnavailable
from colony.models import BatchResult, Report
from colony.store import Store
from colony.store.listen import listen
from colony.store.reads import ended_from

log = logging.getLogger("colony.waiting")

HOLD = timedelta(minutes=1)
"""How long a report is kept from retention for a waiter; renewed at half of it."""
PAGE = 500
OMITTED = ',"data_omitted":true}'
"""How the message of a report ends that is too large to be sent along."""

Ended = Report | BatchResult
Waiter = asyncio.Future[Ended]


class Waiting:
    """The waiters of one runtime."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiters: dict[str, set[Waiter]] = {}
        self._confirmed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def close(self) -> None:
        """Stop listening; those who still wait are cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.cancel()

    async def ended(self, what: str, timeout: float | None) -> Ended | bool:
        """The report of a worker, or the result of a batch, by id.

        True when there is none within `timeout` seconds, False for no such worker or batch.

        Once it waits, it goes on waiting while Redis is away.
        """
        if timeout is not None and timeout <= 0:
            return (await self._read([what]))[0]
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(what, set()).add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await self._listening()
                [found] = await self._read([what])
                return found if found is not True else await waiter
        except TimeoutError:
            return True
        finally:
            waiters = self._waiters[what]
            waiters.discard(waiter)
            if not waiters:
                del self._waiters[what]

    async def _read(self, ids: Sequence[str]) -> list[Ended | bool]:
        return await self._store.wait_for(ids, ttl=HOLD)

    async def _listening(self) -> None:
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._listen(), name="colony-reports"),
                asyncio.create_task(self._hold(), name="colony-waiting"),
            ]
        while not self._confirmed.is_set():
            await self._store.link.call("PING")  # fails with a clear error while Redis is away
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # `wait_for` may lose the end of our own time
                    await self._confirmed.wait()

    async def _listen(self) -> None:
        async with contextlib.aclosing(
            listen(self._store.link, self._store.keys("reports"))
        ) as heard:
            async for message in heard:
                if message is None:
                    self._confirmed.set()
                    await self._read_all()
                else:
                    await self._hear(message)

    async def _hear(self, message: str) -> None:
        what = message.split('"', 4)[3]  # every message begins with its id
        if what not in self._waiters:
            return
        if message.endswith(OMITTED):
            await self._read_all([what])
        else:
            self._resolve(what, ended_from(message))

    async def _hold(self) -> None:
        """Renew the hold on what is waited for; by the way the net under a lost message."""
        while True:
            await asyncio.sleep(HOLD.total_seconds() / 2)
            await self._read_all()

    async def _read_all(self, ids: Sequence[str] | None = None) -> None:
        waited = list(self._waiters) if ids is None else ids
        try:
            for start in range(0, len(waited), PAGE):
                page = waited[start : start + PAGE]
                for what, found in zip(page, await self._read(page), strict=True):
                    if not isinstance(found, bool):
                        self._resolve(what, found)
        except StoreUnavailable as error:
            log.warning("reports could not be read, waiting on: %s", error)

    def _resolve(self, what: str, ended: Ended) -> None:
        for waiter in self._waiters.get(what, ()):
            if not waiter.done():
                waiter.set_result(ended)
