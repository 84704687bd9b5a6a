"""What a fleet is: goal, agents, tools and limits, in a module that nodes import.

    colony = Colony("survey", goal="…", agent=AgentSpec(model="openai:gpt-5-mini", instructions="…"))

    @colony.tool(read_only=True)
    def read_file(path: str) -> str:
        '''Read one file of the folder.'''

Nodes load it as ``module:attribute``. Producers never do: they know the colony's id.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from colony.credentials import Credential, Vault, check_credentials
from colony.errors import DefinitionError, InvalidTrigger
from colony.pipeline.registry import StageEntry, build, in_order
from colony.pipeline.stage import Stage
from colony.settings import Duration
from colony.tools import Tool, make_tool
from colony.triggers.spec import TriggerSpec

if TYPE_CHECKING:
    from pydantic_ai.models import Model

P = ParamSpec("P")
R = TypeVar("R")

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
"""Colony and agent names: they stand in keys, queues and labels."""


class ColonyConfig(BaseSettings):
    """The limits of a colony. Each can also be set as ``COLONY_<FIELD>`` on the nodes."""

    model_config = SettingsConfigDict(
        env_prefix="COLONY_", env_ignore_empty=True, frozen=True, extra="forbid"
    )

    max_pending: int = Field(
        100_000, ge=1, description="Beyond this many waiting workers new ones are refused."
    )
    max_history: int = Field(
        10_000, ge=100, description="How many lifecycle events are kept for replay."
    )
    max_resurrections: int = Field(
        3,
        ge=0,
        description="How often a worker may be rescued from a dead node before it is failed.",
    )
    quarantine_max: int = Field(
        1000,
        ge=1,
        description="How many workers that were lost so are kept for you to look at; the oldest go first.",
    )
    max_concurrent_workers: int | None = Field(
        None,
        ge=1,
        description="Workers of the colony at once; more line up. None: the nodes' slots.",
    )
    max_concurrent_per_key: int | None = Field(
        None, ge=1, description="Workers with one concurrency_key at once."
    )
    max_depth: int = Field(
        3, ge=1, description="Levels of a tree of workers; at the deepest, nobody spawns."
    )
    max_descendants: int = Field(
        200, ge=1, description="How many workers the agents of one tree may spawn in all."
    )
    result_retention_max: int = Field(
        10_000, ge=1, description="How many ended workers are kept, newest first."
    )
    result_retention_ttl: Duration | None = Field(
        timedelta(days=7), description="How long an ended worker is kept. None: by count alone."
    )
    deliveries_max: int = Field(
        100_000, ge=1, description="How many webhooks may be owed; the oldest are then given up."
    )
    dead_deliveries_max: int = Field(
        1000,
        ge=1,
        description="How many webhooks that were given up are kept; the oldest go first.",
    )
    idempotency_ttl: Duration = Field(
        timedelta(minutes=5), description="How long an idempotency key names its first answer."
    )
    idempotency_max_keys: int = Field(
        10_000,
        ge=1,
        description="How many idempotency keys are kept, and as many of webhooks and events beside them; the "
        "oldest go first.",
    )
    pipeline: tuple[StageEntry, ...] = Field(
        (), description="Stages beside those of the definition, as JSON: see colony.pipeline."
    )
    max_task_bytes: int = Field(65_536, ge=1, description="Largest task text, UTF-8.")
    max_data_bytes: int = Field(
        262_144, ge=2, description="Largest input data of a worker, as JSON."
    )
    max_report_bytes: int = Field(262_144, ge=1024, description="Largest report, as JSON.")
    max_tool_result_bytes: int = Field(
        65_536, ge=1024, description="A longer tool result is cut, and the model told so."
    )


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One kind of agent.

    `model` is any pydantic-ai model string (``openai:gpt-5-mini``, ``anthropic:claude-sonnet-4-5``,
    ``test``) or a pydantic-ai `Model`. `base_url` points an ``openai:`` model at any compatible
    server, `api_key_env` names the environment variable *on the node* that holds its key.
    `tools` names the tools this agent is offered, `accounts` the aliases of the accounts it may use; None
    is all of the colony's.
    Limits end the worker with status partial and what there is: `max_turns` model answers,
    `max_requests` questions to the model, those that failed and were asked again too, `max_tokens`
    in all answers together. `max_concurrent`: workers of this agent at once; more line up. `spawns`:
    it is offered ``run_parallel_workers``, to hand tasks to workers of its own and wait for them, and
    ``delegate_task``, to have work done in the background. Of such work at most `max_async_children`
    units (one task, or the tasks of one call) are out at once; one more is refused or, by `async_policy`,
    queued. `at_end`: an agent that would end while units are out waits for them (what it reports meanwhile
    stands until it reports again, and for good if it is stopped or cut first), or leaves them
    (`Report.left_running`). `model_settings` are pydantic-ai's (temperature, …).
    """

    model: str | Model
    instructions: str = ""
    name: str = "agent"
    tools: Sequence[str] | None = None
    accounts: Sequence[str] | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    model_settings: Mapping[str, Any] = field(default_factory=dict)
    stream: bool = False
    spawns: bool = False
    max_async_children: int = 3
    async_policy: Literal["reject", "queue"] = "reject"
    at_end: Literal["wait", "leave"] = "wait"
    max_turns: int = 50
    max_concurrent: int | None = None
    max_requests: int | None = None
    max_tokens: int | None = None
    max_retries: int = 5
    request_timeout: timedelta = timedelta(minutes=5)


