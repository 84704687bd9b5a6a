"""Which URLs are taken for webhooks, and which addresses are called."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from colony.errors import ConfigurationError
from colony.models import OnComplete, Subscription
from colony.urls import Destinations, check_url, is_public

PUBLIC = ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::101:101", "2002:101:101::1"]
INSIDE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
    *("0.0.0.0", "255.255.255.255", "224.0.0.1", "192.0.2.1", "198.18.0.1", "240.0.0.1"),
    *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "::127.0.0.1"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    """The open internet, also behind a NAT64 prefix."""
    assert is_public(ip_address(address))


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_of_the_inside(address: str) -> None:
    """Loopback, private, link-local and metadata, unspecified, multicast, reserved; in IPv6 clothes, too."""
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("ftp://example.org/", "ftp scheme"),
        ("example.org/hook", "no scheme"),
        ("https://user:secret@example.org/", "user or password"),
        ("https:///hook", "host name"),
        ("https://exa mple.org/", "without blanks"),
        ("https://example.org\\@127.0.0.1/", "without blanks"),
        ("https://exämple.org/", "ASCII"),
        ("https://example.org/#a", "fragment"),
        ("https://example.org:0/", "port 0"),
        ("https://example.org:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://example.org/" + "a" * 2000, "2000"),
    ],
)
def test_urls_that_are_refused(url: str, complaint: str) -> None:
    """The complaint says what is wrong, and never repeats a password."""
    with pytest.raises(ValueError, match=complaint) as caught:
        OnComplete(url=url, secret=("env:S",))
    assert "secret@" not in str(caught.value)


def test_a_url_is_kept_in_one_spelling() -> None:
    """Scheme and host in small letters, so that one origin is one lane; the rest as it is."""
    assert check_url("HTTPS://Hooks.Example.org:8443/A%20b?C=D") == (
        "https://hooks.example.org:8443/A%20b?C=D"
    )
    assert check_url("https://example.org") == "https://example.org/"
    assert check_url("https://[2606:4700::1]/x") == "https://[2606:4700::1]/x"


def test_what_is_named_may_be_called() -> None:
    """By network or by name; every address of a host counts; http only where it is named, or allowed."""
    inside, outside = ip_address("10.0.0.7"), ip_address("1.1.1.1")
    shut = Destinations.of([], plain_http=False)
    assert "10.0.0.7, which is not a public address" in str(
        shut.why_not("https", "h.example", [outside, inside])
    )
    assert shut.why_not("https", "h.example", [outside]) is None
    assert "expected https" in str(shut.why_not("http", "h.example", [outside]))
    assert Destinations.of([], plain_http=True).why_not("http", "h.example", [outside]) is None
    for allowed in (["10.0.0.0/8"], ["H.example"], ["10.0.0.7"]):
        named = Destinations.of(allowed, plain_http=False)
        assert named.why_not("http", "h.example", [inside]) is None
        assert named.why_not("https", "i.example", [ip_address("192.168.0.1")]) is not None
    mapped = Destinations.of(["10.0.0.0/8"], plain_http=False)
    assert mapped.why_not("http", "h.example", [ip_address("::ffff:10.0.0.7")]) is None
    for wrong in ("10.0.0.1/8", "300.1.1.1", "a b"):
        with pytest.raises(ConfigurationError, match="COLONY_DELIVERY_ALLOW_PRIVATE"):
            Destinations.of([wrong], plain_http=False)


def test_a_secret_is_named_and_never_given() -> None:
    """A value in place of a reference is refused, and not repeated."""
    with pytest.raises(ValueError, match="never given itself") as caught:
        OnComplete(url="https://example.org/", secret=("whsec_c2VjcmV0",))
    assert "c2VjcmV0" not in str(caught.value)
    with pytest.raises(ValueError, match="either task or url"):
        OnComplete(task="a", url="https://example.org/", secret=("env:A",))
    with pytest.raises(ValueError, match="goes with a secret"):
        OnComplete(url="https://example.org/")
    one = Subscription.model_validate({"id": "a", "url": "https://a.example", "secret": "env:A"})
    assert one.secret == ("env:A",)
