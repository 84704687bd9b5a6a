"""What `colony doctor` says of a Redis server: version, role, memory, persistence.

It reads INFO and CONFIG GET, and tries a write that writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from colony.cli.findings import Finding, Level
from colony.errors import StoreDenied
from colony.store.keys import prefix
from colony.store.link import safe_url, user_of
from colony.store.trouble import trouble_of

OLDEST_REDIS = (6, 2)
REFUSING = (" state", " role", " disk", " writes")
"""The checks that say why a server takes no writes."""
TRIAL_KEY = prefix("doctor") + "trial"
"""A key that nobody has: SET … XX of it changes nothing, and is refused when writes are."""
NEARLY_FULL = 0.8
FULL = 0.97


async def examine_server(role: str, url: str, timeout: float) -> list[Finding]:
    """All that is to be said of one server; a check "<role> reachable" if it is not."""
    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    try:
        info = await client.info()
        config = await _configured(client)
        findings = [_version(role, url, info), *_state(role, info)]
        findings += await _writes(role, url, client, info)
        return findings + _configuration(role, config, info)
    except (RedisError, OSError) as error:
        if trouble := trouble_of(
            error, safe_url(url), user=user_of(url), command="the command 'info'"
        ):
            return [Finding(f"{role} reachable", Level.PROBLEM, str(trouble))]
        return [
            Finding(f"{role} reachable", Level.PROBLEM, f"{safe_url(url)}: {error}", _reach(error))
        ]
    finally:
        await client.aclose()


def refuses_writes(finding: Finding) -> bool:
    """Whether it says that a server takes no writes now."""
    return finding.level is Level.PROBLEM and finding.check.endswith(REFUSING)


async def _writes(
    role: str, url: str, client: redis.Redis, info: Mapping[str, Any]
) -> list[Finding]:
    """Whether it takes writes; nothing to say where it does, or where this user may not try."""
    try:
        await client.set(TRIAL_KEY, "", xx=True)
    except ResponseError as error:
        refused = trouble_of(error, safe_url(url), user=user_of(url))
        if refused is None or isinstance(refused, StoreDenied):
            return []
        return [Finding(f"{role} writes", Level.PROBLEM, f"{refused}{_why_refused(error, info)}")]
    return []


def _why_refused(error: ResponseError, info: Mapping[str, Any]) -> str:
    """What INFO knows of it."""
    if "MISCONF" in str(error) and info.get("rdb_last_bgsave_status") == "err":
        return (
            " (its last background save failed, and stop-writes-on-bgsave-error is yes; when there is room: "
            "redis-cli BGSAVE)"
        )
    if "min_slaves_good_slaves" in info:
        return f" (good replicas now: {info['min_slaves_good_slaves']})"
    return ""


def _reach(error: Exception) -> str:
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return "put the right user and password into the URL: redis://user:password@host:6379/0"
    return (
        "start it, or name the right one with --redis-url or COLONY_REDIS_URL; "
        "`colony up module:colony` brings one along"
    )


def _version(role: str, url: str, info: Mapping[str, Any]) -> Finding:
    found = str(info.get("redis_version", "unknown"))
    known = [int(n) for n in found.split(".")[:2] if n.isdigit()]
    where = f"{safe_url(url)} answers, version {found}"
    if tuple(known) >= OLDEST_REDIS:
        return Finding(role, Level.OK, where)
    return Finding(role, Level.PROBLEM, where, "upgrade to Redis 6.2 or newer, or Valkey")


async def _configured(client: redis.Redis) -> dict[str, str] | None:
    """What matters of the configuration; None where CONFIG is not allowed (managed services)."""
    try:
        answers: list[dict[Any, Any]] = [
            await client.config_get(name)
            for name in ("appendonly", "maxmemory-policy", "maxmemory")
        ]
    except ResponseError:  # NoPermissionError is one; a renamed command is an unknown one
        return None
    return {str(name): str(value) for answer in answers for name, value in answer.items()}


def _state(role: str, info: Mapping[str, Any]) -> Iterator[Finding]:
    """What keeps the server from writing now."""
    if info.get("loading"):
        yield Finding(
            f"{role} state",
            Level.PROBLEM,
            "it still loads its data",
            "wait: it refuses work until then",
        )
    if info.get("role") == "slave":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        yield Finding(
            f"{role} role",
            Level.PROBLEM,
            f"a replica of {primary}: it takes no writes",
            "name the primary with --redis-url or COLONY_REDIS_URL, or promote this one (redis-cli "
            "REPLICAOF NO ONE)",
        )
    if str(info.get("aof_last_write_status", "ok")) != "ok":
        yield Finding(
            f"{role} disk",
            Level.PROBLEM,
            "its last write to the append-only file failed: it takes no writes",
            "see its log, and make room on its disk",
        )


def _configuration(
    role: str, config: Mapping[str, str] | None, info: Mapping[str, Any]
) -> list[Finding]:
    if config is None:
        config = {
            "appendonly": "yes" if info.get("aof_enabled") else "no",
            "maxmemory-policy": str(info.get("maxmemory_policy", "unknown")),
            "maxmemory": str(info.get("maxmemory", "0")),
        }
        source = " (from INFO: this server does not allow CONFIG GET)"
    else:
        source = ""
    return [
        _persistence(role, config, source),
        _eviction(role, config, source),
        *_room(role, config, info),
    ]


def _room(role: str, config: Mapping[str, str], info: Mapping[str, Any]) -> Iterator[Finding]:
    """How near the server is to the end of its memory; nothing to say without a limit."""
    limit, used = int(config.get("maxmemory") or 0), int(info.get("used_memory", 0))
    if limit == 0:
        return
    part = used / limit
    level = Level.PROBLEM if part >= FULL else Level.WARNING if part >= NEARLY_FULL else Level.OK
    remedy = "raise maxmemory, or keep fewer results (result_retention_max, result_retention_ttl)"
    yield Finding(
        f"{role} room",
        level,
        f"{used / 2**20:,.0f} of {limit / 2**20:,.0f} MB used ({part:.0%})",
        None if level is Level.OK else f"{remedy}: at 100% it refuses all work",
    )


def _persistence(role: str, config: Mapping[str, str], source: str) -> Finding:
    check, found = (
        f"{role} persistence",
        f"appendonly {config.get('appendonly', 'unknown')}{source}",
    )
    if config.get("appendonly") == "yes":
        return Finding(check, Level.OK, found)
    remedy = (
        "accepted work is lost when this server restarts: set `appendonly yes` in its "
        "configuration (now: redis-cli CONFIG SET appendonly yes)"
    )
    return Finding(check, Level.PROBLEM, found, remedy)


def _eviction(role: str, config: Mapping[str, str], source: str) -> Finding:
    policy = config.get("maxmemory-policy", "unknown")
    check, found = f"{role} memory", f"maxmemory-policy {policy}{source}"
    if policy == "noeviction":
        return Finding(check, Level.OK, found)
    limited = config.get("maxmemory", "0") != "0"
    remedy = (
        "a full server would throw workers and queues away: set `maxmemory-policy noeviction` "
        "(now: redis-cli CONFIG SET maxmemory-policy noeviction)"
    )
    return Finding(check, Level.PROBLEM if limited else Level.WARNING, found, remedy)
