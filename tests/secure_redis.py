"""Redis servers with TLS, with users, or both; the certificates are made for the test.

TLS needs a Redis that was built with it (the wheel's is not): ``redis-server`` or, of Debian's package
redis-tools, ``redis-check-rdb``, which is the same program. `why_no_tls` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotYet

from colony.redis_server import newest_server
from tests.gateway.kit import free_port

READY_SECONDS = 10.0
USERS = Path(__file__).resolve().parents[1] / "deploy" / "redis" / "users.acl"


@dataclass(frozen=True, slots=True)
class Certificates:
    """A CA, and what it has signed for a server on 127.0.0.1 and for its clients; a CA of somebody else."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path


def make_certificates(folder: Path) -> Certificates:
    """With openssl, for a day."""
    for ca in ("ca", "other"):
        _openssl(
            folder,
            f"req -x509 {CURVE} -nodes -days 1 -subj /CN={ca} -keyout {ca}.key -out {ca}.crt",
        )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
    for name in ("server", "client"):
        _openssl(folder, f"req {CURVE} -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        signed = f"-CA ca.crt -CAkey ca.key -CAcreateserial -days 1 -extfile names -out {name}.crt"
        _openssl(folder, f"x509 -req -in {name}.csr {signed}")
    files = ("ca.crt", "server.crt", "server.key", "client.crt", "client.key", "other.crt")
    return Certificates(*(folder / file for file in files))


CURVE = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"


def _openssl(folder: Path, arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], cwd=folder, check=True, capture_output=True)


@cache
def _tls_program() -> str | None:
    for name in ("redis-server", "valkey-server", "redis-check-rdb"):
        program = shutil.which(name)
        if program is None:
            continue
        tried = subprocess.run(
            ["redis-server", "--tls-port", "1", "--port", "0", "--tls-cert-file", "/nowhere"],
            executable=program,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        if "Bad directive" not in tried.stdout + tried.stderr:
            return program
    return None


def why_no_tls() -> str | None:
    """Why there is no Redis with TLS here; None when there is."""
    if shutil.which("openssl") is None:
        return "openssl is not installed"
    if _tls_program() is None:
        return "no Redis with TLS is installed: apt-get install redis-tools (its redis-check-rdb is one)"
    return None


def skip_without_tls() -> None:
    """Skip the test where no Redis speaks TLS; CI has one."""
    missing = why_no_tls()
    if missing and "CI" not in os.environ:
        pytest.skip(missing)
    assert missing is None, missing


@dataclass(frozen=True, slots=True)
class SecureRedis:
    """A server on loopback."""

    port: int
    scheme: str
    passwords: Mapping[str, str]

    def url(self, user: str = "") -> str:
        """For one of its users; for everybody, where it has none."""
        login = f"{user}:{self.passwords[user]}@" if user in self.passwords else ""
        return f"{self.scheme}://{login}127.0.0.1:{self.port}/0"


@contextmanager
def secure_redis(
    folder: Path, *, certificates: Certificates | None = None, users: bool = False
) -> Iterator[SecureRedis]:
    """A server with TLS (which wants certificates of its clients, too), or with the users that we deploy."""
    port = free_port()
    passwords: dict[str, str] = {}
    options = ["--bind", "127.0.0.1", "--save", "", "--dir", str(folder), "--appendonly", "no"]
    if certificates is None:
        server_program = newest_server()
        program = str(server_program.path)
        options += ["--port", str(port)]
        if server_program.version >= (7, 0, 0):
            options += ["--enable-debug-command", "local"]  # the users must keep it from the roles
    else:
        program = _tls_program() or ""
        options += ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes"]
        options += [
            "--tls-cert-file",
            str(certificates.server),
            "--tls-ca-cert-file",
            str(certificates.ca),
        ]
        options += ["--tls-key-file", str(certificates.server_key)]
    if users:
        passwords, text = _with_passwords(USERS.read_text())
        (folder / "users.acl").write_text(text)
        options += ["--aclfile", str(folder / "users.acl")]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "redis.log").open("wb"))
        server = subprocess.Popen(
            ["redis-server", *options], executable=program, stdout=log, stderr=log
        )
        stack.callback(server.wait)
        stack.callback(server.kill)
        made = SecureRedis(port, "rediss" if certificates else "redis", passwords)
        tls = (
            {}
            if certificates is None
            else {
                "ssl_ca_certs": str(certificates.ca),
                "ssl_certfile": str(certificates.client),
                "ssl_keyfile": str(certificates.client_key),
            }
        )
        until = time.monotonic() + READY_SECONDS
        with Redis.from_url(made.url("admin" if users else ""), **tls) as client:
            while True:
                assert server.poll() is None, (folder / "redis.log").read_text()
                try:
                    client.ping()
                    break
                except NotYet:
                    assert time.monotonic() < until
                    time.sleep(0.02)
        yield made


def _with_passwords(rules: str) -> tuple[dict[str, str], str]:
    """A password for each user, as deploy/redis/start.sh puts them in."""
    passwords, lines = {}, []
    for line in rules.splitlines():
        word, _, rest = line.partition(" ")
        if word != "user":
            continue
        name, _, rest = rest.partition(" ")
        if name == "default":
            lines.append(line)
        else:
            passwords[name] = f"planted-password-of-{name}"
            lines.append(f"user {name} >{passwords[name]} {rest}")
    return passwords, "\n".join(lines) + "\n"
