"""TLS to Redis: what ``rediss://`` means here, said once for redis-py, kombu, Celery and RedBeat.

The server's certificate is always checked: that the CA has signed it, and that it is for the host that the
URL names. Left to themselves, kombu and Flower check nothing for a bare ``rediss://``. A parameter of
the URL goes before the setting:

====================  ==================  ====================================================================
setting               URL parameter       value
====================  ==================  ====================================================================
COLONY_REDIS_TLS_CA   ssl_ca_certs        file with the CA's certificates (PEM); default: those of the system
…_TLS_CERT            ssl_certfile        file with our own certificate, where the server wants one
…_TLS_KEY             ssl_keyfile         file with its key
…_TLS_VERIFY          ssl_check_hostname  ``full`` (true): CA and host name; ``ca`` (false): the CA alone
====================  ==================  ====================================================================

There is no way to check nothing: ``ssl_cert_reqs`` may only be ``required``.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

SCHEME = "rediss"
FILES = {
    "ssl_ca_certs": "COLONY_REDIS_TLS_CA",
    "ssl_certfile": "COLONY_REDIS_TLS_CERT",
    "ssl_keyfile": "COLONY_REDIS_TLS_KEY",
}
"""URL parameters that name a file, and the setting of each."""
YES, NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class Tls:
    """What the settings say, for all URLs of a process."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    check_host: bool = True

    def options(self, url: str) -> dict[str, Any]:
        """As Celery's ``broker_use_ssl`` takes them; empty for a URL without TLS. Raises `ValueError`."""
        given = self._given(url)
        if not given:
            return {}
        return {
            **given,
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_check_hostname": given["ssl_check_hostname"] == "true",
        }

    def url(self, url: str) -> str:
        """The URL with all of it as parameters, for redis-py. Raises `ValueError`."""
        given = self._given(url)
        if not given:
            return url
        parts = urlsplit(url)
        others = [(k, v) for k, v in parse_qsl(parts.query) if not k.startswith("ssl_")]
        return urlunsplit(parts._replace(query=urlencode([*others, *given.items()])))

    def _given(self, url: str) -> dict[str, str]:
        parts = urlsplit(url)
        in_url = {k: v for k, v in parse_qsl(parts.query) if k.startswith("ssl_")}
        if parts.scheme != SCHEME:
            if in_url:
                raise ValueError(
                    f"{', '.join(in_url)} in a {parts.scheme}:// URL of Redis: expected rediss://"
                )
            return {}
        if unknown := in_url.keys() - {*FILES, "ssl_cert_reqs", "ssl_check_hostname"}:
            known = ", ".join([*FILES, "ssl_check_hostname"])
            raise ValueError(
                f"unknown in a URL of Redis: {', '.join(sorted(unknown))}; {known} are"
            )
        if in_url.pop("ssl_cert_reqs", "required").lower() not in ("required", "cert_required"):
            raise ValueError(
                "ssl_cert_reqs in a URL of Redis: expected required; a certificate that is not checked "
                "protects from nobody: name its CA (COLONY_REDIS_TLS_CA), and where the host name differs "
                "COLONY_REDIS_TLS_VERIFY=ca"
            )
        files = {"ssl_ca_certs": self.ca, "ssl_certfile": self.cert, "ssl_keyfile": self.key}
        found = {name: in_url.get(name) or str(path or "") for name, path in files.items()}
        for name, path in found.items():
            if path:
                check_file(path, f"{FILES[name]} ({name})")
        if bool(found["ssl_certfile"]) != bool(found["ssl_keyfile"]):
            raise ValueError(
                "expected both COLONY_REDIS_TLS_CERT and COLONY_REDIS_TLS_KEY (ssl_certfile, "
                "ssl_keyfile), or neither; got one of them"
            )
        check = in_url.get("ssl_check_hostname", str(self.check_host)).lower()
        if check not in YES + NO:
            raise ValueError(
                f"ssl_check_hostname in a URL of Redis: expected true or false, got {check}"
            )
        return {
            **{name: path for name, path in found.items() if path},
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": "true" if check in YES else "false",
        }


def check_file(path: str | Path, named: str) -> None:
    """Raises `ValueError` for a file that this process cannot read, or that holds no PEM."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{named}: {path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in text:
        raise ValueError(f"{named}: {path} holds no PEM: expected -----BEGIN …")
