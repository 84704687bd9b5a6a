"""Definitions: what does not load says why; tools are what their signatures say; settings are read."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError

from colony.definition import AgentSpec, Colony, ColonyConfig, load_colony
from colony.errors import DefinitionError
from colony.settings import Settings
from colony.tools import ToolContext, make_tool

GOOD = """
from colony.definition import AgentSpec, Colony
colony = Colony("good", agent=AgentSpec(model="test"))
second = Colony("second", agent=AgentSpec(model="test"))
number = 7
"""
BAD = {
    "broken": "import a_module_that_is_not_there",
    "raises": "1 / 0",
    "syntax": "def (",
    "unknown_tool": GOOD.replace('"test")', '"test", tools=["nope"])'),
    "refused": GOOD + "@colony.tool(requires_approval=True)\ndef pay(): ...\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with definitions; what was imported from it is forgotten."""
    for name, text in {"good": GOOD, **BAD}.items():
        (tmp_path / f"defs_{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("defs_")]:
        del sys.modules[name]


def test_a_definition_is_loaded_from_the_working_directory(folder: Path) -> None:
    """module:attribute names a colony of a module beside you."""
    assert load_colony("defs_good:colony").name == "good"
    assert load_colony("defs_good:second").name == "second"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("defs_good", "expected module:attribute"),
        ("defs_good:", "expected module:attribute"),
        (":colony", "expected module:attribute"),
        ("defs_none:colony", "No module named 'defs_none'"),
        ("defs_good:nope", "found nothing of that name. Colonies in 'defs_good': colony, second"),
        ("defs_good:number", "found a int"),
        ("defs_broken:colony", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("defs_raises:colony", "ZeroDivisionError: division by zero"),
        ("defs_syntax:colony", "SyntaxError"),
        ("defs_unknown_tool:colony", "names tools that do not exist: nope"),
        ("defs_refused:colony", "requires_approval=True is not supported yet"),
    ],
)
def test_what_does_not_load_says_why(folder: Path, path: str, says: str) -> None:
    """Each mistake is a DefinitionError that names the thing and what was found instead."""
    with pytest.raises(DefinitionError) as caught:
        load_colony(path)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["", "Survey", "a b", "a/b", "-a", "a" * 65, "ä", "a:b", "a{b}"])
def test_names_that_would_break_keys_are_refused(name: str) -> None:
    """Names stand in keys, queues and labels: a bad one is refused, for colonies and for agents."""
    with pytest.raises(DefinitionError, match="expected 1 to 64"):
        Colony(name, agent=AgentSpec(model="test"))
    with pytest.raises(DefinitionError, match="agent name"):
        Colony("c", agent=AgentSpec(model="test", name=name))


@pytest.mark.parametrize("name", ["a", "0", "survey-2.x_y", "a" * 64])
def test_good_names(name: str) -> None:
    """Small letters, digits, dot, dash and underscore, up to 64."""
    assert Colony(name, agent=AgentSpec(model="test", name=name)).default_agent == name


def test_two_of_a_name_are_refused() -> None:
    """Two agents or two tools of one name would hide each other."""
    with pytest.raises(DefinitionError, match="two agents are named 'agent'"):
        Colony("c", agent=AgentSpec(model="test"), agents=[AgentSpec(model="test")])
    colony = Colony("c", agent=AgentSpec(model="test"))

    @colony.tool
    def read() -> None: ...

    with pytest.raises(DefinitionError, match="two tools are named 'read'"):
        colony.tool(name="read")(lambda: None)
    assert list(colony.tools) == ["read"]


@pytest.mark.parametrize("limit", [{"max_turns": 0}, {"max_tokens": 0}, {"max_retries": -1}])
def test_limits_that_allow_nothing_are_refused(limit: dict[str, int]) -> None:
    """An agent that could never answer is a mistake of its definition, named with its limit."""
    with pytest.raises(DefinitionError, match=next(iter(limit))):
        Colony("c", agent=AgentSpec(model="test", **limit))  # type: ignore[arg-type]


def test_agents_are_offered_their_tools() -> None:
    """tools=None is all of them, a list exactly those, an empty list none."""
    colony = Colony("c", agent=AgentSpec(model="test"))
    for name in ("a", "b"):
        colony.tool(name=name)(lambda: None)
    offered = [list(colony.tools_of(AgentSpec("test", tools=t))) for t in (None, ["b"], [])]
    assert offered == [["a", "b"], ["b"], []]


# -- tools ------------------------------------------------------------------------------------


class Kind(StrEnum):
    """A choice."""

    DEEP = "deep"
    FLAT = "flat"


class Place(BaseModel):
    """Where."""

    path: str
    line: int = 1


async def look(
    query: str,
    context: ToolContext,
    places: list[Place],
    kind: Kind = Kind.FLAT,
    mode: Literal["r", "rb"] = "r",
    limit: int | None = None,
) -> str:
    """Look something up.

    In all places at once.

    Args:
        query: what to look for
        limit: at most so many
    """
    return f"{query} {context} {places} {kind} {mode} {limit}"


