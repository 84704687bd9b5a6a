"""Agents are told which accounts there are; tools get their secrets, and nobody else does."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic import JsonValue

from colony import Park, ToolContext
from colony.credentials import Accounts, Credential, Keyring
from colony.definition import AgentSpec
from colony.testing_model import Call
from colony.tools import make_tool
from tests.unit.agent.harness import Harness
from workers.agent.prompts import accounts_prompt, instructions

PLANTED = "s3cr3t-v4lue"


def credential(alias: str, provider: str = "github", **more: Any) -> Credential:
    return Credential(alias=alias, provider=provider, reference="env:TEST_PLANTED", **more)


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> Accounts:
    monkeypatch.setenv("TEST_PLANTED", PLANTED)
    return Keyring({"work": credential("work")}).accounts()


def list_issues(account: str) -> None:
    """List issues."""


def test_the_prompt_names_accounts_by_provider_and_the_tools_that_use_them() -> None:
    known = [
        credential("work", identity={"login": "octo"}, description="The company's."),
        credential("home"),
        credential("books", "ledger"),
    ]
    tools = [make_tool(list_issues, provider="github"), make_tool(list_issues, name="other")]
    text = accounts_prompt(known, tools)
    assert "# Connected integrations" in text
    assert '## github (use account="<alias>" with: list_issues)\n- work: login octo. The' in text
    assert "- home\nUse the one that your task names." in text
    assert text.endswith("## ledger\n- books"), "one account needs no choice, no tool is no hint"
    assert "TEST_PLANTED" not in text
    assert accounts_prompt([], tools) == ""


def test_the_accounts_stand_between_goal_and_instructions() -> None:
    text = instructions("Find food.", AgentSpec("test", instructions="Be brief."), "# Accounts")
    assert text.index("Find food.") < text.index("# Accounts") < text.index("Be brief.")


async def test_async_and_sync_tools_get_the_value(agent: Harness, accounts: Accounts) -> None:
    seen: list[str] = []

    async def one(ctx: ToolContext) -> None:
        seen.append((await ctx.credential("work")).get_secret_value())

    def two(ctx: ToolContext) -> None:
        seen.append(ctx.credential_threadsafe("work").get_secret_value())

    await agent.run([[Call("one"), Call("two")], "Done."], one, two, accounts=accounts)
    assert seen == [PLANTED, PLANTED]
    assert "- work" in (agent.seen[0][0].instructions or "")  # type: ignore[union-attr]


async def leak_value(ctx: ToolContext) -> JsonValue:
    """Return it."""
    value = (await ctx.credential("work")).get_secret_value()
    return {"token": value, value: ["x" + value]}


async def leak_text(ctx: ToolContext) -> str:
    """Return it as text that is cut."""
    return "x" * 1020 + (await ctx.credential("work")).get_secret_value()


async def leak_error(ctx: ToolContext) -> None:
    """Raise it."""
    raise RuntimeError(f"401 for {(await ctx.credential('work')).get_secret_value()}")


async def leak_progress(ctx: ToolContext) -> None:
    """Tell it."""
    value = (await ctx.credential("work")).get_secret_value()
    await ctx.progress(f"with {value}", token=value)


async def leak_park(ctx: ToolContext) -> None:
    """Sleep on it."""
    raise Park(timedelta(0), (await ctx.credential("work")).get_secret_value())


async def leak_object(ctx: ToolContext) -> object:
    """Return the secret as pydantic shows it, and what has no JSON form."""
    return {"shown": await ctx.credential("work")}


@pytest.mark.parametrize(
    "tool",
    [leak_value, leak_text, leak_error, leak_progress, leak_park, leak_object],
    ids=lambda t: t.__name__,
)
async def test_what_holds_a_secret_is_redacted(
    agent: Harness, accounts: Accounts, tool: Any
) -> None:
    await agent.run(
        [Call(tool.__name__), "Done."], tool, accounts=accounts, max_tool_result_bytes=1024
    )
    written = json.dumps([agent.journal.parts, agent.journal.events, agent.journal.told])
    assert PLANTED not in written
    assert PLANTED[:4] not in written, "not a part of it either, where a text is cut"
    if tool not in (leak_object, leak_text):
        assert "[redacted: work]" in written


async def test_an_unknown_account_is_an_error_that_the_model_can_mend(
    agent: Harness, accounts: Accounts
) -> None:
    async def use(account: str, ctx: ToolContext) -> None:
        await ctx.credential(account)

    await agent.run([Call("use", {"account": "wrok"}), "Done."], use, accounts=accounts)
    [result] = agent.journal.results()
    assert result["outcome"] == "failed"
    assert "no account 'wrok' for this agent; there are: work" in result["content"]


async def test_a_secret_that_is_not_to_be_had_names_its_reference_alone(
    agent: Harness, accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEST_PLANTED")
    await agent.run([Call("leak_value"), "Done."], leak_value, accounts=accounts)
    [result] = agent.journal.results()
    assert "env:TEST_PLANTED: this environment variable is not set" in result["content"]


async def test_an_async_tool_that_would_block_the_loop_is_told(
    agent: Harness, accounts: Accounts
) -> None:
    async def wrong(ctx: ToolContext) -> None:
        ctx.credential_threadsafe("work")

    await agent.run([Call("wrong"), "Done."], wrong, accounts=accounts)
    assert "await ctx.credential" in agent.journal.results()[0]["content"]
