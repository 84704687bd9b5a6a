"""The task of a trigger as a template: ``Look at ${webhook.payload.title}``.

`string.Template` with dotted names: a name is a path into JSON, nothing is called or evaluated, and a
name that leads nowhere is an error, never an empty place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from string import Template

from pydantic import JsonValue

ROOTS = ("trigger", "webhook", "event", "input", "data")
"""What a template may name: the fire, what came in by type, and the trigger's own data."""


class TaskTemplate(Template):
    """Names may have dots, and digits after one: a place in a list."""

    idpattern = r"(?a:[_a-zA-Z][_a-zA-Z0-9]*(?:\.[_a-zA-Z0-9-]+)*)"
    flags = re.NOFLAG


def check_template(text: str) -> None:
    """Raises `ValueError` where a template is malformed, or names what no fire ever has."""
    template = TaskTemplate(text)
    if not template.is_valid():
        raise ValueError(
            "a '$' begins a name such as ${webhook.payload.title}; write $$ for a dollar sign"
        )
    for name in template.get_identifiers():
        if name.partition(".")[0] not in ROOTS:
            raise ValueError(
                f"${{{name}}}: a template may name {', '.join(ROOTS)} and what is in them"
            )


def fill(text: str, values: Mapping[str, JsonValue]) -> str:
    """The task. Raises `ValueError` that names what is not there, or is no JSON. What is no text stands as
    JSON."""
    template = TaskTemplate(text)
    return template.substitute({name: _text(values, name) for name in template.get_identifiers()})


def look_up(values: Mapping[str, JsonValue], path: str) -> JsonValue:
    """What stands at a dotted path. Raises `ValueError`."""
    found: JsonValue = dict(values)
    for step in path.split("."):
        if isinstance(found, Mapping) and step in found:
            found = found[step]
        elif (
            isinstance(found, Sequence)
            and not isinstance(found, str)
            and step.isdecimal()
            and int(step) < len(found)
        ):
            found = found[int(step)]
        else:
            raise ValueError(f"${{{path}}}: there is no {step!r} in what came in")
    return found


def _text(values: Mapping[str, JsonValue], name: str) -> str:
    value = look_up(values, name)
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"${{{name}}}: it is no JSON: {error}") from error