def test_the_schema_is_the_signature() -> None:
    """Types, defaults, what is required, and the docstring's words for the tool and its arguments."""
    tool = make_tool(look, idempotent=True, timeout=timedelta(seconds=3))
    schema = tool.schema
    properties = schema["properties"]
    assert (tool.name, tool.description) == ("look", "Look something up.\n\nIn all places at once.")
    assert set(properties) == {"query", "places", "kind", "mode", "limit"}
    assert schema["required"] == ["query", "places"]
    assert schema["additionalProperties"] is False
    assert (properties["query"]["type"], properties["query"]["description"]) == (
        "string",
        "what to look for",
    )
    assert (properties["kind"]["default"], properties["limit"]["default"]) == ("flat", None)
    assert properties["mode"]["enum"] == ["r", "rb"]
    assert properties["limit"]["description"] == "at most so many"
    assert schema["$defs"]["Place"]["required"] == ["path"]
    assert (tool.context_parameter, tool.is_async) == ("context", True)
    assert (tool.repeatable, tool.timeout) == (True, timedelta(seconds=3))


def test_arguments_are_checked_against_the_signature() -> None:
    """What a model sends is converted or refused before the function runs."""
    arguments = make_tool(look).arguments
    good: Any = arguments.model_validate({"query": "q", "places": [{"path": "p"}], "kind": "deep"})
    assert (good.kind, good.places[0].line) == (Kind.DEEP, 1)
    for bad in ({}, {"query": "q", "places": [{}]}, {"query": "q", "places": [], "extra": 1}):
        with pytest.raises(ValidationError):
            arguments.model_validate(bad)


def test_a_plain_tool_is_neither_repeatable_nor_async() -> None:
    """Without options a call may not simply be repeated after a crash."""
    tool = make_tool(lambda: None, name="plain")
    assert (tool.repeatable, tool.is_async, tool.context_parameter) == (False, False, None)
    assert (tool.description, tool.schema["properties"]) == ("", {})
    assert make_tool(lambda: None, name="r", read_only=True).repeatable


def _positional(a: int, /) -> None: ...
def _many(*a: int) -> None: ...
def _named(**a: int) -> None: ...
def _unknown_type(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _no_schema(a: socket.socket) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (_positional, "'a' is positional-only"),
        (_many, "'a' is variadic positional"),
        (_named, "'a' is variadic keyword"),
        (_unknown_type, "annotation cannot be resolved"),
        (_no_schema, "no JSON schema"),
    ],
)
def test_a_function_that_no_model_could_call_is_refused(function: Any, says: str) -> None:
    """What could only fail at a model's hands is refused when the definition loads."""
    with pytest.raises(DefinitionError) as caught:
        make_tool(function)
    assert says in str(caught.value)
    assert function.__name__ in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"requires_approval": True}, "there is nobody who could approve the call"),
        ({"name": "report_to_parent"}, "this name belongs to Colony"),
        ({"timeout": timedelta(0)}, "timeout must be positive"),
    ],
)
def test_options_that_cannot_be_kept_are_refused(options: dict[str, Any], says: str) -> None:
    """An option Colony cannot honour is refused with its reason."""
    with pytest.raises(DefinitionError) as caught:
        make_tool(lambda: None, **{"name": "t", **options})
    assert says in str(caught.value)


# -- settings ---------------------------------------------------------------------------------


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """COLONY_<FIELD> sets a field; durations are seconds or ISO 8601."""
    values = {"REDIS_URL": "redis://h/3", "LEASE": "9.5", "BEAT_INTERVAL": "PT1.5S"}
    for name, value in {**values, "CONCURRENCY": "7"}.items():
        monkeypatch.setenv(f"COLONY_{name}", value)
    settings = Settings()
    assert (settings.redis_url, settings.queue_url) == ("redis://h/3", "redis://h/3")
    assert (settings.lease, settings.beat_interval) == (
        timedelta(seconds=9.5),
        timedelta(seconds=1.5),
    )
    assert settings.concurrency == 7
    monkeypatch.setenv("COLONY_BROKER_URL", "redis://b/0")
    assert Settings().queue_url == "redis://b/0"


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A colony's limits can be set on its nodes, and unknown ones are refused in code."""
    monkeypatch.setenv("COLONY_MAX_PENDING", "5")
    monkeypatch.setenv("COLONY_RESULT_RETENTION_TTL", "60")
    config = Colony("c", agent=AgentSpec(model="test")).config
    assert (config.max_pending, config.result_retention_ttl) == (5, timedelta(minutes=1))
    with pytest.raises(ValidationError):
        ColonyConfig(max_pendign=5)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"),
    [("LEASE", "soon"), ("CONCURRENCY", "0"), ("CONCURRENCY", "many"), ("LEASE", "2.9")],
)
def test_settings_that_make_no_sense_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """A wrong value is refused at the start; a lease is at least three beats."""
    monkeypatch.setenv(f"COLONY_{name}", value)
    with pytest.raises(ValidationError, match=name.lower() if value != "2.9" else "three times"):
        Settings()


@pytest.mark.parametrize("value", ["-5", "0"])
def test_durations_that_go_backwards_are_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A node that would beat without a pause, or backwards, does not start."""
    monkeypatch.setenv("COLONY_BEAT_INTERVAL", value)
    with pytest.raises(ValidationError):
        Settings()
