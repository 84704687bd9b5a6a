"""Events are heard soon after the broker is back: Flower's own pause doubles for as long as it is away."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from celery.events import EventReceiver
from flower.events import Events

log = logging.getLogger("flower.events")

AGAIN_SECONDS: Final = 2.0


def install() -> None:
    """Once in Flower's process, before it listens."""
    Events.run = _listen


def _listen(self: Any) -> None:
    """In a thread of its own, for ever."""
    while True:
        try:
            with self.capp.connection() as connection:
                receiver = EventReceiver(connection, handlers={"*": self.on_event}, app=self.capp)
                receiver.capture(limit=None, timeout=None, wakeup=True)
        except Exception as error:  # noqa: BLE001 (whatever a broker that is away raises)
            log.error(
                "Failed to capture events: '%s', trying again in %g seconds.", error, AGAIN_SECONDS
            )
            time.sleep(AGAIN_SECONDS)
