"""`colony doctor`: what is wrong, and for each finding what to do about it.

What it says of Redis itself is `doctor_redis`; what belongs to the colony comes from the runtime.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from colony.cli.connection import settings_of
from colony.cli.doctor_redis import examine_server, refuses_writes
from colony.cli.durations import short_duration
from colony.cli.findings import Finding, Level
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, one_line, plain, say
from colony.credentials import Keyring
from colony.definition import Colony, load_colony
from colony.errors import ColonyError, CredentialError
from colony.listing import WorkerSummary
from colony.models import FleetStats, NodeInfo, WorkerState
from colony.operations import list_colonies
from colony.runtime import ColonyRuntime
from colony.settings import Settings

LONG_WAIT_SECONDS = 60.0
LAG_SECONDS = 1.0
SILENT_SECONDS = 10.0
REJECTED_SHOWN = 5
LOOKED_AT = 500
"""How many of those that wait are asked what for, the oldest."""
VAULT_SECONDS = 5.0


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
        for finding in await _credentials(loaded):
            yield finding
    reachable, writable = True, True
    for role, url in {"Redis": settings.store_url, "broker": settings.queue_url}.items():
        if role == "broker" and url == settings.store_url:
            continue
        for finding in await examine_server(role, url, settings.connect_timeout.total_seconds()):
            yield finding
            reachable = reachable and finding.check != f"{role} reachable"
            writable = writable and not (role == "Redis" and refuses_writes(finding))
    if not reachable:
        return
    try:
        for finding in await _examine_colony(colony, loaded, settings, writable=writable):
            yield finding
    except ColonyError as error:
        remedy = None if writable else "mend first what keeps Redis from writing: see above"
        yield Finding("colony", Level.PROBLEM, str(error), remedy)


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


async def _credentials(loaded: Colony | None) -> list[Finding]:
    """Which references resolve on this machine: names only."""
    if loaded is None or not loaded.credentials:
        return []
    keyring = Keyring(loaded.credentials, loaded.vaults)
    found = await asyncio.gather(*(_problem_of(keyring, alias) for alias in loaded.credentials))
    problems = [problem for problem in found if problem is not None]
    if not problems:
        aliases = ", ".join(loaded.credentials)
        return [Finding("credentials", Level.OK, f"all resolve on this machine: {aliases}")]
    remedy = "nodes must resolve it: set the variable, or mount the file, where they start"
    return [Finding("credentials", Level.WARNING, problem, remedy) for problem in problems]


async def _problem_of(keyring: Keyring, alias: str) -> str | None:
    try:
        async with asyncio.timeout(VAULT_SECONDS):
            await keyring.value(alias)
    except CredentialError as error:
        return str(error)
    except TimeoutError:
        return f"account {alias!r}: its vault did not answer within {VAULT_SECONDS:g} s"
    return None


async def _examine_colony(
    colony: str | None, loaded: Colony | None, settings: Settings, *, writable: bool
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
        waiting = await runtime.longest_in(WorkerState.PENDING, LOOKED_AT)
        return [
            *_nodes(chosen, nodes, loaded, writable=writable),
            *_versions(nodes, waiting),
            *_queue(figures, await runtime.queue_depth()),
            *_intake(await runtime.intake_depth()),
            await _rejected(runtime),
            *_quarantine(figures),
        ]


def _nodes(
    name: str, nodes: Sequence[NodeInfo], loaded: Colony | None, *, writable: bool
) -> Iterator[Finding]:
    alive = [node for node in nodes if node.lease_seconds > 0]
    if not alive and not writable:
        yield Finding(
            "nodes",
            Level.WARNING,
            f"none of colony {name} has a lease: none can be renewed while Redis refuses writes",
            "mend Redis first, and leave the nodes that run as they are: they go on then",
        )
        return
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
    yield from _ailing(alive)
    if loaded and loaded.version not in versions:
        yield Finding(
            "definition version",
            Level.WARNING,
            f"yours is {loaded.version}, the living nodes have {', '.join(versions)}",
            "restart the nodes with yours, or look at the definition that they have",
        )


def _versions(nodes: Sequence[NodeInfo], waiting: Sequence[WorkerSummary]) -> Iterator[Finding]:
    """Workers that were refused for their definition's version, and no living node has it."""
    served = {node.version for node in nodes if node.lease_seconds > 0}
    if not served:
        return
    stuck: dict[str, list[str]] = {}
    for worker in waiting:
        what, _, version = (worker.waits_for or "").partition(" ")
        if what == "version" and version not in served:
            stuck.setdefault(version, []).append(worker.worker_id)
    for version, ids in stuck.items():
        count = f"{len(ids):,}{' or more' if len(waiting) == LOOKED_AT else ''}"
        yield Finding(
            "versions",
            Level.PROBLEM,
            f"workers that wait for a node of definition version {version}, which none has: {count}, the "
            f"oldest {ids[0]} (the nodes have {', '.join(sorted(served))})",
            f"start a node of version {version} until they have ended, or stop them (colony stop ID) and "
            "spawn them anew",
        )


def _ailing(alive: Sequence[NodeInfo]) -> Iterator[Finding]:
    """Nodes that live and do not do well."""
    for node in alive:
        if node.lag_ms > LAG_SECONDS * 1000:
            yield Finding(
                "lag",
                Level.WARNING,
                f"the agent loop of {node.node} was blocked for {node.lag_ms / 1000:.1f} s",
                "a tool or model blocks it: see the node's log, and make blocking tools plain functions "
                "(def, not async def), which run in threads",
            )
        if node.silent_ms > SILENT_SECONDS * 1000:
            yield Finding(
                "deaf node",
                Level.PROBLEM,
                f"{node.node} has heard nothing from the broker for {node.silent_ms / 1000:.0f} s",
                "it ends itself after COLONY_DEAF_AFTER: see its log, and have it started again",
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


def _intake(waiting: int) -> Iterator[Finding]:
    if waiting:
        yield Finding(
            "intake",
            Level.WARNING,
            f"{waiting:,} messages of foreign producers wait to be accepted",
            "if they do not become fewer: open the intake (colony resume), start nodes, or see a node's log",
        )


def _quarantine(figures: FleetStats) -> Iterator[Finding]:
    if figures.quarantined:
        yield Finding(
            "quarantine",
            Level.WARNING,
            f"{figures.quarantined:,} workers were lost: their nodes died under them again and again",
            "see where: colony quarantine list; then mend what kills the nodes, and colony quarantine "
            "retry or drop them",
        )


async def _rejected(runtime: ColonyRuntime) -> Finding:
    rejected = await runtime.list_rejected()
    if not rejected:
        return Finding("messages set aside", Level.OK, "none")
    shown = "; ".join(
        f"{message.at:%Y-%m-%d %H:%M:%S}Z {message.reason}: {one_line(message.message, 60)}"
        for message in rejected[:REJECTED_SHOWN]
    )
    remedy = (
        "find out who sends them: others than Colony send colony.spawn, …, to colony.<name>.intake"
    )
    return Finding("messages set aside", Level.WARNING, f"{len(rejected)}: {shown}", remedy)
