"""The scheduler of a beat: RedBeat, and a Redis that goes away and comes back.

RedBeat ends with a traceback when it cannot reach Redis for a moment, or has lost its lock meanwhile.
This one goes on: it stands by, tries again at each tick, and takes the lead when nobody has it.

    tick ─▶ leads? ── no ──▶ stand by
              │ yes            ▲
              ▼                │ lock lost, or Redis away
        what is due ───────────┘
"""

from __future__ import annotations

import logging
from typing import Any

from celery.signals import beat_init
from redbeat import RedBeatScheduler
from redbeat.schedulers import (
    LUA_EXTEND_TO_SCRIPT,
    acquire_distributed_beat_lock,
    get_redis,
)
from redis.exceptions import LockError, RedisError

log = logging.getLogger("colony.beat")

beat_init.disconnect(acquire_distributed_beat_lock)  # waits for the lock, and gives up at an error
MOST_SECONDS_APART = 5.0
"""How long it waits between two tries at most while Redis is away."""


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """One of any number of beats; the one that has the lock ticks."""

    _is_set_up = False
    _failures = 0

    def setup_schedule(self) -> None:
        """When this beat takes the lead: Redis may be away when it starts."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due, if this beat leads. Returns the seconds until the next tick."""
        try:
            seconds = super().tick(*args, **kwargs) if self._leads() else self.max_interval
        except LockError as error:
            log.warning("another beat may lead by now, this one stands by: %s", error)
            self.lock = None
            return float(self.max_interval)
        except (RedisError, OSError) as error:
            self._failures += 1
            if self._failures == 1:
                log.warning("Redis is away or refuses, the beat tries again: %s", error)
            return min(MOST_SECONDS_APART, float(self.max_interval) * self._failures)
        if self._failures:
            log.warning("Redis answers again after %d attempts", self._failures)
            self._failures = 0
        return float(seconds)

    def close(self) -> None:
        """Give the lead back. Where Redis is away, the lock runs out by itself."""
        try:
            super().close()
        except (RedisError, OSError) as error:
            log.warning(
                "the lead is not given back, it runs out in %s s: %s", self.lock_timeout, error
            )
            self.lock = None

    def _leads(self) -> bool:
        if self.lock is None:
            client = get_redis(self.app)
            lock = client.lock(self.lock_key, timeout=self.lock_timeout)
            lock.lua_extend = client.register_script(
                LUA_EXTEND_TO_SCRIPT
            )  # to, not by, as RedBeat has it
            if not lock.acquire(blocking=False):
                return False
            self.lock, self._is_set_up = lock, False
        if not self._is_set_up:
            self._set_up()
            self._is_set_up = True
            log.info("this beat leads")
        return True

    def _set_up(self) -> None:
        """Write our entries anew: Redis may have lost them, or the beat before had a clock of its own and has
        noted that they ran in an hour from now."""
        client = get_redis(self.app)
        for name in self.app.redbeat_conf.schedule:
            client.hdel(self.Entry.generate_key(self.app, name), "meta")
        super().setup_schedule()
