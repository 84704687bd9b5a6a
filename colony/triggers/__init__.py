"""Triggers: work that comes from clocks, signed HTTP calls, events, services and people.

    beat ─▶ colony.tick ─┐
    janitor's round ─────┴▶ ringing ─▶ firing ─▶ store.accept, with the fire ─▶ doorbell
    gateway (webhooks), event log, runtime.trigger() ─▲

`spec` is what a trigger is, `schedule` and `template` what its times and its task mean, `keeping` puts
it into the store, `firing` makes a worker of a fire, `ringing` looks for timers that are due, `verbs`
are the runtime's. A tick, from whatever clock, only says "look": when a timer is due is decided by
Redis' clock, in the script that accepts the worker and sets the timer forward. So nothing fires early
or twice, with any number of ringers.
"""

from __future__ import annotations

from colony.triggers.spec import (
    EventConfig,
    TimerConfig,
    TriggerSpec,
    TriggerType,
    WebhookConfig,
)

__all__ = ["EventConfig", "TimerConfig", "TriggerSpec", "TriggerType", "WebhookConfig"]
