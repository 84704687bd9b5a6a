"""API tokens: who may ask what of a colony through the gateway.

A token is ``colony_<id>_<secret>``: the id finds it, the secret (256 random bits) proves it. It is shown
once, when it is made; kept is its SHA-256, which for so much randomness needs no salt and no stretching.
Each belongs to one colony, has scopes, and ends when it is revoked or, by Redis' clock, when it expires.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import Field, field_validator

from colony.errors import InvalidTask, UnknownToken
from colony.models import Model, from_ms
from colony.operations import Operations, unknown_colony
from colony.sizes import utf8
from colony.store import Store

TOKEN = re.compile(r"colony_([0-9a-f]{16})_([\w-]{43})", re.ASCII)
NAME_CHARACTERS = 100


class Scope(StrEnum):
    """What a token allows. `admin` allows everything."""

    READ = "read"
    SPAWN = "spawn"
    STOP = "stop"
    ADMIN = "admin"


class TokenInfo(Model):
    """A token as operators see it: never its secret. `expires_at` None: until it is revoked."""

    token_id: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None

    @field_validator("created_at", "expires_at", mode="before")
    @classmethod
    def _from_ms(cls, value: object) -> object:
        return from_ms(value) if isinstance(value, int) else value

    def allows(self, scope: Scope) -> bool:
        """Whether it may do what needs this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class _Kept(TokenInfo):
    """A token as the store keeps it."""

    sha256: str = Field(repr=False)


class NewToken(TokenInfo):
    """A token that was just made. `token` is the only time that its secret is seen."""

    token: str = Field(repr=False)


class TokenVerbs(Operations):
    """The verbs for tokens, part of `ColonyRuntime`."""

    async def create_token(
        self, name: str, scopes: Iterable[str], *, expires_in: timedelta | None = None
    ) -> NewToken:
        """Make a token; its `token` cannot be read again. Raises `InvalidTask`, `UnknownColony`."""
        wanted = _scopes(scopes)
        if not name.strip() or len(name) > NAME_CHARACTERS:
            raise InvalidTask(
                f"name of a token: expected 1 to {NAME_CHARACTERS} characters that say who holds it"
            )
        utf8("name of a token", name)
        if expires_in is not None and expires_in <= timedelta(0):
            raise InvalidTask(f"expires_in: expected a time to come, got {expires_in}")
        token_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        new = {"name": name, "scopes": wanted, "sha256": _digest(secret)}
        rest = _Rest.model_validate(new).model_dump_json()
        kept = await self._store.put_token(token_id, rest, ttl=expires_in)
        if kept is None:
            raise unknown_colony(self.colony_id)
        info = _parse(token_id, kept).model_dump()
        return NewToken(token=f"colony_{token_id}_{secret}", **info)

    async def list_tokens(self) -> list[TokenInfo]:
        """The tokens that were not revoked, oldest first; those that have expired, too."""
        found = [_parse(t, kept) for t, kept in (await self._store.tokens()).items()]
        shown = [TokenInfo.model_validate(token.model_dump()) for token in found]
        return sorted(shown, key=lambda token: (token.created_at, token.token_id))

    async def revoke_token(self, token_id: str) -> None:
        """End a token, with the next request that is made with it. Raises `UnknownToken`."""
        if not await self._store.revoke_token(token_id):
            raise UnknownToken(
                f"there is no token {token_id!r} in colony {self.colony_id!r}: "
                "see their ids with `colony token list`"
            )


class _Rest(Model):
    name: str
    scopes: tuple[Scope, ...]
    sha256: str = Field(repr=False)


async def token_holder(store: Store, presented: str) -> TokenInfo | str:
    """The token that was presented, or why it is none (for people; it tells nothing about secrets)."""
    match = TOKEN.fullmatch(presented)
    if match is None:
        return "malformed"
    token_id, secret = match.groups()
    kept, now = await store.read_token(token_id)
    if not kept:
        return "unknown"
    token = _parse(token_id, kept)
    if not hmac.compare_digest(token.sha256, _digest(secret)):
        return "unknown"
    return "expired" if _is_over(token, now) else token


async def is_alive(store: Store, token_id: str) -> bool:
    """Whether a token that was good is still: neither revoked nor expired."""
    kept, now = await store.read_token(token_id)
    return bool(kept) and not _is_over(_parse(token_id, kept), now)


def _is_over(token: TokenInfo, now_ms: int) -> bool:
    return token.expires_at is not None and token.expires_at <= from_ms(now_ms)


def _parse(token_id: str, kept: str) -> _Kept:
    return _Kept.model_validate_json(f'{{"token_id":"{token_id}",{kept.removeprefix("{")}')


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _scopes(scopes: Iterable[str]) -> tuple[Scope, ...]:
    given = list(scopes)
    unknown = [scope for scope in given if scope not in set(Scope)]
    if unknown or not given:
        raise InvalidTask(
            f"scopes of a token: expected some of {', '.join(Scope)}, got {', '.join(unknown) or 'none'}"
        )
    return tuple(scope for scope in Scope if scope in given)
