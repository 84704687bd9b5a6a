"""Traces by OpenTelemetry (the extra ``otel``; COLONY_TRACING): one for a tree of workers, across processes.

    producer, gateway, trigger   create_agent   ─▶ `traceparent` in the worker's record
    node, for each slice         invoke_agent   its parent is who spawned the worker, also after a rescue
      each try of a question     chat           attributes by the GenAI conventions (gen_ai.…); never a text
      each call of a tool        execute_tool   and below it what the tool itself traces
        that spawns              create_agent   … and so on, down the tree

A `traceparent` that comes in (a header of HTTP or of a Celery message, or the span that is current where
`ColonyRuntime.spawn` is called) is continued; a worker of whom nobody brought one begins a trace whose id
follows from that of its tree, so that all its slices are in one. With tracing off `traceparent` is still
handed down, and a span costs a function call. A slice whose node is killed leaves no span of its own: what
it had ended is in the trace.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from colony.errors import ConfigurationError
from colony.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
Attributes = Mapping[str, str | int | float | bool | tuple[str, ...]]


class NoSpan:
    """What a span is where nothing is traced."""

    def set(self, attributes: Attributes) -> None:
        """Nothing."""

    def fail(self, kind: str) -> None:
        """Nothing."""


class LiveSpan(NoSpan):
    """A span that is recorded."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""
        self._span.set_attributes(dict(attributes))

    def fail(self, kind: str) -> None:
        """It failed: a short word of what kind, never what a model or a tool has said."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 (only where it is installed)

        self._span.set_attribute("error.type", kind)
        self._span.set_status(StatusCode.ERROR)


OFF: Final[AbstractContextManager[NoSpan]] = nullcontext(NoSpan())

_tracer: Tracer | None = None
_inherited: ContextVar[str | None] = ContextVar("traceparent", default=None)


def enable(settings: Settings, role: str) -> None:
    """Trace from now on in this process, if the settings say so; again: nothing.

    An application that has set a provider of its own gets our spans there. Raises `ConfigurationError`
    where OpenTelemetry's SDK is not installed.
    """
    global _tracer
    if not settings.tracing or _tracer is not None:
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise ConfigurationError("COLONY_TRACING needs OpenTelemetry: pip install 'colony[otel]'")
    from opentelemetry import trace  # noqa: PLC0415 (half a second to import)
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
        BatchSpanProcessor,
        SimpleSpanProcessor,
    )

    if isinstance(theirs := trace.get_tracer_provider(), TracerProvider):
        _tracer = theirs.get_tracer("colony")
        return
    given = Resource.create()  # OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES
    name = str(given.attributes.get("service.name", ""))
    if not name or name.startswith("unknown_service"):
        given = given.merge(Resource({"service.name": f"colony-{role}"}))
    provider = TracerProvider(resource=given)
    if settings.trace_file is None:
        provider.add_span_processor(BatchSpanProcessor(_collector()))
    else:
        provider.add_span_processor(SimpleSpanProcessor(_file(settings.trace_file)))
    trace.set_tracer_provider(provider)  # for what tools trace themselves
    _tracer = provider.get_tracer("colony")


def _collector() -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
    except ImportError as error:
        raise ConfigurationError(
            "COLONY_TRACING needs an exporter: pip install 'colony[otel]' (or set COLONY_TRACE_FILE)"
        ) from error
    return OTLPSpanExporter()


def _file(path: Path) -> SpanExporter:
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

    out = path.open("a", buffering=1)
    return ConsoleSpanExporter(out=out, formatter=lambda span: span.to_json(indent=None) + "\n")


def span(
    name: str,
    attributes: Attributes,
    *,
    kind: str = "INTERNAL",
    parent: str | None = None,
    expected: tuple[type[BaseException], ...] = (),
) -> AbstractContextManager[NoSpan]:
    """A span around what is done in here, below the current one or `parent` (a traceparent). What it
    raises is a failure, but for what is `expected`."""
    if _tracer is None:
        return OFF
    return _recorded(_tracer, name, attributes, kind, parent, expected)


def end() -> None:
    """Send what has ended, for a process that ends without Python's own goodbye: prefork's children."""
    if _tracer is not None:
        from opentelemetry import trace  # noqa: PLC0415 (see `enable`)

        provider: Any = trace.get_tracer_provider()
        provider.shutdown()


def is_on() -> bool:
    """Whether this process traces: for whoever would compute attributes for nothing."""
    return _tracer is not None


@contextmanager
def _recorded(
    tracer: Tracer,
    name: str,
    attributes: Attributes,
    kind: str,
    parent: str | None,
    expected: tuple[type[BaseException], ...],
) -> Iterator[NoSpan]:
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    above = parent or (None if _is_current() else _inherited.get())
    made = tracer.start_as_current_span(
        name,
        context=None if above is None else _context_of(above),
        kind=SpanKind[kind],
        attributes=dict(attributes),
        record_exception=False,  # messages may be a model's or a tool's words
        set_status_on_exception=False,
    )
    with made as span:
        live = LiveSpan(span)
        try:
            yield live
        except BaseException as error:
            if not isinstance(error, expected):
                live.fail(type(error).__name__)
            raise


def _is_current() -> bool:
    from opentelemetry.trace import get_current_span  # noqa: PLC0415

    return get_current_span().get_span_context().is_valid


def _context_of(traceparent: str) -> Context:
    from opentelemetry.context import get_current  # noqa: PLC0415
    from opentelemetry.trace import (  # noqa: PLC0415
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        set_span_in_context,
    )

    _, trace_id, span_id, flags = traceparent.split("-")
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), True, TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(remote), get_current())


def current() -> str | None:
    """The traceparent of what runs here: that of the current span, or what was inherited."""
    if "opentelemetry.trace" in sys.modules:  # the application's own spans count, too
        trace: Any = sys.modules["opentelemetry.trace"]
        of = trace.get_current_span().get_span_context()
        if of.is_valid:
            return f"00-{of.trace_id:032x}-{of.span_id:016x}-{int(of.trace_flags):02x}"
    return _inherited.get()


def inherited(traceparent: str | None) -> AbstractContextManager[object]:
    """What is spawned in here continues this trace; what is no traceparent is ignored."""
    if traceparent is None or not TRACEPARENT.fullmatch(traceparent):
        return OFF
    return _inherit(traceparent)


@contextmanager
def _inherit(traceparent: str) -> Iterator[None]:
    token = _inherited.set(traceparent)
    try:
        yield
    finally:
        _inherited.reset(token)


def traceparent_of(root_id: str) -> str:
    """That of a tree of whom nobody brought one: the same on every node."""
    digest = hashlib.sha256(f"trace\0{root_id}".encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01"
