"""Flower's settings. Each can be set as ``COLONY_FLOWER_<FIELD>``.

Where Redis is, is `colony.settings.Settings`; everything else is Flower's own (``FLOWER_…``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from colony.errors import ConfigurationError
from colony.urls import is_loopback


def _listed(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


class FlowerSettings(BaseSettings):
    """Where Flower listens, who may look, and what it keeps. All have defaults, except who may look."""

    model_config = SettingsConfigDict(
        env_prefix="COLONY_FLOWER_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    host: str = Field(
        "127.0.0.1", description="The address to listen on. TLS is a proxy's business."
    )
    port: int = Field(5555, ge=0, le=65535, description="The port to listen on; 0: any free one.")
    basic_auth: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_listed)] = Field(
        (), description="Who may look: user:password, several with commas between."
    )
    basic_auth_file: Path | None = Field(
        None, description="A file with the same, one in a line; read at the start."
    )
    no_auth: bool = Field(
        False,
        description="Let everybody on this machine look, and stop workers. Refused on an address that "
        "others can reach.",
    )
    read_only: bool = Field(
        False, description="Show, and let nobody stop, revoke or change anything."
    )
    db: Path | None = Field(
        None,
        description="Keep what was heard in this file over a restart. It is a pickle: as private and as "
        "trusted as the program.",
    )
    save_interval: float = Field(
        60.0,
        ge=0,
        description="How often it is written, in seconds, beside the end; 0: then only.",
    )
    max_tasks: int = Field(
        20_000, ge=1, description="How many tasks it remembers; the oldest go. About 5 KB each."
    )
    url_prefix: str = Field("", description="The path that a proxy serves it under.")

    def credentials(self) -> list[str]:
        """Everyone who may look, as ``user:password``. Raises `ConfigurationError` that shows none."""
        given = [one.get_secret_value() for one in self.basic_auth]
        if self.basic_auth_file is not None:
            try:
                given += self.basic_auth_file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigurationError(f"COLONY_FLOWER_BASIC_AUTH_FILE: {error}") from error
        found = [line.strip() for line in given if line.strip()]
        if not all(user and password for user, _, password in (c.partition(":") for c in found)):
            raise ConfigurationError(
                "COLONY_FLOWER_BASIC_AUTH and its file: expected user:password, several with commas "
                "between (in the file one in a line); found one without a user or a password"
            )
        if not all(one.isascii() for one in found):
            raise ConfigurationError(
                "COLONY_FLOWER_BASIC_AUTH and its file: expected ASCII alone; Flower can compare nothing else"
            )
        return found

    def who_may_look(self, host: str, otherwise: list[str], *, oauth: bool = False) -> list[str]:
        """The credentials to ask for: these, or those that Flower was given itself. Raises
        `ConfigurationError` where anybody could come in from elsewhere."""
        found = self.credentials() or otherwise
        if found and self.no_auth:
            raise ConfigurationError(
                "COLONY_FLOWER_NO_AUTH (--no-auth) and credentials: expected one of them"
            )
        if not found and not self.no_auth and not oauth:
            raise ConfigurationError(
                "Flower would let anybody look and stop workers. Name who may, as user:password, in "
                "COLONY_FLOWER_BASIC_AUTH, or in a file that COLONY_FLOWER_BASIC_AUTH_FILE names; or say "
                "--no-auth (COLONY_FLOWER_NO_AUTH=true) to let everybody in who is on this machine"
            )
        if self.no_auth and not is_loopback(host):
            raise ConfigurationError(
                f"--no-auth (COLONY_FLOWER_NO_AUTH) is for this machine alone, and others can reach {host}: "
                "listen on 127.0.0.1, or name who may look"
            )
        return found
