"""The app: what is made once, the layers around the routes, and how it begins and ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from colony.definition import load_colony
from colony.errors import DefinitionError, StoreUnavailable
from colony.gateway import describe, problems
from colony.gateway.auth import Doorkeeper
from colony.gateway.colonies import Colonies
from colony.gateway.limits import Limits
from colony.gateway.measures import Measured, Metrics
from colony.gateway.routes import PREFIX, ROUTERS
from colony.gateway.settings import GatewaySettings
from colony.pipeline.registry import code_of, in_order
from colony.pipeline.stage import Stage
from colony.settings import Settings

log = logging.getLogger("colony.gateway")

ABOUT = """The verbs of a fleet over HTTP. A colony is a named fleet, a worker one run of an agent; it ends
with one report. Errors are problem details (RFC 9457). Lists come in pages with cursors."""


def create_app(
    settings: Settings | None = None,
    gateway: GatewaySettings | None = None,
    *,
    guarded: bool = True,
    pipelines: Mapping[str, Sequence[Stage]] | None = None,
) -> FastAPI:
    """The gateway as an ASGI app; settings come from the environment where none are given.

    `guarded=False` lets everybody on this machine do everything without a token, and nobody else.
    `pipelines` are, by colony, the stages of its pipeline that are code (`colony.pipeline`), beside those
    of the definitions that the settings name. Raises `DefinitionError` where one of these is none, or two
    are of one colony, or two stages of a colony have one name.
    """
    settings, gateway = settings or Settings(), gateway or GatewaySettings()
    stages = _stages(gateway.definitions, pipelines or {})

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        colonies = Colonies(settings, gateway, stages)
        app.state.colonies, app.state.gateway = colonies, gateway
        app.state.doorkeeper = Doorkeeper(colonies, gateway, guarded)
        app.state.ending = asyncio.Event()

        def end() -> None:
            app.state.ending.set()
            colonies.end_streams()

        try:
            with _told_to_end(end):
                yield
        finally:
            end()
            await colonies.close()

    app = FastAPI(
        title="Colony",
        version=_version(),
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # they load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    for router in ROUTERS:
        app.include_router(router, prefix=PREFIX)
    app.add_api_route("/livez", _live, include_in_schema=False)
    app.add_api_route("/readyz", _ready, include_in_schema=False)
    metrics = Metrics(settings, gateway)
    app.add_api_route("/metrics", metrics.answer, include_in_schema=False, response_model=None)
    app.add_middleware(Limits, settings=gateway)
    app.add_middleware(Measured)
    problems.install(app)
    describe.install(app)
    return app


def _stages(
    definitions: Sequence[str], pipelines: Mapping[str, Sequence[Stage]]
) -> dict[str, list[Stage]]:
    """The stages that are code, by colony: those of its definition and those that were given."""
    defined: dict[str, str] = {}
    found: dict[str, list[Stage]] = {}
    for path in definitions:
        colony = load_colony(path)
        if colony.name in defined:
            raise DefinitionError(
                f"{defined[colony.name]} and {path} both define the colony {colony.name!r}: give the gateway "
                "one definition of each"
            )
        defined[colony.name] = path
        found[colony.name] = code_of(colony.pipeline)
    for name, given in pipelines.items():
        found[name] = [*found.get(name, ()), *given]
    return {name: in_order(stages) for name, stages in found.items()}


async def _live() -> dict[str, bool]:
    """The process answers."""
    return {"ok": True}


async def _ready(request: Request) -> JSONResponse:
    """It can do its work: Redis answers, and it is not about to end."""
    reasons = ["the gateway ends"] if request.app.state.ending.is_set() else []
    try:
        await request.app.state.colonies.ping()
    except StoreUnavailable as error:
        log.warning("not ready: %s", error)
        reasons.append("Redis does not answer")
    return JSONResponse({"ok": not reasons, "reasons": reasons}, 503 if reasons else 200)


@contextmanager
def _told_to_end(callback: Callable[[], None]) -> Iterator[None]:
    """Call back when the server is told to end, before it waits for its connections: those that wait
    for an event would keep it for ever. The server's own handlers are called as they were."""
    ours: dict[signal.Signals, tuple[Any, Any]] = {}
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            theirs = signal.getsignal(number)
            if callable(theirs):
                ours[number] = (_before(loop, callback, theirs), theirs)
                signal.signal(number, ours[number][0])
    try:
        yield
    finally:
        for number, (handler, before) in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before)


def _before(
    loop: asyncio.AbstractEventLoop, callback: Callable[[], None], theirs: Callable[..., Any]
) -> Callable[[int, FrameType | None], None]:
    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(callback)
        theirs(number, frame)

    return handle


def _version() -> str:
    try:
        return version("colony")
    except PackageNotFoundError:
        return "0"
