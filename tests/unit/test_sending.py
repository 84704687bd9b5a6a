"""One attempt: over TLS with the host's name, to the address that was checked, and what came of it."""

from __future__ import annotations

import logging
import shutil
import socket
import ssl
import subprocess
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from colony.deliveries import why_not_named
from colony.models import OnComplete
from colony.settings import Settings
from colony.store.deliveries import Owed
from tests.fleet.receiver import SECRET, Answer, receiving
from workers.node.sending import Outcome, Sender, body_of, retry_after


def owed(url: str) -> Owed:
    """A delivery, claimed now."""
    now = time.time_ns() // 1_000_000
    told = OnComplete(url=url, secret=("env:TEST_HOOK_SECRET",))
    return Owed("m1", "worker.completed", now, '{"n":9007199254740993}', told, "", 1, "t", now)


async def send(url: str, what: Owed | None = None, **settings: Any) -> Outcome:
    """One attempt."""
    sender = Sender(Settings(delivery_allow_private=("127.0.0.1/32",), **settings))
    try:
        return await sender.send(what or owed(url))
    finally:
        await sender.close()


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_HOOK_SECRET", SECRET)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")


async def test_what_is_sent_is_what_was_kept(caplog: pytest.LogCaptureFixture) -> None:
    """JSON as it was kept, signed; the Host header is the URL's; no proxy is asked, no URL is logged."""
    caplog.set_level(logging.INFO)
    with receiving() as receiver:
        assert await send(receiver.url("/a?b=hush", "localhost")) == Outcome()
        [request] = receiver.received
        assert request.path == "/a?b=hush"
        assert "hush" not in caplog.text
        assert request.headers["host"] == receiver.url("", "localhost").removeprefix("http://")
        assert request.headers["content-type"] == "application/json"
        assert request.verified()["data"] == {"n": 2**53 + 1}


async def test_a_certificate_is_checked_for_the_name_and_not_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS: localhost has a certificate and is called at 127.0.0.1; by its address alone it is not trusted."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with receiving(context) as receiver:
        where = receiver.url("/tls", "localhost").replace("http:", "https:")
        unknown = await send(where)
        assert "CERTIFICATE_VERIFY_FAILED" in str(unknown.error)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await send(where) == Outcome()
        wrong = await send(where.replace("localhost", "127.0.0.1"))
        assert "CERTIFICATE_VERIFY_FAILED" in str(wrong.error)
        assert len(receiver.received) == 1


async def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a name resolves to after it was checked does not matter: the checked address is connected to."""
    asked = []
    real = socket.getaddrinfo

    def rebinding(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "rebind.test":
            return real(host, *args, **kwargs)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "169.254.169.254", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    with receiving() as receiver:
        assert await send(receiver.url("/", "rebind.test")) == Outcome()
        assert (len(asked), len(receiver.received)) == (1, 1)


async def test_what_comes_back_is_told() -> None:
    """Statuses, redirects, silence, nobody there: an error each; Retry-After is handed on."""
    with receiving() as receiver:
        receiver.answers["/busy"] = [Answer(429, {"Retry-After": "7"})]
        assert await send(receiver.url("/busy")) == Outcome(
            "answered 429 Too Many Requests", retry_after=timedelta(seconds=7)
        )
        receiver.answers["/gone"] = [Answer(410)]
        assert await send(receiver.url("/gone")) == Outcome("answered 410 Gone", True, True)
        receiver.answers["/slow"] = [Answer(delay=3)]
        slow = await send(receiver.url("/slow"), delivery_timeout=timedelta(seconds=0.2))
        assert slow == Outcome("no answer within 0.2 s")
        nowhere = receiver.url("/")
    assert str((await send(nowhere)).error).startswith("ConnectError")
    unknown = await send("https://no-such-host.invalid/")
    assert str(unknown.error).startswith("gaierror")
    assert not unknown.final


async def test_what_cannot_be_made_a_body_is_an_attempt_that_failed() -> None:
    """It counts, so that it is given up one day; the node's log says more."""
    odd = replace(owed("https://127.0.0.1/"), type="batch.completed")
    failed = await send("", odd)
    assert str(failed.error).startswith("KeyError")
    assert not failed.final


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "x" * 300])
async def test_a_host_that_nobody_can_look_up(host: str) -> None:
    """It is given up at once, with its reason: it would be tried for ever."""
    given_up = await send(f"https://{host}/")
    assert "no name that can be looked up" in str(given_up.error)
    assert given_up.final


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "120"}, 120),
        ({"retry-after": "999999999999"}, 86_400),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "soon"}, 0),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:00 GMT",
                "date": "Wed, 21 Oct 2026 07:26:30 GMT",
            },
            90,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({}, 0),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: int) -> None:
    """Seconds, or a date by the receiver's own clock; at most a day; nonsense is as none."""
    assert retry_after(httpx2.Headers(headers)) == timedelta(seconds=seconds)


def test_the_body_is_the_same_each_time() -> None:
    """It depends on what is kept, not on the attempt; times are RFC 3339."""
    told = OnComplete(url="https://example.org/", secret=("env:S",))
    data = '{"colony_id":"c","batch_id":"b1","joined_at":1767225600000}'
    first = Owed("b1_completed", "batch.completed", 1767225600000, data, told, "", 1, "t1", 5)
    assert body_of(first) == (
        b'{"type":"batch.completed","timestamp":"2026-01-01T00:00:00Z",'
        b'"data":{"colony_id":"c","batch_id":"b1","joined_at":"2026-01-01T00:00:00Z"}}'
    )


@pytest.mark.parametrize(
    ("reference", "fits"),
    [
        ("env:HOOK_A", True),
        ("env:HOOK", False),
        ("env:A_HOOK_A", False),
        ("file:/run/hooks/a", True),
        ("file:/run/hooks/a/b..c", True),
        ("file:/run/hooks/../model_key", False),
        ("file:/run/hooks-of-others", False),
        ("env:EXACT", True),
        ("env:EXACTLY", False),
    ],
)
def test_which_secrets_a_caller_may_name(reference: str, fits: bool) -> None:
    """What is listed, or begins so; never what leads out of a directory. All of them must be."""
    listed = ("env:HOOK_*", "file:/run/hooks/*", "env:EXACT")
    told = OnComplete(url="https://example.org/", secret=("env:HOOK_A", reference))
    assert (why_not_named(told, listed) is None) == fits
    assert why_not_named(OnComplete(task="mine"), ()) is None
    assert why_not_named(None, ()) is None
