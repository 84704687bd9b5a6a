"""TLS to Redis, with certificates of both sides: everything works, and nothing is let through unchecked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import ConnectionError

from colony import ColonyRuntime
from colony.doorbell import celery_app
from colony.errors import StoreUntrusted
from colony.redis_server import EmbeddedRedis
from colony.settings import Settings
from tests.fleet.secure_journey import journey, whole_journey
from tests.secure_redis import (
    Certificates,
    SecureRedis,
    make_certificates,
    secure_redis,
    skip_without_tls,
)

pytestmark = [pytest.mark.fleet]

TOLD_WITHIN = 2.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of this run."""
    skip_without_tls()
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def server(
    certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureRedis]:
    """A Redis that speaks TLS alone."""
    with secure_redis(tmp_path_factory.mktemp("tls"), certificates=certificates) as made:
        yield made


def right(certificates: Certificates) -> dict[str, str]:
    """The settings that fit."""
    return {
        "redis_tls_ca": str(certificates.ca),
        "redis_tls_cert": str(certificates.client),
        "redis_tls_key": str(certificates.client_key),
    }


@pytest.mark.timeout(180)
async def test_the_whole_journey_over_tls(certificates: Certificates, tmp_path: Path) -> None:
    """Producer, node, beat, gateway, Flower, operator and a Celery client, each a user of its own: there is
    no port that takes a byte unencrypted."""
    settings = right(certificates)
    foreign = {
        "broker_use_ssl": use_ssl(certificates),
        "redis_backend_use_ssl": use_ssl(certificates),
    }
    with secure_redis(tmp_path, certificates=certificates, users=True) as server:
        async with journey(tmp_path, server.url, settings) as running:
            await whole_journey(running, foreign)
            assert "insecure" not in running.logs().lower(), running.logs()


def use_ssl(certificates: Certificates) -> dict[str, object]:
    """For a Celery app that is not ours."""
    url = "rediss://h"
    settings = Settings.model_validate({"redis_url": url, **right(certificates)})
    return settings.tls.options(url)


