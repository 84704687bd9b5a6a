"""The gateway as a process: uvicorn around the app."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket

import uvicorn
from pydantic import ValidationError

from colony import logs, tracing
from colony.errors import ConfigurationError
from colony.gateway.app import create_app
from colony.gateway.settings import GatewaySettings
from colony.health import LoopHealth
from colony.settings import Settings
from colony.systemd import Notifier
from colony.urls import is_loopback


def settings_from(**given: str | int | list[str] | None) -> GatewaySettings:
    """The settings, those given before the environment. Raises `ConfigurationError` that names the
    variable and what is wrong with its value."""
    try:
        return GatewaySettings.model_validate({k: v for k, v in given.items() if v is not None})
    except ValidationError as error:
        wrong = (
            f"COLONY_GATEWAY_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}"
            for e in error.errors()
        )
        raise ConfigurationError("; ".join(wrong)) from error


def serve(settings: Settings, gateway: GatewaySettings, *, guarded: bool, log_level: str) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises `ConfigurationError` for a gateway without tokens that others
    could reach."""
    if not guarded and not is_loopback(gateway.host):
        raise ConfigurationError(
            f"--no-auth is for this machine alone, and {gateway.host} can be reached from others: "
            "listen on 127.0.0.1, or leave it out and make tokens with `colony token create`"
        )
    logs.configure(settings.log_format, log_level.upper())
    logging.getLogger("uvicorn.access").addFilter(_without_query)
    tracing.enable(settings, "gateway")
    server = _Server(
        uvicorn.Config(
            create_app(settings, gateway, guarded=guarded),
            host=gateway.host,
            port=gateway.port,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=gateway.max_connections,
            h11_max_incomplete_event_size=gateway.max_header_bytes + gateway.max_url_bytes + 1024,
            timeout_graceful_shutdown=max(1, round(gateway.shutdown_grace.total_seconds())),
        )
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again when it has ended
        signal.signal(number, lambda *_: None)
    server.run()
    if not server.started:
        raise ConfigurationError(f"the gateway could not listen on {gateway.host}:{gateway.port}")


def _without_query(record: logging.LogRecord) -> bool:
    """What webhooks have in their query is not told: some senders put their secret there."""
    match record.args:
        case (client, method, str(path), *rest) if "/hooks/" in path:
            record.args = (client, method, path.partition("?")[0], *rest)
    return True


class _Server(uvicorn.Server):
    """Tells systemd once it listens, while its loop turns, and when it ends."""

    _notifier: Notifier | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._notifier = Notifier(LoopHealth(asyncio.get_running_loop()))
            self._notifier.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._notifier is not None:
            self._notifier.stop()
        await super().shutdown(sockets)
