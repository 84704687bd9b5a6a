"""References become values where they are used, and values are nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from colony import AgentSpec, Colony
from colony.credentials import (
    MAX_SECRET_BYTES,
    Credential,
    Keyring,
    Vault,
    check_credentials,
    resolve,
)
from colony.errors import CredentialError, DefinitionError

PLANTED = "s3cr3t-v4lue"


class Safe:
    """A vault that counts how often it is asked."""

    def __init__(self, **values: Any) -> None:
        self.values, self.asked = values, 0

    async def fetch(self, name: str) -> str | SecretStr:
        self.asked += 1
        await asyncio.sleep(0)
        value: str = self.values[name]
        return value


def credential(reference: str, alias: str = "work") -> Credential:
    return Credential(alias=alias, provider="github", reference=reference)


def keyring(reference: str, ttl: float = 0, **vaults: Vault) -> Keyring:
    return Keyring({"work": credential(reference)}, vaults, ttl=timedelta(seconds=ttl))


def test_environment_and_mounted_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEST_TOKEN", PLANTED)
    mounted = tmp_path / "token"
    mounted.write_bytes(f"{PLANTED}\r\n".encode())
    link = tmp_path / "link"
    link.symlink_to(mounted)
    for reference in ("env:TEST_TOKEN", f"file:{mounted}", f"file:{link}"):
        value = resolve(reference)
        assert value.get_secret_value() == PLANTED
        assert PLANTED not in f"{value} {value!r}"
    mounted.write_text("two\n\n")
    assert resolve(f"file:{mounted}").get_secret_value() == "two\n", "one newline is stripped"


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("env:TEST_NOT_SET", "env:TEST_NOT_SET: this environment variable is not set"),
        ("file:relative", "expected an absolute path"),
        ("file:/nowhere/at/all", "no such file"),
        ("file:/dev/zero", "no such file"),
        ("file:{tmp}/empty", "is empty"),
        ("file:{tmp}/large", "more than 65536 bytes"),
        ("file:{tmp}/binary", "not UTF-8"),
        ("aws:prod/db", "env:NAME or file:/path"),
        (PLANTED, "must be named by a reference"),
    ],
)
def test_what_does_not_resolve_says_why(reference: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "large").write_text("x" * (MAX_SECRET_BYTES + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialError, match=words) as caught:
        resolve(reference.format(tmp=tmp_path))
    assert PLANTED not in str(caught.value)


def test_a_secret_in_the_place_of_its_reference_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValidationError, match="never the secret itself") as caught:
        credential(PLANTED)
    assert PLANTED not in str(caught.value)
    with pytest.raises(DefinitionError, match="known are env, file, safe") as refused:
        check_credentials([credential(f"{PLANTED}:{PLANTED}")], {"safe": Safe()})
    assert PLANTED not in str(refused.value)


def test_a_definition_refuses_what_contradicts_itself() -> None:
    two = [credential("env:A"), credential("env:B")]
    with pytest.raises(DefinitionError, match="two credentials have the alias 'work'"):
        Colony("c", agent=AgentSpec("test"), credentials=two)
    with pytest.raises(DefinitionError, match=r"agent 'agent'.*accounts.*home.*there are: work"):
        Colony("c", agent=AgentSpec("test", accounts=["home"]), credentials=two[:1])


async def test_a_rotated_value_is_seen_without_a_restart_and_both_are_redacted(
    tmp_path: Path,
) -> None:
    mounted = tmp_path / "token"
    keys = keyring(f"file:{mounted}")
    with pytest.raises(CredentialError, match="account 'work'"):
        await keys.value("work")
    mounted.write_text("first-value")
    assert (await keys.value("work")).get_secret_value() == "first-value"
    mounted.write_text("second-value")
    assert (await keys.value("work")).get_secret_value() == "second-value"
    assert keys.redacted("first-value, second-value") == "[redacted: work], [redacted: work]"


async def test_a_vault_is_asked_once_within_the_ttl_by_however_many() -> None:
    safe = Safe(token=PLANTED)
    keys = keyring("safe:token", ttl=60, safe=safe)
    values = await asyncio.gather(*(keys.value("work") for _ in range(50)))
    assert {value.get_secret_value() for value in values} == {PLANTED}
    assert safe.asked == 1


async def test_a_vault_that_fails_tells_no_value_and_is_asked_again() -> None:
    class Loud(Safe):
        async def fetch(self, name: str) -> str:
            self.asked += 1
            raise RuntimeError(f"cannot unwrap {PLANTED}")

    vault = Loud()
    keys = keyring("loud:token", ttl=60, loud=vault)
    for _ in range(2):
        with pytest.raises(CredentialError, match="vault failed with RuntimeError") as caught:
            await keys.value("work")
        assert PLANTED not in str(caught.value)
        assert caught.value.__cause__ is None
    assert vault.asked == 2
    for bad in ("", None):
        with pytest.raises(CredentialError, match="no value"):
            await keyring("safe:token", safe=Safe(token=bad)).value("work")


async def test_an_agent_has_no_other_accounts_than_its_own() -> None:
    known = {a: credential("safe:token", a) for a in ("work", "home")}
    accounts = Keyring(known, {"safe": Safe(token=PLANTED)}).accounts(["home"])
    assert (await accounts.value("home")).get_secret_value() == PLANTED
    with pytest.raises(CredentialError, match=r"no account 'work' for this agent.*: home"):
        await accounts.value("work")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (f"a {PLANTED} b", "a [redacted: work] b"),
        (
            {PLANTED: [PLANTED, 1, None, True]},
            {"[redacted: work]": ["[redacted: work]", 1, None, True]},
        ),
        ({"n": {"deep": [f"x{PLANTED}"]}}, {"n": {"deep": ["x[redacted: work]"]}}),
        ("nothing", "nothing"),
    ],
)
async def test_values_are_redacted_wherever_they_are_in_json(content: Any, told: Any) -> None:
    keys = keyring("safe:token", safe=Safe(token=PLANTED))
    assert keys.redacted(content) == content, "what was not resolved is not known"
    await keys.value("work")
    assert keys.redacted(content) == told


@pytest.mark.parametrize(
    ("value", "content", "told"),
    [
        ("123456", {"pin": 123456, "n": 12}, {"pin": "[redacted: work]", "n": 12}),
        ('two\nlines"ü', 'repr: two\\nlines\\"ü', "repr: [redacted: work]"),
        ("abc", "abc", "abc"),
    ],
)
async def test_numbers_escapes_and_what_is_too_short(value: str, content: Any, told: Any) -> None:
    keys = keyring("safe:token", safe=Safe(token=value))
    await keys.value("work")
    assert keys.redacted(content) == told


def test_what_is_public_has_no_reference() -> None:
    shown = credential("env:GITHUB_TOKEN").public
    assert shown.alias == "work"
    assert "GITHUB_TOKEN" not in f"{shown!r} {shown.model_dump_json()}"


def test_a_vault_is_any_object_that_fetches() -> None:
    vaults: Mapping[str, Vault] = {"safe": Safe()}
    assert check_credentials([credential("safe:x")], vaults).keys() == {"work"}
