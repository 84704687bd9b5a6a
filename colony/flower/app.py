"""Flower's Celery application: ``celery -A colony.flower.app flower``, with COLONY_NAME=<colony>.

It knows the broker and the queue, and no tasks: Flower can look, and revoke, which nodes turn into a stop.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from colony.definition import NAME
from colony.doorbell import celery_app
from colony.flower.control import POLICY, Control
from colony.settings import Settings


def make_app() -> Celery:
    """The application of the colony that COLONY_NAME names."""
    name = os.environ.get("COLONY_NAME", "")
    if not NAME.fullmatch(name):
        raise SystemExit(
            f"colony: Flower shows one colony: set COLONY_NAME to its name (found {name!r})"
        )
    app = celery_app(name, Settings())
    app.control_cls = Control
    app.conf.update(timezone="UTC", enable_utc=True)
    app.conf.broker_transport_options.update(POLICY)
    return app


def __getattr__(name: str) -> Any:
    """`app` is made when Celery asks for it."""
    if name in ("app", "celery"):
        made = globals()["app"] = make_app()
        return made
    raise AttributeError(name)
