"""The scheduler of a beat: RedBeat, and a Redis that goes away and comes back.

RedBeat ends with a traceback when it cannot reach Redis for a moment, or has lost its lock meanwhile.
This one goes on: it stands by, tries again at each tick, and takes the lead when nobody has it.

Where COLONY_HEALTH_PORT is set it answers probes, and tells Prometheus whether it leads. systemd, if that
started it, gets its signs of life.

    tick ─▶ leads? ── no ──▶ stand by
              │ yes            ▲
              ▼                │ lock lost, or Redis away
        what is due ───────────┘
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.signals import beat_init
from redbeat import RedBeatScheduler
from redbeat.schedulers import (
    LUA_EXTEND_TO_SCRIPT,
    acquire_distributed_beat_lock,
    get_redis,
)
from redis.exceptions import LockError, RedisError

from colony.errors import ConfigurationError
from colony.health import Verdict
from colony.metrics.exposition import Page, page
from colony.metrics.fleet import Family
from colony.systemd import Notifier
from workers.probes import Probes

log = logging.getLogger("colony.beat")

beat_init.disconnect(acquire_distributed_beat_lock)  # waits for the lock, and gives up at an error
STUCK_SECONDS = 30.0
"""A tick waits for Redis a few seconds at most."""
AWAY_SECONDS = 10.0
MOST_SECONDS_APART = 5.0
"""How long it waits between two tries at most while Redis is away."""


class Scheduler(RedBeatScheduler):  # type: ignore[misc]
    """One of any number of beats; the one that has the lock ticks."""

    _is_set_up = False
    _failures = 0

    def __init__(self, *args: Any, lazy: bool = False, **kwargs: Any) -> None:
        self._ticked_at = self._heard_at = time.monotonic()
        super().__init__(*args, lazy=lazy, **kwargs)
        self._notifier = Notifier(self)
        if not lazy:  # lazy: only for the banner
            self._be_probed()

    def _be_probed(self) -> None:
        conf = self.app.conf
        if conf.colony_health_port is not None:
            try:
                Probes(conf.colony_health_host, conf.colony_health_port, self).start()
            except ConfigurationError as error:
                raise SystemExit(f"colony: {error}") from error
        self._notifier.start()

    def setup_schedule(self) -> None:
        """When this beat takes the lead: Redis may be away when it starts."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due, if this beat leads. Returns the seconds until the next tick."""
        self._ticked_at = time.monotonic()
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
        self._heard_at = time.monotonic()
        if self._failures:
            log.warning("Redis answers again after %d attempts", self._failures)
            self._failures = 0
        return float(seconds)

    def close(self) -> None:
        """Give the lead back. Where Redis is away, the lock runs out by itself."""
        self._notifier.stop()
        try:
            super().close()
        except (RedisError, OSError) as error:
            log.warning(
                "the lead is not given back, it runs out in %s s: %s", self.lock_timeout, error
            )
            self.lock = None

    def live(self) -> Verdict:
        """Whether it still ticks, or tries to."""
        still = time.monotonic() - self._ticked_at
        return _verdict([f"no tick for {still:.0f} s"] if still > STUCK_SECONDS else [])

    def ready(self) -> Verdict:
        """Whether Redis answers; also of one that stands by."""
        unheard = time.monotonic() - self._heard_at
        away = [f"no answer of Redis for {unheard:.0f} s"] if unheard > AWAY_SECONDS else []
        return _verdict([*self.live().reasons, *away])

    def page(self, accept: str | None) -> Page:
        """Whether it leads, and since when Redis has not answered."""
        labels = {"colony": str(self.app.conf.colony_id)}
        told = (
            (
                "leads",
                "1 for the beat that ticks, 0 for one that stands by.",
                self.lock is not None,
            ),
            (
                "unheard_seconds",
                "Since when Redis has not answered.",
                time.monotonic() - self._heard_at,
            ),
        )
        measured = [
            Family(f"colony_beat_{n}", words, samples=[(labels, float(v))]) for n, words, v in told
        ]
        return page(measured, accept, labels)

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


def _verdict(reasons: list[str]) -> Verdict:
    return Verdict(not reasons, reasons)
