"""Who Flower lets in."""

from __future__ import annotations

from pathlib import Path

import pytest

from colony.errors import ConfigurationError
from colony.flower.settings import FlowerSettings

LOCAL, PUBLIC = "127.0.0.1", "0.0.0.0"


def settings(**given: object) -> FlowerSettings:
    """They, from a dictionary."""
    return FlowerSettings.model_validate(given)


def test_credentials_come_from_the_environment_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both count; a password may hold colons; none is shown by repr."""
    users = tmp_path / "users"
    users.write_text("ada:pa:ss\n\n")
    monkeypatch.setenv("COLONY_FLOWER_BASIC_AUTH", "bob:secret,eve:other")
    monkeypatch.setenv("COLONY_FLOWER_BASIC_AUTH_FILE", str(users))
    found = FlowerSettings()
    assert found.who_may_look(PUBLIC, []) == ["bob:secret", "eve:other", "ada:pa:ss"]
    assert "secret" not in repr(found)


def test_those_that_flower_was_given_itself_count() -> None:
    """FLOWER_BASIC_AUTH, or OAuth."""
    assert settings().who_may_look(PUBLIC, ["a:b"]) == ["a:b"]
    assert settings().who_may_look(PUBLIC, [], oauth=True) == []


@pytest.mark.parametrize(
    ("given", "host", "why"),
    [
        ({}, LOCAL, "would let anybody look"),
        ({"no_auth": True}, PUBLIC, "for this machine alone"),
        ({"no_auth": True}, "", "for this machine alone"),
        ({"no_auth": True, "basic_auth": "a:b"}, LOCAL, "expected one of them"),
        ({"basic_auth": "hunter2"}, LOCAL, "expected user:password"),
        ({"basic_auth": "a:hünter2"}, LOCAL, "expected ASCII"),
        ({"basic_auth_file": "/nowhere"}, LOCAL, "COLONY_FLOWER_BASIC_AUTH_FILE"),
    ],
)
def test_what_is_refused(given: dict[str, object], host: str, why: str) -> None:
    """With words that name the setting, and no password."""
    with pytest.raises(ConfigurationError, match=why) as caught:
        settings(**given).who_may_look(host, [])
    assert "nter2" not in str(caught.value)


def test_everybody_on_this_machine() -> None:
    """Only when it was asked for."""
    assert settings(no_auth=True).who_may_look(LOCAL, []) == []
