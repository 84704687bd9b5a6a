"""`credentials`: the accounts that a task names must be known, and its agent's to use."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue, PrivateAttr

from colony.pipeline.registry import stage
from colony.pipeline.stage import Continue, Incoming, Reject, StageContext, Verdict


@stage("credentials")
class Credentials(BaseModel):
    """Looks at ``data[field]``: an alias, a list of aliases, or an object provider → alias.

    `required`: a task that names none is rejected. Whether their secrets can be had is not asked here: that
    is the nodes' business.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "credentials"
    order: int = 40
    field: str = "accounts"
    required: bool = False
    _context: StageContext | None = PrivateAttr(None)

    async def initialize(self, context: StageContext) -> None:
        """Learn the colony's accounts."""
        self._context = context

    async def process(self, incoming: Incoming) -> Verdict:
        """Reject an account that is unknown, another provider's, or not its agent's."""
        assert self._context is not None, "a stage is initialized before it is asked"
        where = f"data.{self.field}"
        named = _named(incoming.data.get(self.field))
        if named is None:
            return Reject(
                f"{where}: expected an alias, a list of aliases, or an object provider → alias"
            )
        if not named and self.required:
            return Reject(f"{where}: the task names no account; it must name one")
        allowed = self._context.accounts_of.get(incoming.agent or "")
        for alias, provider in named:
            account = self._context.accounts.get(alias)
            if account is None or (allowed is not None and alias not in allowed):
                known = [a for a in self._context.accounts if allowed is None or a in allowed]
                return Reject(
                    f"{where}: agent {incoming.agent!r} has no account {alias[:64]!r}; it has: "
                    f"{', '.join(known) or 'none'}"
                )
            if provider is not None and account.provider != provider:
                return Reject(
                    f"{where}.{provider[:64]}: account {alias!r} is one of {account.provider}"
                )
        return Continue()


def _named(value: JsonValue) -> list[tuple[str, str | None]] | None:
    """Aliases, each with the provider it is named for, if any; None for what names nothing."""
    match value:
        case None:
            return []
        case str():
            return [(value, None)]
        case dict():
            pairs = [
                (alias, provider) for provider, alias in value.items() if isinstance(alias, str)
            ]
            return [*pairs] if len(pairs) == len(value) else None
        case list():
            names = [(alias, None) for alias in value if isinstance(alias, str)]
            return [*names] if len(names) == len(value) else None
        case _:
            return None
