"""Webhooks in: a signed call on a trigger's path becomes a worker. Its signature is its token.

Each refusal is counted in the colony's totals by its status: ``webhook_401``, ``webhook_429``, …
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import JsonValue, SecretStr
from pydantic_core import from_json

from colony.credentials import resolve
from colony.errors import CredentialError, UnreadableTrigger
from colony.gateway.auth import Doorkeeper, HookRoute
from colony.gateway.problems import Refused
from colony.gateway.routes.common import ColonyId, Opened
from colony.gateway.signatures import Delivery, verify, why_unusable
from colony.runtime import ColonyRuntime
from colony.triggers import TriggerSpec, WebhookConfig
from colony.triggers.firing import Occasion
from colony.triggers.spec import METHODS

router = APIRouter(tags=["webhooks"], route_class=HookRoute)
log = logging.getLogger("colony.gateway")

TOLD = ("content-type", "user-agent", "webhook-id", "webhook-timestamp")
HUSHED = re.compile(
    r"token|secret|sign|key|auth|cookie|forwarded|real-ip|passw|jwt|session|credential|assertion|oidc",
    re.IGNORECASE,
)
HUSHED_QUERY = re.compile(
    r"token|secret|signature|^sig$|^auth(orization)?$|passw|jwt|session|credential|^(api|access)[_-]?key$",
    re.IGNORECASE,
)
MAX_HEADERS = 50
MAX_HEADER = 1024


@router.api_route(
    "/hooks/{path:path}",
    methods=list(METHODS),
    status_code=HTTPStatus.ACCEPTED,
    include_in_schema=False,
)
async def receive(
    colony: ColonyId, path: Annotated[str, Path(max_length=200)], request: Request, opened: Opened
) -> Response:
    """202 with the worker's id once it is accepted; 200 with the same id for the same delivery again."""
    runtime = opened.runtime
    spec, config = await _trigger_at(runtime, f"/{path}")
    if request.method not in config.methods:
        allowed = ", ".join(config.methods)
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED,
            f"expected {allowed}, got {request.method}",
            headers={"Allow": allowed},
        )
    body = await _body(request, config)
    delivery = _verified(runtime, spec, config, request, body)
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    await doorkeeper.admit_hook(colony, spec.id)
    values = {"webhook": _told(request, path, body, delivery)}
    fired = await runtime.fire(spec, Occasion("webhook", values, delivery.key, config.remember))
    if not fired.first and delivery.key != delivery.delivery_id:
        await _must_be_the_same(runtime, fired.worker_id, delivery)
    status = HTTPStatus.ACCEPTED if fired.first else HTTPStatus.OK
    return JSONResponse({"worker_id": fired.worker_id, "trigger_id": spec.id}, status)


async def _trigger_at(runtime: ColonyRuntime, path: str) -> tuple[TriggerSpec, WebhookConfig]:
    try:
        spec = await runtime.trigger_at(path)
    except UnreadableTrigger as error:
        log.warning("colony %s: %s is called: %s", runtime.colony_id, path, error)
        raise Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the trigger cannot be read: put it anew",
            retry_after=60,
        ) from error
    if spec is None or spec.webhook is None:
        raise Refused(HTTPStatus.NOT_FOUND, "no trigger of this colony has this path")
    return spec, spec.webhook


async def _body(request: Request, config: WebhookConfig) -> bytes:
    """The whole body, as long as it may be; what is longer is not read."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > config.max_bytes:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body has more than the {config.max_bytes} bytes that this trigger takes",
                headers={"Connection": "close"},
            )
    return bytes(body)


def _verified(
    runtime: ColonyRuntime, spec: TriggerSpec, config: WebhookConfig, request: Request, body: bytes
) -> Delivery:
    secrets = _usable(runtime.colony_id, spec.id, config)
    if not secrets:
        raise Refused(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"this gateway has no secret of trigger {spec.id!r} that it can use: its log says why",
            retry_after=60,
        )
    return verify(config.scheme, request.headers, body, secrets)


def _usable(colony_id: str, trigger_id: str, config: WebhookConfig) -> list[SecretStr]:
    """The secrets that can be read and used here: one that is not (yet) there does not stop the others."""
    found = []
    for place, reference in enumerate(config.secrets):
        try:
            secret = resolve(reference)
        except CredentialError as error:
            _warn_once(colony_id, trigger_id, place, str(error))
            continue
        if wrong := why_unusable(config.scheme, secret):
            _warn_once(colony_id, trigger_id, place, wrong)
        else:
            found.append(secret)
    return found


@lru_cache(maxsize=1000)
def _warn_once(colony_id: str, trigger_id: str, place: int, wrong: str) -> None:
    """A line for each secret, not for each call."""
    log.warning(
        "colony %s, trigger %s: secrets[%d] is not used: %s", colony_id, trigger_id, place, wrong
    )


def _told(request: Request, path: str, body: bytes, delivery: Delivery) -> dict[str, JsonValue]:
    """What the worker and its task may know of the call. Nothing that by its name may hold a secret."""
    told = {
        name: value[:MAX_HEADER]
        for name, value in request.headers.items()
        if name in TOLD or (name.startswith("x-") and not HUSHED.search(name))
    }
    return {
        "path": f"/{path}",
        "method": request.method,
        "headers": dict(list(told.items())[:MAX_HEADERS]),
        "query": {
            name: value
            for name, value in request.query_params.items()
            if not HUSHED_QUERY.search(name)
        },
        "delivery_id": delivery.delivery_id,
        "payload": _payload(request.headers, body),
    }


def _payload(headers: Mapping[str, str], body: bytes) -> Any:
    """JSON as it is; anything else as text under ``raw_body``."""
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    try:
        if kind == "application/json" or kind.endswith("+json"):
            return from_json(body, allow_inf_nan=False) if body else None
        return {"raw_body": body.decode()}
    except ValueError as error:
        raise Refused(HTTPStatus.BAD_REQUEST, f"the body is no {kind}: {error}") from error


async def _must_be_the_same(runtime: ColonyRuntime, worker_id: str, delivery: Delivery) -> None:
    """GitHub signs the body alone: this one came before, under this id or another."""
    record = await runtime.get_worker(worker_id)
    known = record.data.get("webhook") if record else None
    if not isinstance(known, dict) or "delivery_id" not in known:
        return  # a stage of the pipeline has taken it out
    if known["delivery_id"] != delivery.delivery_id:
        raise Refused(
            HTTPStatus.CONFLICT, "this body was delivered before, under another delivery id"
        )