class Colony:
    """A named fleet with one definition. The name is also the namespace of its keys and its queue.

    `version` names what a worker in flight depends on: a worker is only ever run by nodes whose
    definition has the version it was accepted under. Change it when running workers must not be
    continued by the new code; leave it when they may. `triggers` are kept in the store when a node starts
    (`colony.triggers`); what is done with one there stands until its declaration changes. `pipeline` is asked
    about everything that comes in (`colony.pipeline`). `credentials` are the accounts that tools act through;
    `vaults` resolve references of schemes of your own (`colony.credentials`).
    """

    def __init__(
        self,
        name: str,
        *,
        goal: str = "",
        agent: AgentSpec,
        agents: Sequence[AgentSpec] = (),
        config: ColonyConfig | None = None,
        version: str = "1",
        triggers: Sequence[TriggerSpec | dict[str, Any]] = (),
        pipeline: Sequence[Stage] = (),
        credentials: Sequence[Credential] = (),
        vaults: Mapping[str, Vault] | None = None,
    ) -> None:
        _check_name("colony", name)
        self.name = name
        self.goal = goal
        self.version = version
        self.config = config or ColonyConfig()
        self.default_agent = agent.name
        self.agents: dict[str, AgentSpec] = {}
        self.tools: dict[str, Tool] = {}
        self.triggers: dict[str, TriggerSpec] = {}
        self.pipeline = in_order([*pipeline, *map(build, self.config.pipeline)])
        self.vaults = dict(vaults or {})
        self.credentials = check_credentials(credentials, self.vaults)
        for spec in (agent, *agents):
            _check_name("agent", spec.name)
            if spec.name in self.agents:
                raise DefinitionError(
                    f"colony {name!r}: two agents are named {spec.name!r}; "
                    "give each AgentSpec a name of its own"
                )
            _check_limits(name, spec)
            _check_accounts(name, spec, self.credentials)
            self.agents[spec.name] = spec
        for trigger in triggers:
            self._declare(trigger)

    @overload
    def tool(self, function: Callable[P, R]) -> Callable[P, R]: ...

    @overload
    def tool(
        self,
        *,
        name: str | None = None,
        idempotent: bool = False,
        read_only: bool = False,
        timeout: timedelta = timedelta(seconds=60),
        requires_approval: bool = False,
        provider: str | None = None,
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def tool(self, function: Any = None, **options: Any) -> Any:
        """Offer a sync or async function to the agents; returns it unchanged.

        `read_only`: may overlap with its like, and be repeated. `idempotent`: may be repeated after
        a crash (see `ToolContext.idempotency_key`). Neither: after a crash in the middle of a call
        the model is told that its outcome is unknown. `timeout`: of one call. `provider`: it acts through
        accounts of that provider (`Credential.provider`), and agents are told so.
        """

        def register(func: Callable[..., Any]) -> Callable[..., Any]:
            made = make_tool(func, **options)
            if made.name in self.tools:
                raise DefinitionError(
                    f"colony {self.name!r}: two tools are named {made.name!r}; pass name= to one of them"
                )
            self.tools[made.name] = made
            return func

        return register if function is None else register(function)

    def tools_of(self, agent: AgentSpec) -> dict[str, Tool]:
        """The tools that an agent is offered, by name."""
        if agent.tools is None:
            return dict(self.tools)
        return {name: self.tools[name] for name in agent.tools}

    def _declare(self, given: TriggerSpec | dict[str, Any]) -> None:
        try:
            spec = TriggerSpec.of(given)
        except InvalidTrigger as error:
            raise DefinitionError(f"colony {self.name!r}, a trigger: {error}") from error
        try:
            if spec.timer is not None:
                spec.timer.check()
        except InvalidTrigger as error:
            raise DefinitionError(
                f"trigger {spec.id!r} of colony {self.name!r}: {error}"
            ) from error
        if spec.id in self.triggers:
            raise DefinitionError(f"colony {self.name!r}: two triggers have the id {spec.id!r}")
        if spec.agent is not None and spec.agent not in self.agents:
            known = ", ".join(sorted(self.agents))
            raise DefinitionError(
                f"trigger {spec.id!r} of colony {self.name!r}: agent {spec.agent!r} is unknown; "
                f"there are: {known}"
            )
        self.triggers[spec.id] = spec

    def check(self) -> None:
        """Refuse what only shows once all tools are registered."""
        for spec in self.agents.values():
            unknown = sorted(set(spec.tools or ()) - set(self.tools))
            if unknown:
                raise DefinitionError(
                    f"agent {spec.name!r} of colony {self.name!r} names tools that do not exist: "
                    f"{', '.join(unknown)}. Registered are: {', '.join(sorted(self.tools)) or 'none'}"
                )


def load_colony(path: str) -> Colony:
    """Import ``module:attribute`` (the working directory is importable) and return its `Colony`.

    Raises `DefinitionError` that names what is missing and what was found instead.
    """
    module_name, separator, attribute = path.partition(":")
    if not separator or not module_name or not attribute:
        raise DefinitionError(
            f"{path!r} does not name a definition: expected module:attribute, "
            "such as colony.examples.survey:colony"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except DefinitionError:
        raise
    except Exception as error:
        raise DefinitionError(
            f"definition {path!r}: importing {module_name!r} failed with {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Colony):
        candidates = [n for n, v in vars(module).items() if isinstance(v, Colony)]
        came = "nothing of that name" if found is None else f"a {type(found).__name__}"
        raise DefinitionError(
            f"definition {path!r}: expected a Colony, found {came}. "
            f"Colonies in {module_name!r}: {', '.join(candidates) or 'none'}"
        )
    found.check()
    return found


def _check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise DefinitionError(
            f"{what} name {name!r}: expected 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "starting with a letter or digit"
        )


def _check_accounts(colony: str, spec: AgentSpec, known: Mapping[str, Credential]) -> None:
    unknown = sorted(set(spec.accounts or ()) - set(known))
    if unknown:
        raise DefinitionError(
            f"agent {spec.name!r} of colony {colony!r} names accounts that do not exist: "
            f"{', '.join(unknown)}; there are: {', '.join(sorted(known)) or 'none'}"
        )


LIMITS = (
    "max_turns",
    "max_concurrent",
    "max_requests",
    "max_tokens",
    "max_retries",
    "max_async_children",
)


def _check_limits(colony: str, spec: AgentSpec) -> None:
    for limit in LIMITS:
        value = getattr(spec, limit)
        least = 0 if limit == "max_retries" else 1
        if value is not None and value < least:
            raise DefinitionError(
                f"agent {spec.name!r} of colony {colony!r}: {limit} must be at least {least}, got {value}"
            )
