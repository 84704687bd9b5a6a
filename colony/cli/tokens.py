"""`colony token`: who may ask what through the gateway."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from colony.cli.connection import open_runtime, settings_of
from colony.cli.durations import age, duration_option
from colony.cli.options import AsJson, BrokerUrl, ColonyName, RedisUrl
from colony.cli.output import emit_json, note, say, stdout, table
from colony.tokens import NewToken, Scope, TokenInfo

app = typer.Typer(
    no_args_is_help=True,
    help="API tokens for the HTTP gateway: each for one colony, with the scopes you give it.",
)


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will hold it.")],
    scope: Annotated[
        list[Scope],
        typer.Option(
            "--scope",
            "-s",
            help="What it allows; can be repeated. read: look and follow events; spawn; stop; admin: "
            "everything.",
        ),
    ],
    expires: Annotated[
        timedelta | None,
        typer.Option(
            parser=duration_option,
            metavar="DURATION",
            help="When it ends, such as 30d. Default: when it is revoked.",
        ),
    ] = None,
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print it. It is shown this once: only its hash is kept."""

    async def run() -> NewToken:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.create_token(name, scope, expires_in=expires)

    token = asyncio.run(run())
    if as_json:
        emit_json(token)
    else:
        say(token.token)
        note(f"This is the only time it is shown. Its id, to revoke it: {token.token_id}")


@app.command("list")
def list_tokens(
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """List the tokens that were not revoked, oldest first."""

    async def run() -> list[TokenInfo]:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            return await runtime.list_tokens()

    tokens = asyncio.run(run())
    if as_json:
        emit_json(tokens)
    elif not tokens:
        say("There are no tokens. Make one with: colony token create NAME --scope read")
    else:
        columns = ("TOKEN", "SCOPES", "AGE", "EXPIRES", "NAME")
        stdout().print(table(*columns, rows=map(_row, tokens)))


def _row(token: TokenInfo) -> tuple[str | Text, ...]:
    expires = f"{token.expires_at:%Y-%m-%d %H:%M}Z" if token.expires_at else "never"
    return token.token_id, ",".join(token.scopes), age(token.created_at), expires, token.name


@app.command("revoke")
def revoke(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="The ids of tokens.")],
    colony: ColonyName = None,
    redis_url: RedisUrl = None,
    broker_url: BrokerUrl = None,
    as_json: AsJson = False,
) -> None:
    """End tokens: the next request with one is refused, and event streams that it has open end."""

    async def run() -> None:
        async with open_runtime(colony, settings_of(redis_url, broker_url)) as runtime:
            for token_id in dict.fromkeys(ids):
                await runtime.revoke_token(token_id)

    asyncio.run(run())
    emit_json({"revoked": ids}) if as_json else say(f"Revoked: {', '.join(ids)}.")
