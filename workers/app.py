"""A node's Celery application: ``celery -A workers.app worker`` with COLONY_APP=module:colony.

Celery acknowledges early and recovers nothing: the doorbell is a hint, the store's leases recover.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import Celery, signals
from celery.apps import worker as program

from colony import logs, tracing
from colony.definition import load_colony
from colony.doorbell import TICK, celery_app
from colony.errors import ColonyError, DefinitionError
from colony.settings import Settings
from workers import control
from workers.node import drain, steps
from workers.node.context import NodeContext
from workers.pool import AsyncioPool
from workers.tasks import register_tasks

POOL = "workers.pool:AsyncioPool"


def make_app(settings: Settings) -> Celery:
    """The application of a node that serves ``settings.app``. Raises a `ColonyError`."""
    if not settings.app:
        raise DefinitionError(
            "no definition to serve: set COLONY_APP=module:attribute, such as colony.examples.survey:colony"
        )
    colony = load_colony(settings.app)
    app = celery_app(colony.name, settings)
    patience = settings.connect_timeout.total_seconds()
    app.conf.update(
        broker_transport="workers.transport:Transport",
        worker_consumer="workers.consumer:Consumer",
        worker_pool=POOL,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_send_task_events=True,
        worker_deduplicate_successful_tasks=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        beat_scheduler="workers.beat:Scheduler",
        beat_max_loop_interval=1,
        beat_schedule={
            TICK: {"task": TICK, "schedule": 1.0, "options": {"expires": 5, "ignore_result": True}}
        },
        redbeat_redis_url=settings.queue_url,
        redbeat_key_prefix=f"colony.{colony.name}.beat:",
        redbeat_lock_timeout=6,
        redbeat_redis_options={"socket_timeout": patience, "socket_connect_timeout": patience},
        colony_id=colony.name,
        colony_health_host=settings.health_host,
        colony_health_port=settings.health_port,
        colony_tracer_threads=settings.tracer_threads,
        colony_drain_grace_seconds=settings.drain_grace.total_seconds(),
    )
    context = NodeContext(colony, settings, app)
    register_tasks(app, context)
    drain.install(app, context.drain)
    steps.install(app, context)
    control.install(context)
    _size_by_default(app, settings)
    _log_by(app, settings)
    tracing.enable(settings, "node")
    signals.worker_process_shutdown.connect(lambda **_: tracing.end(), weak=False)
    return app


def _log_by(app: Celery, settings: Settings) -> None:
    """Celery leaves its logging to us; what is printed is logged, as it does by default."""

    def set_up(loglevel: int | None, logfile: str | None, **_: Any) -> None:
        logs.about(colony=str(app.conf.colony_id))
        logs.configure(settings.log_format, loglevel or "INFO", logfile=logfile)
        if sys.stdout is sys.__stdout__:
            app.log.redirect_stdouts("WARNING")
        if settings.log_format == "json":
            program.safe_say = _say_nothing
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).addFilter(_is_no_mere_tick)

    signals.setup_logging.connect(set_up, weak=False)


def _say_nothing(*_: object) -> None:
    """Celery's words at a signal go round every log, and are no JSON."""


def _is_no_mere_tick(record: logging.LogRecord) -> bool:
    """Two lines a second that a tick came and went would bury all others."""
    told = record.args
    return record.levelno > logging.INFO or not isinstance(told, dict) or told.get("name") != TICK


def _size_by_default(app: Celery, settings: Settings) -> None:
    """Celery's default concurrency is the number of cores: right for prefork, not for coroutines."""

    def size(conf: Any, options: dict[str, Any], **_: Any) -> None:
        pool = options.get("pool") or conf.worker_pool
        if pool in (AsyncioPool, POOL) and not options.get("concurrency"):
            conf.worker_concurrency = settings.concurrency

    signals.celeryd_init.connect(size, weak=False)


def _app_of_environment() -> Celery:
    try:
        return make_app(Settings())
    except ColonyError as error:
        raise SystemExit(f"colony: {error}") from error


def __getattr__(name: str) -> Any:
    """`app` is made when Celery asks for it, so that importing this module needs no definition."""
    if name in ("app", "celery"):
        made = globals()["app"] = _app_of_environment()
        return made
    raise AttributeError(name)
