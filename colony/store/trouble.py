"""Redis answers, but refuses: which trouble that is, in an error of its own with what to do.

Told apart from absence, which is another error with another remedy. All of these can be mended while
Colony runs: a node waits for it, and goes on; a producer is told.
"""

from __future__ import annotations

from typing import NamedTuple

from redis import exceptions as redis_errors

from colony.errors import (
    StoreDenied,
    StoreLoading,
    StoreOutOfMemory,
    StoreReadOnly,
    StoreUnavailable,
)


class _Trouble(NamedTuple):
    words: tuple[str, ...]
    error: type[StoreUnavailable]
    what: str


_TROUBLES = (
    _Trouble(
        ("command not allowed when used memory",),
        StoreOutOfMemory,
        "is out of memory and refuses to write: raise maxmemory (redis-cli CONFIG SET maxmemory), or "
        "keep fewer results (result_retention_max)",
    ),
    _Trouble(
        ("write against a read only replica", "Link with MASTER is down"),
        StoreReadOnly,
        "is a read-only replica: point COLONY_REDIS_URL at the primary, or promote this one (redis-cli "
        "REPLICAOF NO ONE)",
    ),
    _Trouble(
        ("MISCONF",),
        StoreReadOnly,
        "cannot save to its disk and refuses to write: see its log, and make room",
    ),
    _Trouble(
        ("Not enough good replicas", "NOREPLICAS"),
        StoreReadOnly,
        "has fewer replicas than its min-replicas-to-write and refuses to write: start them, or lower it",
    ),
    _Trouble(
        ("is loading the dataset", "LOADING"),
        StoreLoading,
        "has just started and still loads its data: try again in a moment",
    ),
    _Trouble(
        ("Authentication required", "already authenticated", "NOAUTH"),
        StoreDenied,
        "wants a password: put it into the URL, redis://user:password@host:6379/0",
    ),
    _Trouble(
        ("invalid username-password", "invalid password", "WRONGPASS", "without any password"),
        StoreDenied,
        "does not take this user and password: mend them in the URL, redis://user:password@host:6379/0",
    ),
    _Trouble(
        ("has no permissions", "NOPERM"),
        StoreDenied,
        "refuses this user: extend its ACL",
    ),
)
"""Words of a refusal, anywhere in it: Redis 6.2 has them in the middle of a script's error."""


def trouble_of(error: BaseException, where: str, who: str = "Redis") -> StoreUnavailable | None:
    """The error to raise for a refusal of the server at `where`; None when it is something else."""
    text = str(error)
    for trouble in _TROUBLES:
        if any(words in text for words in trouble.words):
            made = trouble.error(f"{who} at {where} {trouble.what}")
            made.__cause__ = error
            return made
    if isinstance(error, redis_errors.AuthenticationError):
        return StoreDenied(f"{who} at {where} refuses to log in: {text}")
    return None