WRONG: Mapping[str, tuple[dict[str, str], str]] = {
    "a CA that did not sign it": (
        {"redis_tls_ca": "other_ca"},
        "set COLONY_REDIS_TLS_CA to the file",
    ),
    "the system's CAs": ({"redis_tls_ca": ""}, "set COLONY_REDIS_TLS_CA to the file"),
    "no certificate of ours": (
        {"redis_tls_cert": "", "redis_tls_key": ""},
        "COLONY_REDIS_TLS_CERT",
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_is_not_trusted_is_refused_in_time(
    server: SecureRedis, certificates: Certificates, what: str
) -> None:
    """Each is told with the setting that mends it, within 2 s."""
    changes, words = WRONG[what]
    given = right(certificates)
    for name, value in changes.items():
        given[name] = str(getattr(certificates, value)) if value else ""
    chosen = {name: value for name, value in given.items() if value}
    began = time.monotonic()
    with pytest.raises(Exception, match=words) as caught:
        async with ColonyRuntime(
            "any", settings=Settings.model_validate({"redis_url": server.url(), **chosen})
        ):
            pass
    assert time.monotonic() - began < TOLD_WITHIN
    if "CA" in what:
        assert isinstance(caught.value, StoreUntrusted)


async def test_a_certificate_for_another_host_is_refused(
    server: SecureRedis, certificates: Certificates
) -> None:
    """The certificate names 127.0.0.1 and localhost; any other name is refused, unless only the CA counts."""
    url = server.url().replace("127.0.0.1", "0.0.0.0")  # the same server, by another address
    given = {"redis_url": url, **right(certificates)}
    with pytest.raises(StoreUntrusted, match="COLONY_REDIS_TLS_VERIFY=ca"):
        async with ColonyRuntime("any", settings=Settings.model_validate(given)):
            pass
    async with ColonyRuntime(
        "any", settings=Settings.model_validate({**given, "redis_tls_verify": "ca"})
    ) as runtime:
        assert await runtime.list_nodes() == []


async def test_a_url_may_say_it_all(server: SecureRedis, certificates: Certificates) -> None:
    """Parameters of the URL go before the settings, also in Celery's part."""
    url = (
        f"{server.url()}?ssl_ca_certs={quote(str(certificates.ca))}"
        f"&ssl_certfile={certificates.client}&ssl_keyfile={certificates.client_key}"
    )
    settings = Settings(redis_url=url, redis_tls_ca=certificates.other_ca)
    async with ColonyRuntime("any", settings=settings) as runtime:
        assert await runtime.list_nodes() == []
        assert await runtime.queue_depth() == 0
    assert celery_app("any", settings).conf.broker_use_ssl["ssl_ca_certs"] == str(certificates.ca)


async def test_a_plain_url_to_a_tls_port_and_the_reverse(
    server: SecureRedis, certificates: Certificates
) -> None:
    """Both are told apart from a server that is away."""
    plain = server.url().replace("rediss:", "redis:")
    with pytest.raises(Exception, match=r"rediss:// in COLONY_REDIS_URL"):
        async with ColonyRuntime("any", settings=Settings(redis_url=plain)):
            pass
    with EmbeddedRedis() as other:
        url = other.url.replace("redis:", "rediss:")
        given = {"redis_url": url, **right(certificates)}
        with pytest.raises(Exception, match="if it does not speak TLS"):
            async with ColonyRuntime("any", settings=Settings.model_validate(given)):
                pass


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"redis_url": "rediss://:planted@h?ssl_cert_reqs=none"}, "expected required"),
        ({"broker_url": "rediss://h?ssl_cert_reqs=optional"}, "expected required"),
        ({"redis_url": "redis://h?ssl_ca_certs=/tmp/ca"}, "expected rediss://"),
        (
            {"redis_url": "rediss://h?ssl_ca_cert=/tmp/ca"},
            "unknown in a URL of Redis: ssl_ca_cert;",
        ),
        ({"redis_url": "rediss://h", "redis_tls_ca": "/nowhere"}, "COLONY_REDIS_TLS_CA"),
        ({"redis_url": "rediss://h", "redis_tls_ca": __file__}, "holds no PEM"),
    ],
)
def test_settings_that_would_check_nothing_are_refused(given: dict[str, str], words: str) -> None:
    """No URL and no typing error turns the check off; the message does not hold the password."""
    with pytest.raises(ValidationError, match=words) as caught:
        Settings.model_validate(given)
    assert "planted" not in str(caught.value)


def test_every_command_says_which_setting(server: SecureRedis, certificates: Certificates) -> None:
    """A node, the doctor and an operator with a wrong CA: no traceback, the setting, no password."""
    env = {**os.environ, **{f"COLONY_{k.upper()}": v for k, v in right(certificates).items()}}
    env |= {
        "COLONY_REDIS_URL": server.url().replace("127.0.0.1", "user:planted@127.0.0.1"),
        "COLONY_REDIS_TLS_CA": str(certificates.other_ca),
    }
    for command in (
        ["colony.cli", "list"],
        ["colony.cli", "doctor"],
        ["workers", "tests.fleet.definitions:deadly"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command], env=env, capture_output=True, text=True, check=False
        )
        said = " ".join((done.stdout + done.stderr).split())
        assert done.returncode != 0
        assert "COLONY_REDIS_TLS_CA" in said, said
        assert "Traceback" not in said
        assert "planted" not in said


def test_the_server_of_these_tests_checks_clients(
    server: SecureRedis, certificates: Certificates
) -> None:
    """Otherwise the tests above would show little."""
    with (
        Redis.from_url(server.url(), ssl_ca_certs=str(certificates.ca)) as nobody,
        pytest.raises(ConnectionError),
    ):
        nobody.ping()
