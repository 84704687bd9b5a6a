"""Credentials: the accounts that a fleet acts through, by alias; their values only where they are used.

    Colony(…, credentials=[
        Credential(alias="work-github", provider="github", reference="env:GITHUB_TOKEN",
                   identity={"login": "octo"}, description="The company's account."),
    ])

    alias ──▶ reference ──────────▶ value
    said to producers and agents    resolved by the node, when a tool asks: ctx.credential("work-github")

A **reference** says where a value is, and is no secret: ``env:NAME``, ``file:/run/secrets/name`` (a mounted
secret; trailing newline stripped), or ``<scheme>:…`` with a `Vault` of your own (``Colony(vaults={…})``).
A **value** never leaves the process that resolved it: it is in no message, event, log, conversation or
report, and a tool's result or error that holds it verbatim is told with ``[redacted: <alias>]`` in its place.
(Verbatim: as it is, or escaped as JSON writes it. Not otherwise encoded, nor with fewer than 4 characters.)

Values are read anew when they are used, at most `COLONY_CREDENTIAL_TTL` (30 s) later: a rotated secret needs
no restart. (A process' environment does not change: rotate with files or a vault.)
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr, field_validator

from colony.errors import CredentialError, DefinitionError

MAX_SECRET_BYTES = 65_536
"""Largest value of a ``file:`` reference."""

LEAST_REDACTED = 4
"""Shorter values are not looked for in what tools return: they would be found everywhere."""

VALUES_REMEMBERED = 8
"""How many values of one alias are looked for: the one it has, and those it had before."""

ALIAS = r"[a-zA-Z0-9][a-zA-Z0-9_.@-]{0,63}"
BUILT_IN = ("env", "file")

T = TypeVar("T", bound=JsonValue | dict[str, JsonValue])


class Vault(Protocol):
    """Where the values of a scheme of your own are: ``Colony(vaults={"aws": AwsSecrets()})``."""

    async def fetch(self, name: str) -> str | SecretStr:
        """The value of what stands behind the scheme in a reference. The words of a `CredentialError`
        are told to the model; of anything else that it raises only the type is."""


class Account(BaseModel):
    """What anybody may know of an account: producers, and the agents that are told of it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    alias: str = Field(pattern=f"^{ALIAS}$", description="The name that tasks and tools use.")
    provider: str = Field(min_length=1, description="The service, such as github.")
    identity: dict[str, str] = Field(
        default_factory=dict, description="Who one is there, such as {'login': 'octo'}; no secret."
    )
    description: str = Field("", description="What the account is for.")


