"""`colony gateway`: the verbs of a fleet over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from colony.cli.connection import settings_of
from colony.cli.options import BrokerUrl, LogLevel, RedisUrl


def gateway(
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. Default: 127.0.0.1 (COLONY_GATEWAY_HOST). Put a proxy with TLS in "
            "front of any other.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Default: 8080 (COLONY_GATEWAY_PORT); 0: any free one."
        ),
    ] = None,
    definition: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:ATTRIBUTE",
            help="A colony whose pipeline has stages that are code, which run here "
            "(COLONY_GATEWAY_DEFINITIONS). As often as there are such colonies.",
        ),
    ] = None,
    no_auth: Annotated[
        bool,
        typer.Option(
            "--no-auth",
            help="Let everybody on this machine do everything without a token. Refused on an address "
            "that others can reach.",
        ),
    ] = False,
    loglevel: Annotated[
        LogLevel, typer.Option(case_sensitive=False, help="What the gateway logs.")
    ] = LogLevel.INFO,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
) -> None:
    """Serve the HTTP gateway until Ctrl-C or SIGTERM: all colonies of one Redis, for those who have a token.

    Make tokens with `colony token create`. The description is at /openapi.json, probes are answered at
    /livez and /readyz. Start as many as you like: they keep nothing of their own.
    """
    # The one place that needs the extra; without it this says what to install.
    from colony.gateway import serve  # noqa: PLC0415

    serve.serve(
        settings_of(redis_url, broker_url),
        serve.settings_from(host=host, port=port, definitions=definition),
        guarded=not no_auth,
        log_level=loglevel.value,
    )
