"""`input_validation`: the data of a task against what its entry expects.

`InputValidation` takes JSON schemas and is data, so every producer runs it (extra ``jsonschema``).
`ModelValidation` takes pydantic models and is code: each runtime is given it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr, ValidationError, field_validator
from pydantic_core import to_json

from colony.errors import PipelineIncomplete
from colony.pipeline.registry import stage
from colony.pipeline.stage import Continue, Incoming, Reject, Verdict

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

ALL_OTHERS = "*"
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
REASON_CHARACTERS = 500


@stage("input_validation")
class InputValidation(BaseModel):
    """JSON schemas by entry (``spawn`` or a trigger's id; ``*`` for all others) for a task's `data`.

    Schemas stand by themselves: a ``$ref`` to elsewhere is refused, and nothing is ever fetched.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "input_validation"
    order: int = 100
    schemas: dict[str, dict[str, JsonValue]]
    _validators: dict[str, Validator] = PrivateAttr(default_factory=dict)

    @field_validator("schemas")
    @classmethod
    def _stand_by_themselves(
        cls, schemas: dict[str, dict[str, JsonValue]]
    ) -> dict[str, dict[str, JsonValue]]:
        for entry, schema in schemas.items():
            if remote := [ref for ref in _references(schema) if not ref.startswith("#")]:
                raise ValueError(
                    f"the schema of {entry!r} refers to {remote[0]!r}: a reference must stay within the "
                    "schema (#/$defs/…)"
                )
            _check(entry, schema)
        return schemas

    async def process(self, incoming: Incoming) -> Verdict:
        """Reject what does not fit, naming field and reason."""
        schema = self.schemas.get(incoming.entry, self.schemas.get(ALL_OTHERS))
        if schema is None:
            return Continue()
        validator = self._validators.setdefault(incoming.entry, _validator(schema))
        error = _tools().best_match(validator.iter_errors(dict(incoming.data)))
        if error is None:
            return Continue()
        return _rejected(f"data{error.json_path.removeprefix('$')}", error.message)


@dataclass(frozen=True, slots=True)
class ModelValidation:
    """pydantic models by entry (``*`` for all others) for a task's `data`, which itself stays as it is."""

    models: Mapping[str, type[BaseModel]]
    name: str = "input_validation"
    order: int = 100

    async def process(self, incoming: Incoming) -> Verdict:
        """Reject what does not fit, naming field and reason."""
        model = self.models.get(incoming.entry, self.models.get(ALL_OTHERS))
        if model is None:
            return Continue()
        try:
            model.model_validate_json(to_json(dict(incoming.data)))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            return _rejected(".".join(map(str, ("data", *first["loc"]))), first["msg"])
        return Continue()


def _rejected(field: str, reason: str) -> Reject:
    return Reject(f"{field}: {reason}"[:REASON_CHARACTERS])


def _references(schema: JsonValue) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (v for k, v in schema.items() if k in REFERENCES and isinstance(v, str))
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _references(item)


@dataclass(frozen=True, slots=True)
class _Tools:
    best_match: Any
    validator_for: Any
    default: Any
    registry: Any
    schema_error: type[Exception]


@functools.cache
def _tools() -> _Tools:
    """jsonschema, where it is installed."""
    try:
        import jsonschema  # noqa: PLC0415 - an extra
        import referencing  # noqa: PLC0415
    except ImportError as error:
        raise PipelineIncomplete(
            "the pipeline checks data against a JSON schema, and this process has nothing to do it with: "
            "pip install 'colony[jsonschema]'"
        ) from error
    return _Tools(
        jsonschema.exceptions.best_match,
        jsonschema.validators.validator_for,
        jsonschema.Draft202012Validator,
        referencing.Registry(),  # an empty one: nothing is fetched
        jsonschema.SchemaError,
    )


def _check(entry: str, schema: Mapping[str, JsonValue]) -> None:
    tools = _tools()
    try:
        tools.validator_for(schema, default=tools.default).check_schema(schema)
    except tools.schema_error as error:
        raise ValueError(
            f"the schema of {entry!r} is no JSON schema: {str(error)[:500]}"
        ) from error


def _validator(schema: Mapping[str, JsonValue]) -> Validator:
    tools = _tools()
    kind = tools.validator_for(schema, default=tools.default)
    made: Validator = kind(schema, registry=tools.registry, format_checker=kind.FORMAT_CHECKER)
    return made
