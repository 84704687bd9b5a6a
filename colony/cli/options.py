"""Options that several commands share."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from colony.cli.durations import When, duration_option, when_option

CONNECTION = "Connection and output"

ColonyName = Annotated[
    str | None,
    typer.Option(
        "--colony",
        "-c",
        envvar="COLONY_NAME",
        metavar="NAME",
        help="The colony that is meant. Not needed where this Redis knows only one.",
    ),
]

RedisUrl = Annotated[
    str | None,
    typer.Option(
        envvar="COLONY_REDIS_URL",
        metavar="URL",
        show_envvar=True,
        help="The Redis that holds the store, such as redis://127.0.0.1:6379/0. One with a password belongs "
        "into the variable: other users of this machine can read command lines.",
        rich_help_panel=CONNECTION,
    ),
]

BrokerUrl = Annotated[
    str | None,
    typer.Option(
        envvar="COLONY_BROKER_URL",
        metavar="URL",
        help="A separate Redis for the queue. Default: the same one.",
        rich_help_panel=CONNECTION,
    ),
]

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON instead of text.", rich_help_panel=CONNECTION),
]

Definition = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:COLONY",
        help="Where the definition is: a module that can be imported from here, and the name of "
        "the Colony in it.",
    ),
]

Concurrency = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="How many workers each process runs at the same time. "
        "Default: 1000 (COLONY_CONCURRENCY) with the asyncio pool, the cores with the others.",
    ),
]
Processes = Annotated[
    int, typer.Option(min=1, help="Node processes; one per core is a good number.")
]


Deadline = Annotated[
    When | None,
    typer.Option(
        parser=when_option,
        metavar="WHEN",
        help="When a worker must have ended: a duration from now, or a time. Then it ends "
        "with status timeout, also one that still waits.",
    ),
]
NotBefore = Annotated[
    When | None,
    typer.Option(parser=when_option, metavar="WHEN", help="Not to be started before this."),
]
SoftDeadline = Annotated[
    timedelta | None,
    typer.Option(
        parser=duration_option,
        metavar="DURATION",
        help="After this, from now, the model is told, in its next turn, to come to an end. More than "
        "--not-before.",
    ),
]
Priority = Annotated[
    int,
    typer.Option(
        help="Who lines up for a place (colony limit): a point is worth a minute of waiting."
    ),
]
ConcurrencyKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Of workers with one key at most max_concurrent_per_key run at once; others line up.",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", help="A repeated call with the same key gives the first one's ids."
    ),
]
CorrelationId = Annotated[
    str | None, typer.Option(metavar="ID", help="An id of yours that all events carry.")
]
Queue = Annotated[
    bool, typer.Option("--queue", help="Accept it although no node is alive: it waits for one.")
]


class Pool(StrEnum):
    """What runs the workers of a node."""

    ASYNCIO = "asyncio"
    THREADS = "threads"
    PREFORK = "prefork"
    SOLO = "solo"


class LogLevel(StrEnum):
    """What a node logs."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


NodeLogLevel = Annotated[LogLevel, typer.Option(case_sensitive=False, help="What the node logs.")]
