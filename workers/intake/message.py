"""A raw message of the intake queue as a `Call`: Celery's protocol 2 as JSON, read with suspicion."""

from __future__ import annotations

import base64
import binascii
import copy
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

from celery.app.task import Context
from celery.canvas import Signature

MAX_ID: Final = 255
ID = re.compile(rb'"id":\s*"([^"\\]{1,%d})"' % MAX_ID)
"""The task id in a message that is too large to be parsed; quotes inside of strings are escaped there."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a character, which JSON can say and no key can hold."""

PARTS = frozenset({"tasks", "header", "body"})
"""The arguments of a group, chain or chord that are tasks themselves."""
OF_CONTEXT = frozenset(
    name for name, what in vars(Context).items() if name.startswith("_") or callable(what)
)
"""What belongs to the object that Celery makes of the headers."""
EMBEDDED: Final = {"callbacks": list, "errbacks": list, "chain": list, "chord": dict}
"""What Celery calls link, link_error, chain and chord, and the type of each."""


class Unreadable(ValueError):
    """Not a call. `task_id` is who may wait for its result, None where that cannot be told."""

    def __init__(self, reason: str, task_id: str | None = None) -> None:
        super().__init__(reason)
        self.task_id = task_id


@dataclass(frozen=True, slots=True)
class Call:
    """A task that a client asks for; `request` is what Celery's tracer wants to know of it."""

    name: str
    task_id: str
    args: list[Any]
    kwargs: dict[str, Any]
    request: dict[str, Any]
    eta: datetime | None
    expires: datetime | None


def read(raw: bytes, most: int) -> Call:
    """The call in a message of at most `most` bytes. Raises `Unreadable`."""
    if len(raw) > most:
        found = ID.search(raw)
        raise Unreadable(
            f"the message has {len(raw)} bytes, at most {most} are read (COLONY_MAX_MESSAGE_BYTES)",
            found and found[1].decode(errors="replace"),
        )
    envelope = _loads(raw, "the message")
    headers = envelope.get("headers") if isinstance(envelope, dict) else None
    properties = envelope.get("properties") if isinstance(envelope, dict) else None
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise Unreadable(
            "not a Celery message: expected an object with headers, properties and body"
        )
    if "task" not in headers:
        raise _without_task(envelope, properties)
    name, task_id = headers["task"], headers.get("id")
    if not _is_id(task_id):
        raise Unreadable(
            f"headers.id: expected a text of 1 to {MAX_ID} characters, got {task_id!r:.50}"
        )
    try:
        return _call(name, task_id, headers, properties, _body(envelope, properties))
    except Unreadable as error:
        error.task_id = task_id
        raise


def _call(
    name: Any, task_id: str, headers: dict[str, Any], properties: dict[str, Any], body: Any
) -> Call:
    if not isinstance(name, str):
        raise Unreadable(f"headers.task: expected the name of a task, got {type(name).__name__}")
    match body:
        case [list(args), dict(kwargs)]:
            embedded: Any = {}
        case [list(args), dict(kwargs), dict() | None as third, *_]:
            embedded = third or {}
        case _:
            raise Unreadable("body: expected [list of arguments, object of arguments, object]")
    embed = {name: _embedded(embedded, name, kind) for name, kind in EMBEDDED.items()}
    info = properties.get("delivery_info")
    request = {
        **{field: value for field, value in headers.items() if field not in OF_CONTEXT},
        **embed,
        "args": args,
        "kwargs": kwargs,
        "is_eager": False,
        "delivery_info": info if isinstance(info, dict) else {},
        "correlation_id": properties.get("correlation_id"),
        "reply_to": properties.get("reply_to"),
    }
    eta, expires = (_moment(headers, field) for field in ("eta", "expires"))
    return Call(name, task_id, args, kwargs, request, eta, expires)


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID and not SURROGATE.search(value)


def _embedded(embedded: dict[str, Any], field: str, kind: type) -> Any:
    """What of Celery's canvas stands there, whole: it is used once the workers are accepted, and what
    cannot be used then is refused now."""
    if (given := embedded.get(field)) is None:
        return None
    try:
        if kind is list and isinstance(given, list):
            return [_whole(each) for each in given]
        return _whole([] if kind is list else given)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        got = [given] if kind is dict else given
        raise Unreadable(
            f"body: {field}: expected tasks of Celery's canvas, got {got!r:.50} ({error!r:.100})"
        ) from error


def _whole(signature: Any) -> dict[str, Any]:
    """A task of the canvas with what a client may leave out. Raises many things for what is none."""
    if not isinstance(signature, dict) or not isinstance(signature.get("task"), str):
        raise TypeError("an object with a task")
    made: dict[str, Any] = {"immutable": False, "chord_size": None, **signature}
    for field, kind in {"args": list, "kwargs": dict, "options": dict}.items():
        made[field] = kind() if made.get(field) is None else made[field]
        if not isinstance(made[field], kind):
            raise TypeError(f"{field}: {kind.__name__}")
    if made.setdefault("subtask_type", None) is not None:
        for part, of in made["kwargs"].items():
            if part in PARTS and of is not None:  # a chord may have no body yet
                made["kwargs"][part] = [*map(_whole, of)] if isinstance(of, list) else _whole(of)
        Signature.from_dict(copy.deepcopy(made))
    return made


def _without_task(envelope: dict[str, Any], properties: dict[str, Any]) -> Unreadable:
    """Protocol 1 has all in its body; say so, to whom it concerns."""
    try:
        body = _body(envelope, properties)
    except Unreadable as error:
        return Unreadable(f"headers.task is missing, and {error}")
    if isinstance(body, dict) and "task" in body:
        task_id = body.get("id")
        return Unreadable(
            "Celery's message protocol 1: expected protocol 2 (task_protocol = 2)",
            task_id if _is_id(task_id) else None,
        )
    return Unreadable("headers.task is missing: expected a task message of protocol 2")


def _body(envelope: dict[str, Any], properties: dict[str, Any]) -> Any:
    if (kind := envelope.get("content-type")) != "application/json":
        raise Unreadable(f"content-type: expected application/json, got {kind!r:.50}")
    body, encoding = envelope.get("body"), properties.get("body_encoding")
    if not isinstance(body, str):
        raise Unreadable(f"body: expected text, got {type(body).__name__}")
    if encoding not in ("base64", None, ""):
        raise Unreadable(f"body_encoding: expected base64 or none, got {encoding!r:.50}")
    try:
        text = base64.b64decode(body, validate=True) if encoding else body.encode()
    except (binascii.Error, ValueError) as error:
        raise Unreadable(f"body is not {encoding or 'UTF-8'}: {error}") from error
    return _loads(text, "the body")


def _loads(text: bytes, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also no UTF-8, and numbers of too many digits
        raise Unreadable(f"{what} is not JSON: {error}") from error


def _moment(headers: dict[str, Any], field: str) -> datetime | None:
    """A time of Celery's: ISO 8601, without a zone in UTC."""
    if (text := headers.get(field)) is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise Unreadable(
            f"headers.{field}: expected a time (ISO 8601), got {text!r:.50}"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
