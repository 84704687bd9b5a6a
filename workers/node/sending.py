"""One attempt to deliver a webhook: resolve, check, sign, send, and say what came of it.

The host is resolved here, each of its addresses is checked (`colony.urls`), and the connection is made to
one of these, with the host's name for TLS and in the Host header: what a name resolves to later does not
matter. Of the answer only status and headers are read; redirects are not followed, proxies of the
environment not used.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from http import HTTPStatus
from ipaddress import ip_address

import httpx2
from pydantic_core import from_json, to_json
from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from colony.credentials import resolve
from colony.errors import ConfigurationError, CredentialError
from colony.models import from_ms
from colony.settings import Settings
from colony.store.deliveries import Owed
from colony.urls import Address, Destinations

log = logging.getLogger("colony.courier")

MOST_RETRY_AFTER = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt. `error` None: it has arrived. `final`: it will never; `gone`: the receiver
    said so."""

    error: str | None = None
    final: bool = False
    gone: bool = False
    retry_after: timedelta = timedelta(0)


class Refused(Exception):
    """This URL is not called from here."""


class Sender:
    """Sends webhooks, any number at once. Belongs to one event loop; close it."""

    def __init__(self, settings: Settings) -> None:
        self._timeout = settings.delivery_timeout.total_seconds()
        self._destinations = Destinations.of(
            settings.delivery_allow_private, plain_http=settings.delivery_allow_http
        )
        # Threads of its own: a name server that hangs holds one for each delivery, not those of others.
        self._threads = ThreadPoolExecutor(settings.delivery_concurrency, "colony-resolve")

    @cached_property
    def _transport(self) -> httpx2.AsyncHTTPTransport:
        """The transport alone: no redirects, no proxies, and no URLs in the log (they may hold secrets).

        No connection is kept: it would be found again by its address, whoever's name it was opened for.
        Made for the first webhook: the certificates that it reads take some megabytes.
        """
        return httpx2.AsyncHTTPTransport(
            verify=ssl.create_default_context(),
            trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
        )

    async def close(self) -> None:
        """Give up what is open."""
        if "_transport" in vars(self):
            await self._transport.aclose()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, owed: Owed) -> Outcome:
        """One attempt, within the time limit. Raises nothing that belongs to the receiver."""
        try:
            async with asyncio.timeout(self._timeout):
                return _outcome_of(await self._post(owed))
        except TimeoutError:
            return Outcome(f"no answer within {self._timeout:g} s")
        except Refused as error:
            return Outcome(str(error), final=True)
        except UnicodeError as error:  # labels of a host that are too long, or empty
            return Outcome(f"its host is no name that can be looked up: {error}"[:300], final=True)
        except (CredentialError, ConfigurationError) as error:
            return Outcome(str(error))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            return Outcome(f"{type(error).__name__}: {error}"[:300])
        except Exception as error:  # an attempt that failed, or it would be made again for ever
            log.exception("webhook %s cannot be sent", owed.id)
            return Outcome(f"{type(error).__name__}: the log of the node says more")

    async def _post(self, owed: Owed) -> httpx2.Response:
        url = httpx2.URL(owed.to.url or "")
        addresses = await self._addresses(url)
        body = body_of(owed)
        headers = {
            "host": url.netloc.decode(),
            "user-agent": "colony-webhooks",
            "content-type": "application/json",
            **await asyncio.to_thread(signed, owed, body),
        }
        for address in addresses[:-1]:
            try:
                return await self._post_to(url, address, headers, body)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._post_to(url, addresses[-1], headers, body)

    async def _post_to(
        self, url: httpx2.URL, address: Address, headers: dict[str, str], body: bytes
    ) -> httpx2.Response:
        request = httpx2.Request(
            "POST",
            url.copy_with(host=str(address)),
            headers=headers,
            content=body,
            extensions={"sni_hostname": url.host},
        )
        response = await self._transport.handle_async_request(request)
        await response.aclose()
        return response

    async def _addresses(self, url: httpx2.URL) -> list[Address]:
        """Where the host is, each address checked. Raises `Refused`, or `OSError` when it is unknown."""
        port = url.port or (443 if url.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _resolve, url.host, port)
        addresses = list(dict.fromkeys(ip_address(text) for text in found))
        reason = self._destinations.why_not(url.scheme, url.host, addresses)
        if reason is not None:
            raise Refused(reason)
        return addresses


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(sockaddr[0]) for *_, sockaddr in found]


def body_of(owed: Owed) -> bytes:
    """The body: the same bytes at each attempt. What users wrote is passed on as it was kept."""
    head = to_json({"type": owed.type, "timestamp": from_ms(owed.at_ms)})
    data = owed.data
    if owed.type == "batch.completed":
        result = from_json(data)
        data = to_json({**result, "joined_at": from_ms(result["joined_at"])}).decode()
    return head[:-1] + b',"data":' + data.encode() + b"}"


def signed(owed: Owed, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks; one signature for each secret. Raises `CredentialError`."""
    at = datetime.fromtimestamp(owed.now_ms // 1000, UTC)
    signatures = []
    for reference in owed.to.secret:
        try:
            key = Webhook(resolve(reference).get_secret_value())
        except (binascii.Error, ValueError, EmptyWebhookSecretError):
            raise CredentialError(
                f"{reference}: expected a secret of the form whsec_<base64>, and it is not"
            ) from None
        signatures.append(key.sign(owed.id, at, body.decode()))
    return {
        "webhook-id": owed.id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _outcome_of(response: httpx2.Response) -> Outcome:
    status = response.status_code
    if 200 <= status < 300:
        return Outcome()
    phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else ""
    error = f"answered {status} {phrase}".rstrip()
    if 300 <= status < 400:
        error += ": redirects are not followed"
    gone = status == HTTPStatus.GONE
    return Outcome(error, final=gone, gone=gone, retry_after=retry_after(response.headers))


def retry_after(headers: httpx2.Headers) -> timedelta:
    """What a receiver asks for, in seconds or as a date that is compared with its own; at most a day."""
    text = headers.get("retry-after", "").strip()
    try:
        if text.isdecimal():
            wish = timedelta(seconds=min(int(text), 10**9))
        else:
            its_now = headers.get("date")
            now = parsedate_to_datetime(its_now) if its_now else datetime.now(UTC)
            wish = parsedate_to_datetime(text) - now
    except (ValueError, TypeError):
        return timedelta(0)
    return max(timedelta(0), min(wish, MOST_RETRY_AFTER))
