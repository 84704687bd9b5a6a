"""The commands, and the one place that turns errors into output and exit codes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from colony.cli import (
    batches,
    deliveries,
    demo,
    doctor,
    flower,
    gateway,
    limits,
    nodes,
    operators,
    producers,
    quarantine,
    subscriptions,
    tokens,
    top,
    trees,
    triggers,
    up,
    views,
)
from colony.cli.output import note
from colony.errors import ColonyError

RUN, PRODUCE, OPERATE = "Run", "Produce", "Operate"


class _ColonyGroup(TyperGroup):
    """A user's mistake is one message and exit code 1; a bug keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ColonyError as error:
            note(f"error: {error}", "red")
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


app = typer.Typer(
    name="colony",
    cls=_ColonyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run fleets of LLM agents on Celery and Redis: a task goes in, a worker runs it somewhere "
    "on the fleet, one report comes out. `colony demo` shows it in a minute.",
)


def _show_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        number = version("colony")
    except PackageNotFoundError:
        number = "(not installed: running from a source tree)"
    typer.echo(f"colony {number}")
    raise typer.Exit


@app.callback()
def _colony(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass


app.command("demo", rich_help_panel=RUN)(demo.demo)
app.command("up", rich_help_panel=RUN)(up.up)
app.command("worker", rich_help_panel=RUN)(nodes.worker)
app.command("gateway", rich_help_panel=RUN)(gateway.gateway)
app.command("beat", rich_help_panel=RUN)(nodes.beat)
app.command("flower", rich_help_panel=RUN)(flower.flower)
app.command("spawn", rich_help_panel=PRODUCE)(producers.spawn)
app.command("batch", rich_help_panel=PRODUCE)(batches.batch)
app.command("wait", rich_help_panel=PRODUCE)(producers.wait)
app.command("list", rich_help_panel=OPERATE)(views.list_workers)
app.command("show", rich_help_panel=OPERATE)(views.show)
app.command("tree", rich_help_panel=OPERATE)(trees.tree)
app.command("events", rich_help_panel=OPERATE)(operators.events)
app.command("stop", rich_help_panel=OPERATE)(operators.stop)
app.command("retry", rich_help_panel=OPERATE)(operators.retry)
app.command("stats", rich_help_panel=OPERATE)(operators.stats)
app.command("top", rich_help_panel=OPERATE)(top.top)
app.command("limit", rich_help_panel=OPERATE)(limits.limit)
app.command("pause", rich_help_panel=OPERATE)(operators.pause)
app.command("resume", rich_help_panel=OPERATE)(operators.resume)
app.command("drain", rich_help_panel=OPERATE)(nodes.drain)
app.add_typer(triggers.app, name="trigger", rich_help_panel=OPERATE)
app.add_typer(quarantine.app, name="quarantine", rich_help_panel=OPERATE)
app.add_typer(deliveries.app, name="deliveries", rich_help_panel=OPERATE)
app.add_typer(subscriptions.app, name="subscription", rich_help_panel=OPERATE)
app.add_typer(tokens.app, name="token", rich_help_panel=OPERATE)
app.command("doctor", rich_help_panel=OPERATE)(doctor.doctor)


def main() -> None:
    """The console script ``colony``."""
    app(prog_name="colony")