class Credential(Account):
    """An account, and the reference to its secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    reference: str = Field(description="env:NAME, file:/path, or <scheme>:… of a vault.")

    @field_validator("reference")
    @classmethod
    def _is_a_reference(cls, reference: str) -> str:
        scheme, separator, name = reference.partition(":")
        if not separator or not scheme or not name:
            raise ValueError(
                "expected a reference such as env:GITHUB_TOKEN or file:/run/secrets/github, never the "
                "secret itself"
            )
        return reference

    @property
    def public(self) -> Account:
        """The same without its reference."""
        return Account.model_validate(self.model_dump(exclude={"reference"}))


def check_credentials(
    credentials: Iterable[Credential], vaults: Mapping[str, Vault]
) -> dict[str, Credential]:
    """A definition's credentials by alias. Raises `DefinitionError`; no reference is in its words, in
    case somebody has put a secret there."""
    found: dict[str, Credential] = {}
    for credential in credentials:
        if credential.alias in found:
            raise DefinitionError(
                f"two credentials have the alias {credential.alias!r}; give each one its own"
            )
        if credential.reference.partition(":")[0] not in (*BUILT_IN, *vaults):
            known = ", ".join((*BUILT_IN, *sorted(vaults)))
            raise DefinitionError(
                f"credential {credential.alias!r}: its reference has an unknown scheme; known are {known}. "
                "Register a vault for others: Colony(vaults={'scheme': …})"
            )
        found[credential.alias] = credential
    return found


def resolve(reference: str) -> SecretStr:
    """The value of an ``env:`` or ``file:`` reference on this machine, read now.

    Raises `CredentialError`, without the value, and without the reference where it is none.
    """
    scheme, _, name = reference.partition(":")
    if scheme == "env":
        return _from_environment(name)
    if scheme == "file":
        return _from_file(Path(name))
    raise CredentialError(
        "a secret must be named by a reference: env:NAME or file:/path (a vault's scheme is known only to "
        "the nodes of its colony)"
    )


def _from_environment(name: str) -> SecretStr:
    value = os.environ.get(name, "")
    if not value:
        raise CredentialError(
            f"env:{name}: this environment variable is not set here; set it where this process starts"
        )
    return SecretStr(value)


def _from_file(path: Path) -> SecretStr:
    if not path.is_absolute():
        raise CredentialError(f"file:{path}: expected an absolute path, such as /run/secrets/name")
    try:
        if not path.is_file():
            raise CredentialError(f"file:{path}: there is no such file here; mount the secret")
        with path.open("rb") as file:
            raw = file.read(MAX_SECRET_BYTES + 1)
        if len(raw) > MAX_SECRET_BYTES:
            raise CredentialError(f"file:{path}: it has more than {MAX_SECRET_BYTES} bytes")
        value = raw.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise CredentialError(f"file:{path} cannot be read here: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CredentialError(f"file:{path}: it is not UTF-8 text") from None
    if not value:
        raise CredentialError(f"file:{path}: it is empty")
    return SecretStr(value)


class Keyring:
    """The credentials of a colony on one machine: resolves them, and knows what it has resolved.

    One per process and event loop. Errors are not remembered: the next call looks again.
    """

    def __init__(
        self,
        credentials: Mapping[str, Credential],
        vaults: Mapping[str, Vault] | None = None,
        *,
        ttl: timedelta = timedelta(0),
    ) -> None:
        self._credentials = credentials
        self._vaults = vaults or {}
        self._ttl = ttl.total_seconds()
        self._fresh: dict[str, tuple[float, SecretStr]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._known: defaultdict[str, list[SecretStr]] = defaultdict(list)
        self._accounts: dict[tuple[str, ...] | None, Accounts] = {}
        self._redaction = _Redaction({})

    def accounts(self, allowed: Sequence[str] | None = None) -> Accounts:
        """The accounts that an agent may use: these, or all of them."""
        key = None if allowed is None else tuple(allowed)
        if key not in self._accounts:
            names = self._credentials if key is None else key
            self._accounts[key] = Accounts(self, {name: self._credentials[name] for name in names})
        return self._accounts[key]

    async def value(self, alias: str) -> SecretStr:
        """The value behind a known alias, at most `ttl` old. Raises `CredentialError`."""
        async with self._locks[alias]:  # a thousand workers ask once
            read_at, value = self._fresh.get(alias, (float("-inf"), None))
            now = time.monotonic()
            if value is None or now - read_at >= self._ttl:
                value = await self._read(self._credentials[alias])
                self._fresh[alias] = now, value
                self._remember(alias, value)
            return value

    def redacted(self, content: T) -> T:
        """The same JSON value without the values that were resolved here."""
        return self._redaction.of(content)

    async def _read(self, credential: Credential) -> SecretStr:
        try:
            scheme, _, name = credential.reference.partition(":")
            if scheme in BUILT_IN:
                return await asyncio.to_thread(resolve, credential.reference)
            found = await self._vaults[scheme].fetch(name)
            value = found.get_secret_value() if isinstance(found, SecretStr) else found
        except CredentialError as error:
            raise CredentialError(f"account {credential.alias!r}: {error}") from error
        except Exception as error:  # noqa: BLE001 - a vault's words may hold what nobody is to read
            raise CredentialError(
                f"account {credential.alias!r}: its vault failed with {type(error).__name__}"
            ) from None
        if not value:
            raise CredentialError(f"account {credential.alias!r}: its vault has no value for it")
        return SecretStr(value)

    def _remember(self, alias: str, value: SecretStr) -> None:
        known = self._known[alias]
        if value not in known:
            del known[: 1 - VALUES_REMEMBERED]
            known.append(value)
            self._redaction = _Redaction(self._known)


@dataclass(frozen=True, slots=True)
class Accounts:
    """What one agent may use of a `Keyring`."""

    _keyring: Keyring
    known: Mapping[str, Credential]

    async def value(self, alias: str) -> SecretStr:
        """The value behind an alias. Raises `CredentialError`, also for one that is not this agent's."""
        if alias not in self.known:
            raise CredentialError(
                f"there is no account {alias!r} for this agent; there are: {', '.join(self.known) or 'none'}"
            )
        return await self._keyring.value(alias)

    def redacted(self, content: T) -> T:
        """See `Keyring.redacted`: whoever resolved it."""
        return self._keyring.redacted(content)


class _Redaction:
    """Finds values in JSON, as they are and as JSON or `repr` would write them within a text."""

    def __init__(self, known: Mapping[str, Sequence[SecretStr]]) -> None:
        self._names: dict[str, str] = {}
        for alias, values in known.items():
            for value in (v.get_secret_value() for v in values):
                if len(value) >= LEAST_REDACTED:
                    marked = f"[redacted: {alias}]"
                    self._names |= {value: marked, json.dumps(value)[1:-1]: marked}
                    self._names |= {json.dumps(value, ensure_ascii=False)[1:-1]: marked}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def of(self, content: T) -> T:
        return self._walk(content) if self._names else content  # type: ignore[return-value]

    def _walk(self, content: JsonValue) -> JsonValue:
        match content:
            case str():
                return self._text(content)
            case dict():
                return {self._text(key): self._walk(value) for key, value in content.items()}
            case list():
                return [self._walk(item) for item in content]
            case bool() | None:
                return content
            case _:
                text = json.dumps(content)
                clean = self._text(text)
                return content if clean == text else clean

    def _text(self, text: str) -> str:
        return self._pattern.sub(lambda found: self._names[found[0]], text)


NO_ACCOUNTS = Keyring({}).accounts()
"""Of a colony without credentials."""
