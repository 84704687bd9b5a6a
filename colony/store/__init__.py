"""The store: the only place that knows Redis keys.

Every state change is one Lua script, so it happens whole or not at all; the script that changes
the state also writes the event, the indexes and the counters. The record is the truth; the Celery
message is a hint that may come twice, late or never.

    accept ─▶ PENDING ─claim─▶ RUNNING ─settle─▶ COMPLETED | FAILED | STOPPED
                 ▲               │  │
                 ├─ give_back ───┘  └─ park ─▶ PARKED ─ wake ─▶ PENDING
                 └─ rescue (the node's lease ran out)

*The fence*: a claim has a token; every write by a running worker must find the state RUNNING and
its own token, or it changes nothing and its owner stops.  *Same request, same answer*: a command
may be sent twice (a lost reply), so each script recognises its own earlier success.  *One clock*:
scripts compare times with Redis' TIME and nothing else.  *User JSON is text* to the scripts.

When Redis is away, producers get `StoreUnavailable` within their patience and nodes hold their
writes; after it was away no node counts as dead for one full lease (see ``lua/sweep.lua``). What
a rescue has counted as deaths is taken back from a node that had only been cut off, or told to end
(``lua/exonerate.lua``).

Where this differs from a janitor with a lock: every node asks ``sweep``, the script answers one of
them per interval, and each due item is taken by an atomic script. There is no leader to lose.
"""

from __future__ import annotations

from colony.store.deliveries import DeliveryKeeping
from colony.store.fleet import Due, FleetKeeping
from colony.store.link import Link
from colony.store.rates import Rates
from colony.store.reads import Reads
from colony.store.tokens import Tokens
from colony.store.triggers import TriggerKeeping
from colony.store.workers import Accepted, Claim, Refusal, Ring, Stopped, WorkerTransitions

__all__ = ["Accepted", "Claim", "Due", "Link", "Refusal", "Ring", "Stopped", "Store"]


class Store(WorkerTransitions, TriggerKeeping, FleetKeeping, DeliveryKeeping, Tokens, Rates, Reads):
    """One colony's state: transitions, housekeeping and reads on one link."""
