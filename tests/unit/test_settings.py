"""Settings from secret files."""

from __future__ import annotations

from pathlib import Path

import pytest

from colony.errors import ConfigurationError
from colony.settings import SECRETS_DIRECTORIES, Settings


@pytest.mark.parametrize("variable", SECRETS_DIRECTORIES)
def test_a_file_holds_what_the_environment_does_not(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line end at its end does not count; the environment goes before it."""
    monkeypatch.delenv("COLONY_REDIS_URL", raising=False)
    (tmp_path / "colony_redis_url").write_text("rediss://node:secret@redis:6379/0\n")
    monkeypatch.setenv(variable, str(tmp_path))
    assert Settings().redis_url == "rediss://node:secret@redis:6379/0"
    monkeypatch.setenv("COLONY_REDIS_URL", "redis://127.0.0.1:1/0")
    assert Settings().redis_url == "redis://127.0.0.1:1/0"


def test_a_directory_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a node that silently takes the default Redis."""
    monkeypatch.setenv("COLONY_SECRETS_DIR", "/nonexistent")
    with pytest.raises(ConfigurationError, match="/nonexistent"):
        Settings()
