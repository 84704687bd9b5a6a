"""`colony doctor`: what is wrong, and for each finding what to do about it.

The only command that speaks to Redis itself: it has to tell apart what the store sums up as
"unavailable". It reads INFO, CONFIG GET and nothing else; what belongs to the colony comes from
the runtime.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer
from redis import asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from rich.text import Text

from colony.cli.connection import settings_of
from colony.cli.durations import short_duration
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, one_line, plain, say
from colony.definition import Colony, load_colony
from colony.errors import ColonyError
from colony.models import FleetStats, NodeInfo
from colony.runtime import ColonyRuntime, list_colonies
from colony.settings import Settings
from colony.store.link import safe_url

OLDEST_REDIS = (6, 2)
LONG_WAIT_SECONDS = 60.0
REJECTED_SHOWN = 5


class Level(StrEnum):
    """How bad a finding is. Only a problem makes the exit code 1."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it."""

    check: str
    level: Level
    found: str
    remedy: str | None = None


def doctor(
    definition: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODULE:COLONY]", help="A definition to load and compare with the nodes."
        ),
    ] = None,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong with Redis, nodes, definition and queue, and say what to do.

    The exit code is 1 if there is a problem.
    """
    settings = settings_of(redis_url, broker_url)
    findings = asyncio.run(_examine(definition, colony, settings, talk=not as_json))
    healthy = all(finding.level is not Level.PROBLEM for finding in findings)
    if as_json:
        emit_json({"ok": healthy, "findings": [asdict(finding) for finding in findings]})
    if not healthy:
        raise typer.Exit(1)


async def _examine(
    definition: str | None, colony: str | None, settings: Settings, *, talk: bool
) -> list[Finding]:
    findings: list[Finding] = []
    async with aclosing(diagnose(definition, colony, settings)) as examination:
        async for finding in examination:
            findings.append(finding)
            if talk:
                _print(finding)
    return findings


def _print(finding: Finding) -> None:
    mark, style = {
        Level.OK: ("ok", "green"),
        Level.WARNING: ("warning", "yellow"),
        Level.PROBLEM: ("problem", "red"),
    }[finding.level]
    line = plain(f"{mark:<8}", style)
    line.append_text(plain(f" {finding.check}: {finding.found}"))
    say(line)
    if finding.remedy:
        say(Text(" " * 9 + "→ ").append_text(plain(finding.remedy)))


async def diagnose(
    definition: str | None, colony: str | None, settings: Settings
) -> AsyncGenerator[Finding]:
    """All findings, as they are made: definition, Redis, then the colony as its runtime sees it."""
    loaded: Colony | None = None
    if definition is not None:
        loaded, finding = _load(definition)
        yield finding
    reachable = True
    for role, url in {"Redis": settings.redis_url, "broker": settings.broker_url}.items():
        if url is None or (role == "broker" and url == settings.redis_url):
            continue
        for finding in await _examine_server(role, url, settings.connect_timeout.total_seconds()):
            yield finding
            reachable = reachable and finding.check != f"{role} reachable"
    if not reachable:
        return
    try:
        for finding in await _examine_colony(colony, loaded, settings):
            yield finding
    except ColonyError as error:
        yield Finding("colony", Level.PROBLEM, str(error))


def _load(path: str) -> tuple[Colony | None, Finding]:
    try:
        loaded = load_colony(path)
    except ColonyError as error:
        return None, Finding(
            "definition", Level.PROBLEM, str(error), "mend it: no node can serve it"
        )
    agents = ", ".join(loaded.agents)
    return loaded, Finding(
        "definition",
        Level.OK,
        f"{path} is colony {loaded.name}, version {loaded.version}; agents {agents}; "
        f"{len(loaded.tools)} tools",
    )


async def _examine_server(role: str, url: str, timeout: float) -> list[Finding]:
    client = redis.Redis.from_url(
        url,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    try:
        info = await client.info()
        findings = [_version(role, url, info)]
        return findings + _configuration(role, await _configured(client), info)
    except (RedisError, OSError) as error:
        return [
            Finding(f"{role} reachable", Level.PROBLEM, f"{safe_url(url)}: {error}", _reach(error))
        ]
    finally:
        await client.aclose()


def _reach(error: Exception) -> str:
    if isinstance(error, (AuthenticationError, NoPermissionError, ResponseError)):
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
    return [_persistence(role, config, source), _eviction(role, config, source)]


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


async def _examine_colony(
    colony: str | None, loaded: Colony | None, settings: Settings
) -> list[Finding]:
    names = await list_colonies(settings)
    chosen = colony or (loaded.name if loaded else None) or (names[0] if len(names) == 1 else None)
    start = "start a node: colony worker module:colony"
    if chosen is None and names:
        found = f"{len(names)} are registered: {', '.join(sorted(names))}"
        return [Finding("colony", Level.WARNING, found, "say which one to look at: --colony NAME")]
    if chosen is None:
        return [Finding("colony", Level.PROBLEM, "none is registered in this Redis", start)]
    if chosen not in names:
        found = f"{chosen} is not registered in this Redis; there are: {', '.join(names) or 'none'}"
        return [Finding("colony", Level.PROBLEM, found, start)]
    async with ColonyRuntime(chosen, settings=settings) as runtime:
        figures, nodes = await runtime.get_stats(), await runtime.list_nodes()
        return [
            *_nodes(chosen, nodes, loaded),
            *_queue(figures, await runtime.queue_depth()),
            await _rejected(runtime),
        ]


def _nodes(name: str, nodes: Sequence[NodeInfo], loaded: Colony | None) -> Iterator[Finding]:
    alive = [node for node in nodes if node.lease_seconds > 0]
    if not alive:
        yield Finding(
            "nodes",
            Level.PROBLEM,
            f"none of colony {name} is alive",
            "start one: colony worker module:colony (what was accepted waits for it)",
        )
        return
    versions = sorted({node.version for node in alive})
    slots = sum(node.concurrency for node in alive)
    yield Finding(
        "nodes",
        Level.OK,
        f"{len(alive)} alive on {len({node.host for node in alive})} hosts, {slots:,} slots, "
        f"definition version {', '.join(versions)}",
    )
    if loaded and loaded.version not in versions:
        yield Finding(
            "definition version",
            Level.WARNING,
            f"yours is {loaded.version}, the living nodes have {', '.join(versions)}",
            "restart the nodes with yours, or look at the definition that they have",
        )


def _queue(figures: FleetStats, depth: int) -> Iterator[Finding]:
    if figures.intake_paused:
        yield Finding(
            "intake", Level.WARNING, "paused: new tasks are refused", "open it: colony resume"
        )
    oldest = figures.oldest_pending_seconds
    waits = "" if oldest is None else f", the oldest for {short_duration(oldest)}"
    pending = next((n for state, n in figures.states.items() if state == "PENDING"), 0)
    found = f"messages: {depth:,}; waiting workers: {pending:,}{waits}"
    if oldest is not None and oldest > LONG_WAIT_SECONDS:
        remedy = (
            "see why one waits: colony list --status PENDING, colony show ID; more nodes take more"
        )
        yield Finding("queue", Level.WARNING, found, remedy)
    else:
        yield Finding("queue", Level.OK, found)


async def _rejected(runtime: ColonyRuntime) -> Finding:
    rejected = await runtime.list_rejected()
    if not rejected:
        return Finding("messages set aside", Level.OK, "none")
    shown = "; ".join(
        f"{message.at:%Y-%m-%d %H:%M:%S}Z {message.reason}: {one_line(message.message, 60)}"
        for message in rejected[:REJECTED_SHOWN]
    )
    remedy = "find out who sends them: only Colony's own producers may write to this queue"
    return Finding("messages set aside", Level.WARNING, f"{len(rejected)}: {shown}", remedy)
