"""Redis answers, but refuses: which trouble that is, in an error of its own with what to do.

Told apart from absence, which is another error with another remedy. All of these can be mended while
Colony runs: a node waits for it, and goes on; a producer is told.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from redis import exceptions as redis_errors

from colony.errors import (
    StoreDenied,
    StoreLoading,
    StoreOutOfMemory,
    StoreReadOnly,
    StoreUnavailable,
    StoreUntrusted,
)

REFUSED = re.compile(r"'([\w|-]+)' command")
"""How Redis names a command that a user may not give."""


class _Trouble(NamedTuple):
    words: tuple[str, ...]
    error: type[StoreUnavailable]
    what: str


_TROUBLES = (
    _Trouble(
        ("command not allowed when used memory",),
        StoreOutOfMemory,
        "is out of memory and refuses to write: raise maxmemory (redis-cli CONFIG SET maxmemory); keep "
        "fewer results from then on (result_retention_max, result_retention_ttl)",
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
        ("DB index is out of range", "invalid DB index"),
        StoreDenied,
        "has no database of the number in the URL: name one that it has, redis://host:6379/0 (it has as "
        "many as its setting `databases` says, from 0 on)",
    ),
    _Trouble(
        ("max number of clients reached",),
        StoreUnavailable,
        "takes no more connections: raise maxclients (redis-cli CONFIG SET maxclients), or find out who "
        "holds them (redis-cli CLIENT LIST)",
    ),
    _Trouble(
        ("CERTIFICATE_VERIFY_FAILED",),
        StoreUntrusted,
        "has a certificate that is not trusted here: set COLONY_REDIS_TLS_CA to the file of the CA that "
        "signed it",
    ),
    _Trouble(
        ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE"),
        StoreUntrusted,
        "wants a certificate from its clients: set COLONY_REDIS_TLS_CERT and COLONY_REDIS_TLS_KEY",
    ),
    _Trouble(
        ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "CERTIFICATE_EXPIRED"),
        StoreUntrusted,
        "does not trust our certificate: mend COLONY_REDIS_TLS_CERT and COLONY_REDIS_TLS_KEY",
    ),
    _Trouble(
        ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"),
        StoreUntrusted,
        "does not speak TLS on this port: name its TLS port, or expect no TLS, redis://",
    ),
)
"""Words of a refusal, anywhere in it: Redis 6.2 has them in the middle of a script's error."""


_NOT_PERMITTED = ("has no permissions", "No permissions", "NOPERM", "The user executing the script")


def trouble_of(
    error: BaseException, where: str, who: str = "Redis", *, user: str = "", command: str = ""
) -> StoreUnavailable | None:
    """The error to raise for a refusal of the server at `where`; None when it is something else. `user`
    is whom we are to Redis, `command` what was asked for, where that is known."""
    text = str(error)
    if any(words in text for words in _NOT_PERMITTED):
        made: StoreUnavailable = StoreDenied(
            f"{who} at {where} {_not_permitted(text, user, command)}"
        )
        made.__cause__ = error
        return made
    if "IP address mismatch" in text or "Hostname mismatch" in text:
        made = StoreUntrusted(
            f"{who} at {where} has a certificate for another host: name that host in the URL, or set "
            "COLONY_REDIS_TLS_VERIFY=ca to trust whatever the CA has signed"
        )
        made.__cause__ = error
        return made
    for trouble in _TROUBLES:
        if any(words in text for words in trouble.words):
            made = trouble.error(f"{who} at {where} {trouble.what}")
            made.__cause__ = error
            return made
    if isinstance(error, redis_errors.AuthenticationError):
        return StoreDenied(f"{who} at {where} refuses to log in: {text}")
    return None


def _not_permitted(text: str, user: str, command: str) -> str:
    """Who may not do what, as far as Redis or we know it."""
    found = REFUSED.search(text)
    what = f"the command {found[1]!r}" if found else command or "a command"
    if "access" in text and "key" in text:
        what += " on one of its keys"
    elif "channel" in text:
        what += " on its channel"
    named = f"user {user!r}" if user else "this user"
    return f"refuses {named} {what}: extend its ACL (deploy/redis/users.acl), or use the URL of another user"
