"""How a webhook proves where it comes from: the schemes, and what of a delivery must not come twice.

============  ==========================================================================================
github        ``X-Hub-Signature-256: sha256=<hex of HMAC-SHA256 over the body>``
              https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
standard      ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``: https://www.standardwebhooks.com
bearer        ``Authorization: Bearer <secret>``; an ``Idempotency-Key`` names the delivery
============  ==========================================================================================

Any of a trigger's secrets may fit; all comparisons take the same time. GitHub signs neither id nor
time, so there a delivery is known by its body: the same id again is the same delivery, another id with
this body is a replay.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from pydantic import SecretStr
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook, WebhookVerificationError

from colony.gateway.problems import Refused

MAX_ID = 200


@dataclass(frozen=True, slots=True)
class Delivery:
    """A call whose origin is proven. `key`: what it must not be accepted twice by, None where it has no
    name; `delivery_id`: how its sender names it."""

    key: str | None
    delivery_id: str | None


def why_unusable(scheme: str, secret: SecretStr) -> str | None:
    """Why nothing can be signed with a secret; None where it is a good one. Never its value."""
    try:
        secret.get_secret_value().encode()
        if scheme == "standard":
            Webhook(secret.get_secret_value())
    except UnicodeEncodeError:
        return "it is no text"
    except (ValueError, EmptyWebhookSecretError):
        return "Standard Webhooks wants base64, such as whsec_…, and it is none"
    return None


def verify(
    scheme: str, headers: Mapping[str, str], body: bytes, secrets: Sequence[SecretStr]
) -> Delivery:
    """The delivery. Raises `Refused`: 401 for a signature that is missing or wrong, 409 for a stale one.

    All `secrets` are usable (`why_unusable`).
    """
    delivery = SCHEMES[scheme](headers, body, [secret.get_secret_value() for secret in secrets])
    if delivery.delivery_id is not None and len(delivery.delivery_id) > MAX_ID:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"the delivery's id has more than {MAX_ID} characters"
        )
    return delivery


def _github(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> Delivery:
    given = headers.get("x-hub-signature-256", "")
    expected = [
        "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        for secret in secrets
    ]
    if not _fits(given, expected):
        raise _unauthorized("X-Hub-Signature-256 is missing or wrong")
    return Delivery(hashlib.sha256(body).hexdigest(), headers.get("x-github-delivery"))


def _standard(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> Delivery:
    delivery_id = headers.get("webhook-id", "")
    stale = False
    for secret in secrets:
        webhook = Webhook(secret)
        try:
            webhook.verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError:
            stale = stale or _was_signed(webhook, headers, body)
        except ValueError:  # no base64, no text: nothing that was signed
            continue
        else:
            return Delivery(delivery_id, delivery_id)
    if stale:
        raise Refused(
            HTTPStatus.CONFLICT, "webhook-timestamp is more than 5 minutes off: send it anew"
        )
    raise _unauthorized("webhook-id, webhook-timestamp or webhook-signature is missing or wrong")


def _was_signed(webhook: Webhook, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether the signature fits, and only its time does not."""
    try:
        at = datetime.fromtimestamp(float(headers.get("webhook-timestamp", "")), UTC)
        expected = webhook.sign(headers.get("webhook-id", ""), at, body.decode())
    except (ValueError, OverflowError, OSError):
        return False
    return any(
        _fits(each, [expected]) for each in headers.get("webhook-signature", "").split(" ")[:10]
    )


def _bearer(headers: Mapping[str, str], body: bytes, secrets: Sequence[str]) -> Delivery:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not _fits(given.strip(), secrets):
        raise _unauthorized("Authorization: Bearer … is missing or wrong")
    named = headers.get("idempotency-key") or None
    return Delivery(named, named)


SCHEMES: Mapping[str, Callable[[Mapping[str, str], bytes, Sequence[str]], Delivery]] = {
    "github": _github,
    "standard": _standard,
    "bearer": _bearer,
}


def _fits(given: str, expected: Sequence[str]) -> bool:
    """Whether it is one of those; all are compared."""
    found = [hmac.compare_digest(given.encode(), one.encode()) for one in expected]
    return any(found)


def _unauthorized(detail: str) -> Refused:
    return Refused(HTTPStatus.UNAUTHORIZED, detail, headers={"WWW-Authenticate": "Signature"})
