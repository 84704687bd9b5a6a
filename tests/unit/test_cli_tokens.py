"""`colony token` and what `colony gateway` refuses to start with."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from colony.tokens import TOKEN
from tests.unit.cli_kit import answer, call, registered_colony


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A Redis with one colony."""
    with registered_colony("shop") as found:
        yield found


def test_the_life_of_a_token(url: str) -> None:
    """Made and shown once, listed without its secret, revoked."""
    code, out, err = call("token", "create", "ci", "-s", "read", "-s", "spawn", "--redis-url", url)
    token = out.strip()
    assert code == 0
    match = TOKEN.fullmatch(token)
    assert match is not None
    token_id, secret = match.groups()
    assert "only time" in err
    assert token_id in err
    assert secret not in err
    code, out, _ = call("token", "list", "--redis-url", url)
    assert re.search(rf"{token_id}\s+read,spawn\s+\S+ s\s+never\s+ci", out)
    assert secret not in out
    [listed] = answer(url, "token", "list")
    assert listed["scopes"] == ["read", "spawn"]
    assert "token" not in listed
    assert "sha256" not in listed
    assert answer(url, "token", "revoke", token_id) == {"revoked": [token_id]}
    assert answer(url, "token", "list") == []
    code, _, err = call("token", "revoke", token_id, "--redis-url", url)
    assert (code, token_id in err) == (1, True)


def test_a_token_that_expires(url: str) -> None:
    """The end is told; a wrong one is wrong usage."""
    made = answer(url, "token", "create", "ci", "--scope", "admin", "--expires", "30d")
    assert made["token"].startswith("colony_")
    assert made["expires_at"] > made["created_at"]
    assert call("token", "create", "ci", "--redis-url", url)[0] == 2
    assert call("token", "create", "ci", "-s", "all", "--redis-url", url)[0] == 2
    assert (
        call("token", "create", "ci", "-s", "read", "--expires", "soon", "--redis-url", url)[0] == 2
    )
    for wrong in (
        ["token", "create", "  ", "-s", "read"],
        ["token", "create", "x", "-s", "read", "--expires", "0"],
    ):
        code, _, err = call(*wrong, "--redis-url", url)
        assert (code, "expected" in err) == (1, True)


def test_a_gateway_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong setting is named; without tokens others must not reach it."""
    monkeypatch.setenv("COLONY_GATEWAY_MAX_BODY_BYTES", "12")
    code, _, err = call("gateway")
    assert (code, "COLONY_GATEWAY_MAX_BODY_BYTES" in err) == (1, True)
    monkeypatch.delenv("COLONY_GATEWAY_MAX_BODY_BYTES")
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        code, _, err = call("gateway", "--no-auth", "--host", host)
        assert (code, "this machine alone" in err) == (1, True)
