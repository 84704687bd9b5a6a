"""The configuration that Flower executes: ``flower --conf=…/colony/flower/config.py``, or a file that says
``from colony.flower.config import *``. Its names are Flower's options.

Raises SystemExit with the reason where anybody could come in: without credentials it listens on loopback
alone, and only if that is asked for.
"""

from __future__ import annotations

import asyncio

from pydantic import ValidationError
from tornado.ioloop import IOLoop
from tornado.options import options

from colony.errors import ConfigurationError
from colony.flower import hearing, screen
from colony.flower.settings import FlowerSettings
from colony.health import LoopHealth
from colony.systemd import Notifier

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


try:
    _chosen = _settings()
    address = options.address or _chosen.host
    basic_auth = _chosen.who_may_look(address, options.basic_auth or [], oauth=bool(options.auth))
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
hearing.install()


def _tell_systemd() -> None:
    Notifier(LoopHealth(asyncio.get_running_loop())).start()


IOLoop.current().add_callback(_tell_systemd)  # once it turns, Flower listens
