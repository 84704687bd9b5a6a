"""Every Redis key of a colony, in one place, for Python and for the scripts.

All keys of a colony share the prefix ``colony:{<id>}:`` (one hash tag: one cluster slot).

=================  ======  ====================================================  ===================
name               type    holds                                                 lives
=================  ======  ====================================================  ===================
meta               hash    definition's face, limits, generation, counters       for ever
state:<STATE>      zset    worker id → since when (ms), one per state            with its workers
listed             zset    worker id → accepted at (ms), every worker            until retention
ended              zset    worker id → ended at (ms), terminal, not in quarantine  until retention
quarantine         zset    lost worker → since when (ms)                         until dropped; quarantine_max
worker:<id>        hash    the record of a worker                                until retention
parts:<id>         list    its conversation (`colony.conversation`)              until retention
nodes              zset    node → end of its lease (ms)                          until it leaves
node:<node>        hash    what the node says of itself                          until it leaves
drained:<node>     string  when it was told to drain (ms)                        an hour
held:<node>        hash    worker id → claim token, what the node runs now       until it leaves
counted:<node>     hash    worker id → attempt in which its death was counted    a week, or till it is back
doorbells          zset    PENDING worker → when it may be rung again (ms)       while PENDING
due                zset    <kind>:<id> → when (ms); kinds: see lua/expire.lua    until it is due
idem               zset    idempotency key → since when (ms); see lua/_idem.lua  idempotency_ttl
idem_ids           hash    idempotency key → end of life (ms), first answer      idempotency_ttl
staged:<batch>     list    ids staged for one large accept                       a minute
batch:<id>         hash    the record of a batch                                 until its last member
members:<id>       list    its workers, in order                                 goes by retention
arrived:<id>       set     those of them that have ended, by name                until it is joined
capacity           zset    PARKED (capacity) worker → its turn (µs)              until admitted
line:<cap>         zset    those of them that wait under this cap → their turn   until admitted
lines              zset    cap, but the colony's → when its line was looked at   while it has a line
active             hash    agent:<name> | key:<key> → how many are active        while there are any
joins              zset    batch → since when (ms) it waits to be joined         until it is joined
children:<id>      set     the workers that a worker has spawned                 with its record
units:<id>         zset    batch in its background → 0, or since when it queues  until it is joined
outbox             zset    notice → when it is to be sent (again) (ms)           until it is sent
notices            hash    notice → what is to be sent (JSON)                    until it is sent
tried              hash    notice → how often a janitor has had it               until it is sent
deliveries         zset    webhook that is owed → since when (ms)                until delivered, or dead
dead               zset    webhook that was given up → since when (ms)           until dropped
delivery:<id>      hash    what is delivered, and how it went                    with those two
lanes              zset    origin of a URL → when to look at its lane (ms)       while it has any
lane:<origin>      zset    its deliveries → when each may be sent (ms)           while it has any
sending:<origin>   zset    those that are being sent → end of the lease (ms)     until sent, or the lease
subscriptions      zset    subscription → since when (ms)                        until removed
subscription:<id>  hash    its specification, cursor, pause and numbers          until removed
owed:<id>          set     its deliveries that are owed                          until delivered, or dead
waited             zset    worker id → until when somebody waits (ms)            a minute, renewed
triggers           hash    trigger → its specification (JSON)                    until removed
trigger:<id>       hash    its state: paused, slot, fired, missed, …             until removed
timers             zset    timer → when it is due next (ms); none while paused   until removed
ringing            zset    timer → until when a ringer has it (ms)               a second
routes             hash    path → the trigger that webhooks there fire           until removed
watchers           set     the triggers that events fire                         until removed
declared           hash    trigger → digest of its declaration                   with the definition
busy:<id>          set     its workers that have a place and have not ended      with them
fires:<id>         list    its latest fires (JSON), newest first                 until removed; the last 100
rejected           list    messages set aside, newest first                      the last 1,000
tokens             hash    API token → name, scopes, SHA-256, end (JSON)         until revoked
permits:<who>      string  a token, hook:<trigger>: requests paid until (ms)     until then
rates              zset    bucket of a rate limit → end of its window (µs)       until then; 10,000
rate:<bucket>      zset    the requests in its window → when (µs)                the window
events             stream  lifecycle events, id = generation-sequence            max_history
=================  ======  ====================================================  ===================

Channels: ``live`` (every event), ``reports`` (each report once), ``hints`` (stop and wake-up
words to the nodes). ``colony:colonies`` is the set of colony ids that a Redis knows.
"""

from __future__ import annotations

COLONIES = "colony:colonies"

PLAIN = (
    "meta",
    "listed",
    "ended",
    "quarantine",
    "nodes",
    "doorbells",
    "due",
    "idem",
    "idem_ids",
    "capacity",
    "lines",
    "active",
    "joins",
    "outbox",
    "notices",
    "tried",
    "deliveries",
    "dead",
    "lanes",
    "subscriptions",
    "waited",
    "triggers",
    "timers",
    "ringing",
    "routes",
    "watchers",
    "declared",
    "rejected",
    "tokens",
    "rates",
    "events",
)
OF_ONE = (
    "state",
    "worker",
    "parts",
    "node",
    "drained",
    "held",
    "counted",
    "staged",
    "batch",
    "members",
    "arrived",
    "children",
    "units",
    "permits",
    "rate",
    "delivery",
    "lane",
    "line",
    "sending",
    "subscription",
    "owed",
    "trigger",
    "busy",
    "fires",
)
CHANNELS = ("live", "reports", "hints")


def prefix(colony_id: str) -> str:
    """The common start of a colony's keys. Braces: a hash tag."""
    return f"colony:{{{colony_id}}}:"


class Keys:
    """The keys of one colony: ``keys("meta")``, ``keys("worker", worker_id)``."""

    __slots__ = ("prefix",)

    def __init__(self, colony_id: str) -> None:
        self.prefix = prefix(colony_id)

    def __call__(self, name: str, of: str | None = None) -> str:
        """The key `name`, or ``name:of`` for those that exist once per worker, node or state."""
        known = OF_ONE if of is not None else PLAIN + CHANNELS
        if name not in known:
            raise KeyError(
                f"no key is named {name!r}{' of one thing' if of else ''}; known: {known}"
            )
        return f"{self.prefix}{name}:{of}" if of is not None else self.prefix + name


def lua_table() -> str:
    """The same names for the scripts: ``K.meta``, ``K.worker(id)``; ``KEYS[1]`` is the prefix."""
    plain = [f"{name} = KEYS[1] .. '{name}'" for name in PLAIN + CHANNELS]
    of_one = [f"{name} = function(of) return KEYS[1] .. '{name}:' .. of end" for name in OF_ONE]
    return "local K = {" + ", ".join(plain + of_one) + "}\n"
