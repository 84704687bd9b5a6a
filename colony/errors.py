"""Every error Colony raises on purpose.

    ColonyError
    ├── ConfigurationError      a setting or an argument is wrong
    │   ├── DefinitionError     a colony's definition does not load or contradicts itself
    │   ├── ModelError          a model string, key or provider that cannot be used
    │   ├── CredentialError     an account that nobody knows, or whose secret is not to be had here
    │   └── PipelineIncomplete  a stage that the colony's pipeline names cannot run in this process
    ├── InvalidTask             a task, its data or an option was refused; nothing was accepted
    ├── InvalidTrigger          a trigger's specification is wrong; nothing was changed
    ├── PipelineRejected        a stage of the pipeline refused what came in; nothing was accepted
    ├── SpawnRefused            the fleet refuses new work; nothing was accepted
    │   ├── UnknownColony       no node has ever served a colony of this name here
    │   ├── NoNodes             nobody is alive who could run it, and the caller asked to be told
    │   ├── FleetFull           `max_pending` workers wait already
    │   ├── IntakePaused        an operator paused the intake
    │   ├── TriggerPaused       the trigger does not fire now
    │   ├── TriggerBusy         `max_concurrent` of the trigger's workers live, or the fleet is active
    │   └── TreeLimit           an agent wants to spawn deeper or more than its tree may
    ├── UnknownWorker           there is no such worker (or its record was retired)
    ├── UnknownBatch            there is no such batch (or its records were retired)
    ├── UnknownTrigger          there is no such trigger
    ├── UnknownNode             there is no such node (or it has ended)
    ├── UnknownSubscription     there is no such subscription
    ├── UnknownDelivery         there is no such delivery (or it has arrived)
    ├── InvalidSubscription     a subscription is wrong, or one too many; nothing was changed
    ├── UnknownToken            there is no such API token (or it was revoked)
    ├── NotEnded                the operation needs a worker that has ended
    ├── NotQuarantined          the operation needs a worker in quarantine
    ├── StoreUnavailable        Redis cannot be reached, or refuses to write
    │   ├── StoreIncompatible   Redis is too old, or was written by a newer Colony
    │   ├── StoreOutOfMemory    Redis has reached its maxmemory
    │   ├── StoreReadOnly       Redis is a replica, or cannot save: it takes no writes
    │   ├── StoreLoading        Redis has started and still loads its data
    │   ├── StoreDenied         Redis wants another user or password, or refuses this user
    │   └── StoreUntrusted      Redis and this process do not come to an agreement about TLS
    ├── StaleToken              a write came from someone who no longer owns the worker
    └── EmbeddedRedisError      the embedded Redis server failed
        └── RedisMissing        there is no Redis server on this machine to embed

A message names the thing, what was expected, what came, and what to do.
"""

from __future__ import annotations


class ColonyError(Exception):
    """Base of all errors that Colony raises on purpose; its text is fit for a user's eyes."""


class ConfigurationError(ColonyError):
    """A setting or an argument is wrong."""


class DefinitionError(ConfigurationError):
    """A colony's definition does not load or contradicts itself."""


class ModelError(ConfigurationError):
    """A model string, a key or a provider that cannot be used."""


class CredentialError(ConfigurationError):
    """An account is unknown, or the secret behind a reference is not to be had on this machine."""


class PipelineIncomplete(ConfigurationError):
    """A stage that the colony's pipeline names cannot run in this process; nothing was accepted."""


class InvalidTask(ColonyError, ValueError):
    """A task, its data or an option was refused; nothing was accepted."""


class InvalidTrigger(ColonyError, ValueError):
    """A trigger's specification is wrong; nothing was changed."""


class PipelineRejected(ColonyError):
    """A stage of the pipeline refused what came in; nothing was accepted. `stage` and `reason` say which
    and why; `retry_after`, after how many seconds it is worth asking again, where the stage knows."""

    def __init__(self, stage: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(stage, reason, retry_after)  # what a Celery client makes it of again
        self.stage = stage
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"rejected by the pipeline's stage {self.stage!r}: {self.reason}"


class SpawnRefused(ColonyError):
    """The fleet refuses new work; nothing was accepted."""


class UnknownColony(SpawnRefused):
    """No node has ever served a colony of this name in this Redis."""


class NoNodes(SpawnRefused):
    """No node of the colony is alive, and the caller asked to be told."""


class FleetFull(SpawnRefused):
    """`max_pending` workers wait already; try again later."""


class IntakePaused(SpawnRefused):
    """An operator paused the intake of this colony."""


class TriggerPaused(SpawnRefused):
    """The trigger does not fire now: it is paused, or its time has not come."""


class TriggerBusy(SpawnRefused):
    """The trigger was passed over: as many of its workers live as may, or the fleet is active."""


class TreeLimit(SpawnRefused):
    """An agent wants to spawn deeper, or more, than its tree may."""


class UnknownWorker(ColonyError, LookupError):
    """There is no such worker, or its record was retired."""


class UnknownBatch(ColonyError, LookupError):
    """There is no such batch, or its records were retired."""


class UnknownTrigger(ColonyError, LookupError):
    """There is no such trigger in this colony."""


class UnreadableTrigger(ColonyError, ValueError):
    """A trigger as it is kept is not what this version of Colony reads; `put_trigger` mends it."""


class UnknownNode(ColonyError, LookupError):
    """There is no such node, or it has ended."""


class UnknownSubscription(ColonyError, LookupError):
    """There is no such subscription in this colony."""


class UnknownDelivery(ColonyError, LookupError):
    """There is no such delivery: it has arrived, was dropped, or never was."""


class InvalidSubscription(ColonyError, ValueError):
    """A subscription is wrong, or one too many; nothing was changed."""


class UnknownToken(ColonyError, LookupError):
    """There is no such API token in this colony, or it was revoked."""


class NotEnded(ColonyError):
    """The operation needs a worker that has ended; this one has not."""


class NotQuarantined(ColonyError, LookupError):
    """The operation needs a worker in quarantine; this one is not."""


class StoreUnavailable(ColonyError, ConnectionError):
    """Redis cannot be reached, or refuses to write."""


class StoreIncompatible(StoreUnavailable):
    """Redis is too old for Colony, or its data were written by a newer Colony."""


class StoreOutOfMemory(StoreUnavailable):
    """Redis has reached its maxmemory and refuses to write; nothing was changed."""


class StoreReadOnly(StoreUnavailable):
    """Redis is a replica, or cannot save, and takes no writes; nothing was changed."""


class StoreLoading(StoreUnavailable):
    """Redis has just started and still loads its data; try again in a moment."""


class StoreDenied(StoreUnavailable):
    """Redis wants a user and password, or does not take these, or refuses this user a command, or has no
    database of this number."""


class StoreUntrusted(StoreUnavailable):
    """Redis' certificate is not trusted here, or Redis trusts none of ours, or one of both speaks no TLS."""


class StaleToken(ColonyError):
    """A write came from someone who no longer owns the worker: it changed nothing."""


class EmbeddedRedisError(ColonyError):
    """The embedded Redis server failed to start, or died."""


class RedisMissing(EmbeddedRedisError):
    """There is no Redis server on this machine that could be embedded."""
