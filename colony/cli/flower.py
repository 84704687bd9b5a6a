"""`colony flower`: Celery's monitor, made to show agents."""

from __future__ import annotations

import asyncio
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from colony.cli.connection import open_runtime, settings_of
from colony.cli.options import BrokerUrl, ColonyName, LogLevel, NodeLogLevel, RedisUrl
from colony.cli.processes import environment, python_command
from colony.errors import ColonyError


def flower(
    colony: ColonyName = None,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. Default: 127.0.0.1 (COLONY_FLOWER_HOST). Put a proxy with TLS in front of "
            "any other.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Default: 5555 (COLONY_FLOWER_PORT); 0: any free one."),
    ] = None,
    basic_auth_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Who may look: user:password, one in a line (COLONY_FLOWER_BASIC_AUTH_FILE; or "
            "COLONY_FLOWER_BASIC_AUTH).",
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth",
            help="Let everybody on this machine in. Refused on an address that others can reach.",
        ),
    ] = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Show, and let nobody stop anything.")
    ] = False,
    db: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", dir_okay=False, help="Keep what was heard here over a restart."
        ),
    ] = None,
    loglevel: NodeLogLevel = LogLevel.INFO,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Start Flower, Celery's monitor: each agent with its state, progress, time and tree, and a button that
    stops it.

    It needs credentials, or --no-auth. It shows what happens while it runs (with --db also before):
    `colony list` and `colony top` show what there is.
    """
    settings = settings_of(redis_url, broker_url)
    if find_spec("flower") is None:
        raise ColonyError("colony flower needs Flower: pip install 'colony[flower]'")
    if colony is None:

        async def only_one() -> str:
            async with open_runtime(None, settings) as runtime:
                return runtime.colony_id

        colony = asyncio.run(only_one())
    given = {
        "COLONY_FLOWER_HOST": host,
        "COLONY_FLOWER_PORT": port,
        "COLONY_FLOWER_BASIC_AUTH_FILE": basic_auth_file,
        "COLONY_FLOWER_NO_AUTH": no_auth or None,
        "COLONY_FLOWER_READ_ONLY": read_only or None,
        "COLONY_FLOWER_DB": db,
        "COLONY_NAME": colony,
    }
    os.environ.update(environment(redis_url, broker_url))
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    command = python_command("celery", *flower_arguments(loglevel.value))
    sys.stdout.flush()
    os.execv(command[0], command)


def flower_arguments(loglevel: str) -> list[str]:
    """What Celery is started with to become Flower; everything else comes from the environment."""
    config = Path(__file__).resolve().parents[1] / "flower" / "config.py"
    return [
        "--app",
        "colony.flower.app",
        "flower",
        f"--conf={config}",
        f"--logging={loglevel}",
    ]
