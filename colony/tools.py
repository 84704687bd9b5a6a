"""Tools: plain functions with a schema, and the context they may ask for.

The signature becomes the JSON schema the model sees, the docstring its description, and pydantic
checks what the model sends against both before the function runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NoReturn, get_type_hints

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, create_model

from colony.errors import CredentialError, DefinitionError

Progress = Callable[[str, Mapping[str, JsonValue]], Awaitable[None]]


def _unknown(alias: str) -> NoReturn:
    raise CredentialError(f"there is no account {alias!r}: no worker runs here")


RESERVED = frozenset({"report_to_parent", "run_parallel_workers", "delegate_task"})
"""Names of tools that Colony itself offers."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may know of the call it serves. Ask for it by annotating a parameter with it.

    `idempotency_key` is the same each time this very call is made (also after a crash): hand it to
    the service that the tool calls. `remaining` is None where the worker has no deadline.
    """

    worker_id: str
    colony_id: str
    agent: str
    task: str
    data: Mapping[str, JsonValue]
    tool_call_id: str
    idempotency_key: str
    deadline: datetime | None
    remaining: timedelta | None
    _progress: Progress = field(repr=False)

    async def progress(self, message: str, **data: JsonValue) -> None:
        """Tell whoever listens how far the call is: a `progress` event, heard live and not kept."""
        await self._progress(message, data)

    def progress_threadsafe(self, message: str, **data: JsonValue) -> None:
        """The same for a synchronous tool: returns at once, from any thread."""
        self._schedule(self._progress(message, data))

    async def credential(self, alias: str) -> SecretStr:
        """The secret of an account (`colony.credentials`), as it is now: ``.get_secret_value()``.

        Raises `CredentialError`, which the model may be told: it holds no value. Ask for it where you use it.
        """
        return await self._credential(alias)

    def credential_threadsafe(self, alias: str) -> SecretStr:
        """The same for a synchronous tool: waits in its thread."""
        return self._credential_threadsafe(alias)

    _credential: Callable[[str], Awaitable[SecretStr]] = field(default=_unknown, repr=False)
    _credential_threadsafe: Callable[[str], SecretStr] = field(default=_unknown, repr=False)
    _schedule: Callable[[Awaitable[None]], None] = field(default=lambda _: None, repr=False)


class Park(Exception):
    """Raised by a tool to let the worker sleep without holding a slot.

    The worker is parked (`time`) for `duration`; the model then sees `result` as the tool's answer.
    The tool is not called again.
    """

    def __init__(self, duration: timedelta, result: JsonValue = "done waiting") -> None:
        if duration < timedelta(0):
            raise ValueError(f"a worker cannot sleep for {duration}: expected a positive duration")
        super().__init__(f"park for {duration}")
        self.duration = duration
        self.result = result


class ParkForChildren(Exception):
    """Raised by a spawning tool: the worker is parked (`children`) until this batch is joined, and
    then the same call is made again."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"waiting for batch {batch_id}")
        self.batch_id = batch_id


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool of a colony, ready to be offered to a model and to be called."""

    name: str
    description: str
    function: Callable[..., Any]
    arguments: type[BaseModel]
    context_parameter: str | None
    idempotent: bool
    read_only: bool
    timeout: timedelta
    is_async: bool
    provider: str | None = None

    @property
    def repeatable(self) -> bool:
        """Whether a call that was open at a crash may simply be made again."""
        return self.idempotent or self.read_only

    @property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return self.arguments.model_json_schema()


def make_tool(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    idempotent: bool = False,
    read_only: bool = False,
    timeout: timedelta = timedelta(seconds=60),
    requires_approval: bool = False,
    provider: str | None = None,
    builtin: bool = False,
    bound: Collection[str] = (),
) -> Tool:
    """Make a `Tool` of a function; refuses what could only fail later, at a model's hands.

    `builtin` tools may have a name that is Colony's own; `bound` parameters are not the model's.
    """
    tool_name = name or function.__name__
    if requires_approval:
        raise DefinitionError(
            f"tool {tool_name!r}: requires_approval=True is not supported yet: there is nobody who "
            "could approve the call, so the worker would wait for ever. Remove the option"
        )
    if tool_name in RESERVED and not builtin:
        raise DefinitionError(f"tool {tool_name!r}: this name belongs to Colony; choose another")
    if timeout <= timedelta(0):
        raise DefinitionError(f"tool {tool_name!r}: timeout must be positive, got {timeout}")
    doc = docstring_parser.parse(inspect.getdoc(function) or "")
    context_parameter, arguments = _arguments_of(function, tool_name, doc, bound)
    return Tool(
        name=tool_name,
        description="\n\n".join(t for t in (doc.short_description, doc.long_description) if t),
        function=function,
        arguments=arguments,
        context_parameter=context_parameter,
        idempotent=idempotent,
        read_only=read_only,
        timeout=timeout,
        is_async=inspect.iscoroutinefunction(function),
        provider=provider,
    )


def _arguments_of(
    function: Callable[..., Any],
    tool_name: str,
    doc: docstring_parser.Docstring,
    bound: Collection[str],
) -> tuple[str | None, type[BaseModel]]:
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"tool {tool_name!r}: annotation cannot be resolved ({error}); "
            "import the name at module level, not under TYPE_CHECKING"
        ) from error
    described = {p.arg_name: p.description for p in doc.params}
    context_parameter: str | None = None
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in bound:
            continue
        hint = hints.get(parameter.name, Any)
        if hint is ToolContext:
            context_parameter = parameter.name
            continue
        if parameter.kind in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
            parameter.POSITIONAL_ONLY,
        ):
            raise DefinitionError(
                f"tool {tool_name!r}: parameter {parameter.name!r} is {parameter.kind.description}; "
                "a model sends named arguments: give each one a name"
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hint, Field(default, description=described.get(parameter.name)))
    try:
        model = create_model(
            f"{tool_name}_arguments", __config__=ConfigDict(extra="forbid"), **fields
        )
        model.model_json_schema()
    except Exception as error:
        raise DefinitionError(
            f"tool {tool_name!r}: no JSON schema for its parameters: {error}"
        ) from error
    return context_parameter, model
