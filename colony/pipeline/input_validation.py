"""`input_validation`: the data of a task against what its entry expects.

`InputValidation` takes JSON schemas and is data, so every producer runs it (extra ``jsonschema``).
`ModelValidation` takes pydantic models and is code: each runtime is given it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr, ValidationError, model_validator
from pydantic_core import to_json

from colony.errors import PipelineIncomplete
from colony.pipeline.registry import stage
from colony.pipeline.stage import Continue, Incoming, Reject, Verdict

Problem = Callable[[dict[str, JsonValue]], tuple[str, str] | None]
"""The first field that does not fit, and why; None where all do."""

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
    _problems: dict[str, Problem] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _make_checks(self) -> Self:
        self._problems.update({entry: _problem_by(s, entry) for entry, s in self.schemas.items()})
        return self

    async def process(self, incoming: Incoming) -> Verdict:
        """Reject what does not fit, naming field and reason."""
        problem = self._problems.get(incoming.entry) or self._problems.get(ALL_OTHERS)
        found = None if problem is None else problem(dict(incoming.data))
        return Continue() if found is None else _rejected(*found)


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


def _problem_by(schema: dict[str, JsonValue], entry: str) -> Problem:
    """The check of one schema. Raises `ValueError` for a wrong one."""
    try:
        import jsonschema  # noqa: PLC0415 - an extra
        from referencing import Registry  # noqa: PLC0415 - comes with it
    except ImportError as error:
        raise PipelineIncomplete(
            "the pipeline checks data against a JSON schema, and this process has nothing to do it with: "
            "pip install 'colony[jsonschema]'"
        ) from error
    for reference in _references(schema):
        if not reference.startswith("#"):
            raise ValueError(
                f"the schema of {entry!r} refers to {reference!r}: a reference must stay within the schema "
                "(#/$defs/…)"
            )
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(
            f"the schema of {entry!r} is no JSON schema: {error.message[:500]}"
        ) from error
    validator = kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)

    def problem(data: dict[str, JsonValue]) -> tuple[str, str] | None:
        error = jsonschema.exceptions.best_match(validator.iter_errors(data))
        return (
            None if error is None else (f"data{error.json_path.removeprefix('$')}", error.message)
        )

    return problem
