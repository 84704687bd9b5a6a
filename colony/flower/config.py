"""The configuration that Flower executes: ``flower --conf=…/colony/flower/config.py``, or a file that says
``from colony.flower.config import *``. Its names are Flower's options.

Raises SystemExit with the reason where anybody could come in: without credentials it listens on loopback
alone, and only if that is asked for.
"""

from __future__ import annotations

from pydantic import ValidationError
from tornado.options import options

from colony.errors import ConfigurationError
from colony.flower import screen
from colony.flower.settings import FlowerSettings
from colony.urls import is_loopback

__all__ = [
    "address",
    "basic_auth",
    "db",
    "format_task",
    "max_tasks",
    "persistent",
    "port",
    "read_only",
    "state_save_interval",
    "tasks_columns",
    "url_prefix",
]


def _settings() -> FlowerSettings:
    try:
        return FlowerSettings()
    except ValidationError as error:
        wrong = (
            f"COLONY_FLOWER_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}"
            for e in error.errors(include_input=False)
        )
        raise ConfigurationError("; ".join(wrong)) from error


def _who_may_look(settings: FlowerSettings, host: str, otherwise: list[str]) -> list[str]:
    """The credentials: ours, or those that Flower was given itself."""
    found = settings.credentials() or otherwise
    if found and settings.no_auth:
        raise ConfigurationError(
            "COLONY_FLOWER_NO_AUTH (--no-auth) and credentials: expected one of them"
        )
    if not found and not settings.no_auth:
        raise ConfigurationError(
            "Flower would let anybody look and stop workers. Name who may, as user:password, in "
            "COLONY_FLOWER_BASIC_AUTH, or in a file that COLONY_FLOWER_BASIC_AUTH_FILE names; or say "
            "--no-auth (COLONY_FLOWER_NO_AUTH=true) to let everybody in who is on this machine"
        )
    if not found and not is_loopback(host):
        raise ConfigurationError(
            f"--no-auth (COLONY_FLOWER_NO_AUTH) is for this machine alone, and {host or '0.0.0.0'} can be "
            "reached from others: listen on 127.0.0.1, or name who may look"
        )
    return found


try:
    _chosen = _settings()
    address = options.address or _chosen.host
    basic_auth = _who_may_look(_chosen, address, [] if options.auth else options.basic_auth or [])
except ConfigurationError as error:
    raise SystemExit(f"colony: {error}") from error

port = _chosen.port
read_only = _chosen.read_only
max_tasks = _chosen.max_tasks
persistent = _chosen.db is not None
db = str(_chosen.db or "")
state_save_interval = int(_chosen.save_interval * 1000)
url_prefix = _chosen.url_prefix
tasks_columns = screen.COLUMNS
format_task = screen.format_task
screen.install()
