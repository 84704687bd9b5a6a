"""Logs of nodes, beats and gateways: lines for people, or one JSON object a line (COLONY_LOG_FORMAT).

Every record is rendered alike, those of Celery, of tools and of libraries too. What a slice logs, from its
tools' threads as well, carries `worker`, `epoch`, `colony` and `node`; in JSON all lines of a node carry the
latter two: `timestamp` (UTC), `level`, `logger`, `event`, those, and `exception` where there is one.

Of what stands beside a message (`extra`) only the task's id is taken: the rest may be arguments. What looks
like a secret in a line is struck out; that is a net, not the rule: nothing of ours logs any.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

from colony.errors import ConfigurationError

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

INSTALLED: Final = find_spec("structlog") is not None
"""Not where nothing but a producer is: then lines for people, without context."""

if INSTALLED:
    import structlog

LogFormat = Literal["text", "json"]

TEXT: Final = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
SELDOM_SECONDS: Final = 30.0
STRUCK: Final = "********"
BEGINS: Final = r"(?:(?<=\b{0})|(?<=\\[bfnrt]{0}))"
"""Behind a mark that begins a word, also after a line break as JSON and `repr` write it, `n` and all."""
SECRETS: Final = re.compile(
    r"(?<=://)[^\s/@:\"'\\]*:[^\s/@\"'\\]+(?=@)"  # of a URL
    rf"|{BEGINS.format('whsec_')}[\w+/=-]+"
    rf"|{BEGINS.format('colony_')}[A-Za-z0-9_-]{{40,}}"
    rf"|{BEGINS.format('[Bb]earer ')}[\w.~+/=-]{{8,}}"
    rf"|{BEGINS.format('')}sk-[\w-]{{16,}}"
)
MARKS: Final = ("://", "whsec_", "colony_", "earer ", "sk-")
"""One of them is in every line that `SECRETS` could find something in: most lines have none."""

ABOUT: Final[dict[str, str]] = {}
"""What all lines of this process carry."""


def about(**fields: str) -> None:
    """From now on all lines of this process carry these."""
    ABOUT.update(fields)


def bound(**fields: object) -> AbstractContextManager[object]:
    """What is logged in here, in tasks and threads that begin here too, carries these."""
    if not INSTALLED:
        return contextlib.nullcontext()
    return _Bound(fields)


class _Bound:
    """As structlog's own, without the frame of a generator: a node has one for each waiting agent."""

    __slots__ = ("_fields", "_tokens")

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields: Mapping[str, object] | None = fields
        self._tokens: Mapping[str, Any] = {}

    def __enter__(self) -> None:
        assert self._fields is not None
        self._tokens, self._fields = structlog.contextvars.bind_contextvars(**self._fields), None

    def __exit__(self, *_: object) -> None:
        structlog.contextvars.reset_contextvars(**self._tokens)


class Seldom:
    """Warns of what holds up many things, and lasts: at most once in `SELDOM_SECONDS`."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._warned_at = -math.inf

    def warn(self, text: str, *args: object) -> None:
        """Warn, unless it has just been done."""
        if time.monotonic() - self._warned_at >= SELDOM_SECONDS:
            self._warned_at = time.monotonic()
            self._log.warning(text, *args)


def scrubbed(text: str) -> str:
    """A text without what looks like a password, a token or a key."""
    return SECRETS.sub(STRUCK, text) if any(mark in text for mark in MARKS) else text


def configure(format: LogFormat, level: int | str, *, logfile: str | None = None) -> None:
    """Render every record of this process in this way, to stderr or a file; again: anew.

    Raises `ConfigurationError` where JSON is asked for and structlog is not installed.
    """
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(formatter(format))
    root = logging.getLogger()
    for other in root.handlers[:]:
        root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(level)


def formatter(format: LogFormat) -> logging.Formatter:
    """What renders a record. Raises `ConfigurationError`."""
    if format == "text":
        return _Scrubbed(_Text(TEXT))
    if not INSTALLED:
        raise ConfigurationError(
            "COLONY_LOG_FORMAT=json needs structlog: pip install 'colony[node]' or 'colony[gateway]'"
        )
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_about,
    ]
    render = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ],
    )
    return _Scrubbed(render)


def _add_about(_: object, __: str, event: EventDict) -> MutableMapping[str, Any]:
    """What the process is, and which worker a record of Celery's is about."""
    for name, value in ABOUT.items():
        event.setdefault(name, value)
    record = event.get("_record")
    for name, value in _task_of(record).items():
        event.setdefault(name, value)
    return event


def _task_of(record: logging.LogRecord | None) -> dict[str, str]:
    """The task that Celery tells of beside its message."""
    data = getattr(record, "data", None)
    if not isinstance(data, Mapping) or not isinstance(data.get("id"), str):
        return {}
    task_id = data["id"]
    is_worker = str(data.get("name", "")).startswith(("agent:", "colony.run_worker"))
    return {"worker": task_id} if is_worker else {"task_id": task_id}


class _Text(logging.Formatter):
    """Celery's line, then what is bound, and where."""

    def format(self, record: logging.LogRecord) -> str:
        fields = structlog.contextvars.get_contextvars() if INSTALLED else {}
        line = super().format(record)
        if fields:
            fields = {**fields, **ABOUT}
            told = " ".join(f"{name}={value}" for name, value in fields.items())
            first, newline, rest = line.partition("\n")
            line = f"{first}  ({told}){newline}{rest}"
        return line


class _Scrubbed(logging.Formatter):
    """Another's line, without secrets."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return scrubbed(self._inner.format(record))
