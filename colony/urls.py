"""Where webhooks may go: what a URL must look like, and which addresses may be called.

Whoever names a URL makes a node call it from inside your network (SSRF). So the URL is checked when it is
accepted (`check_url`: its form), and its host each time it is called (`Destinations`: its addresses), by
the node that calls: every address that a name resolves to must be public, or allowed by
`COLONY_DELIVERY_ALLOW_PRIVATE`, and the connection is made to the very address that was checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Self
from urllib.parse import SplitResult, urlsplit

from colony.errors import ConfigurationError

MAX_URL = 2000

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_PLAIN = re.compile(r"[!-\[\]-~]+")
"""Printable ASCII without blanks and backslashes: what all parsers of URLs read alike."""
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?")
_NAT64 = ip_network("64:ff9b::/96")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine and nobody else can reach it there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_url(url: str) -> str:
    """The URL of a receiver in one spelling. Raises `ValueError` that says what is wrong with it."""
    if len(url) > MAX_URL or not _PLAIN.fullmatch(url):
        raise ValueError(
            f"expected a URL of 1 to {MAX_URL} ASCII characters without blanks, got {len(url)} characters"
        )
    parts, port = _split(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"expected a URL with https://, got {parts.scheme or 'no'} scheme")
    if "@" in parts.netloc:
        raise ValueError(
            "a URL must not hold a user or password: it is kept and shown; what is sent is signed"
        )
    host = parts.hostname or ""
    if not (_HOST.fullmatch(host) or _literal(host)):
        raise ValueError(f"expected a host name or an IP address in the URL, got {host[:80]!r}")
    if "#" in url:
        raise ValueError("a URL of a receiver has no #fragment")
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc += f":{port}"
    return parts._replace(netloc=netloc, path=parts.path or "/").geturl()


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"not a URL: {error}") from error
    if port == 0:
        raise ValueError("not a URL: port 0")
    return parts, port


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def inner_addresses(address: Address) -> list[Address]:
    """An address, and those that stand inside it: what a gateway, or the kernel, would turn it into."""
    found: list[Address] = [address]
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            mapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if mapped is not None:
            found.append(mapped)
    return found


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet, whatever form it has."""
    *_, inner = inner_addresses(address)
    if isinstance(inner, IPv6Address) and (inner.is_site_local or inner.teredo is not None):
        return False
    return inner.is_global and not (inner.is_multicast or inner.is_reserved or inner.is_unspecified)


@dataclass(frozen=True, slots=True)
class Destinations:
    """Which addresses this process calls: public ones by https, and those that are named."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    plain_http: bool = False

    @classmethod
    def of(cls, allowed: Sequence[str], *, plain_http: bool) -> Self:
        """Of host names, addresses and networks. Raises `ConfigurationError`."""
        hosts, networks = set(), []
        for entry in allowed:
            try:
                networks.append(ip_network(entry))
            except ValueError as error:
                name = entry.lower()
                if not _HOST.fullmatch(name) or not re.search("[a-z]", name):
                    raise ConfigurationError(
                        f"COLONY_DELIVERY_ALLOW_PRIVATE: expected host names, addresses or networks such as "
                        f"127.0.0.1/32, got {entry!r}"
                    ) from error
                hosts.add(name)
        return cls(frozenset(hosts), tuple(networks), plain_http)

    def why_not(self, scheme: str, host: str, addresses: Sequence[Address]) -> str | None:
        """Why a host with these addresses is not called; None when it may be."""
        closed = [a for a in addresses if not is_public(a) and not self._named(host, a)]
        if closed:
            return (
                f"{host} is at {closed[0]}, which is not a public address; a node calls it only where "
                "COLONY_DELIVERY_ALLOW_PRIVATE names it"
            )
        if scheme != "https" and not (
            self.plain_http or all(self._named(host, a) for a in addresses)
        ):
            return (
                f"{host} is to be called by http: expected https (or COLONY_DELIVERY_ALLOW_HTTP=1)"
            )
        return None

    def _named(self, host: str, address: Address) -> bool:
        inner = inner_addresses(address)
        return host.rstrip(".") in self.hosts or any(a in n for n in self.networks for a in inner)
