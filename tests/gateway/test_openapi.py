"""The description: whole, true, and no request that follows from it makes the gateway fail."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from colony.gateway import create_app
from tests.gateway.kit import Api

OPENAPI = create_app().openapi()
OPERATIONS = [
    pytest.param(path, method, operation, id=operation["operationId"])
    for path, methods in OPENAPI["paths"].items()
    for method, operation in methods.items()
]
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "5"))
SEED = os.environ.get("SCHEMATHESIS_SEED", "1")
"""The same requests in every run, unless told otherwise."""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,unsupported_method,ignored_auth"
)
LEFT_OUT = ("follow_events", "drain_node", "pause_intake", "pause_timers")
"""One never ends; the others make what comes after them be refused."""


def check(schema: dict[str, Any], value: Any) -> None:
    """Whether a value is what a schema of the description says."""
    Draft202012Validator({**schema, "components": OPENAPI["components"]}).validate(value)


def test_it_is_openapi_3_1() -> None:
    """The version, one scheme of security, and a schema of problems."""
    assert OPENAPI["openapi"].startswith("3.1")
    assert list(OPENAPI["components"]["securitySchemes"]) == ["token"]
    assert "Problem" in OPENAPI["components"]["schemas"]
    assert len(OPERATIONS) >= 35


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_operation_is_described_with_examples_that_are_true(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    """What it does, the scope it needs, its problems, and examples that fit their schemas."""
    assert operation["description"], path
    assert operation["security"][0]["token"], path
    responses = operation["responses"]
    assert {"401", "403", "404", "422", "429", "500", "503"} <= responses.keys()
    for status, response in responses.items():
        if status == "204":
            continue
        [(kind, content)] = response["content"].items()
        if int(status) >= 400:
            assert kind == "application/problem+json", (path, status)
        if kind == "text/event-stream":
            assert content["example"]
            continue
        check(content["schema"], content["example"])
    if "requestBody" in operation:
        assert {"400", "413", "415"} <= responses.keys()
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        for named in schema.get("anyOf", [schema]):
            if "$ref" in named:
                found = OPENAPI["components"]["schemas"][named["$ref"].rpartition("/")[2]]
                assert found["examples"], path
                for example in found["examples"]:
                    check(found, example)


@pytest.mark.fleet
@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="session")
async def test_no_request_makes_it_fail(api: Api, tmp_path: Path) -> None:
    """schemathesis, with requests that fit and that do not, one by one and in sequences: no 5xx but those
    that say "not now", and every answer is one that the description knows."""
    config = tmp_path / "schemathesis.toml"
    config.write_text(f'[parameters]\n"path.colony" = "{api.runtime.colony_id}"\n')
    command = [
        *("schemathesis", "--config-file", str(config), "run", f"{api.gateway.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {await api.token('admin')}"),
        *("--checks", CHECKS, "--mode", "all", "--no-shrink", "--no-color"),
        *("--max-examples", str(EXAMPLES), "--seed", SEED),
        *("--request-timeout", "20", "--warnings", "off"),
    ]
    for operation_id in LEFT_OUT:
        command += ["--exclude-operation-id", operation_id]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=110
    )
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Stateful" in done.stdout
    for limit in await api.json("GET", "/limits"):
        await api.json("PUT", f"/limits/{limit['name']}", json={"most": None})
    assert (await api.json("GET", "/stats"))["nodes"] == 1
