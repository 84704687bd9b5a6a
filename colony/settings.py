"""Settings: how a process reaches Redis, and how a node keeps time. All have defaults.

Every field can be set by the environment variable ``COLONY_<FIELD NAME IN CAPITALS>``; durations
are seconds ("2.5") or ISO 8601 ("PT2.5S"). What belongs to a colony rather than to a process
(limits, retention) is `colony.definition.ColonyConfig`.

What is secret need not stand in the environment: in the directory that ``COLONY_SECRETS_DIR`` names, or
else systemd's ``CREDENTIALS_DIRECTORY``, a file ``colony_redis_url`` holds the value of COLONY_REDIS_URL,
and so on. The environment goes before the files.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from colony.errors import ConfigurationError
from colony.tls import Tls

SECRETS_DIRECTORIES = ("COLONY_SECRETS_DIR", "CREDENTIALS_DIRECTORY")
"""The variables that may name the directory of the secret files; the first that is set counts."""


def _seconds(value: object) -> object:
    """Environment variables are text: "2.5" means seconds."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def listed(value: object) -> object:
    """Environment variables are text: "a,b" means two."""
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _after(seconds: int) -> timedelta:
    return timedelta(seconds=seconds)


Duration = Annotated[timedelta, BeforeValidator(_seconds)]
"""A `timedelta` that can also be set as a number of seconds in an environment variable."""


class Settings(BaseSettings):
    """One frozen object per process; made once and handed down."""

    model_config = SettingsConfigDict(
        env_prefix="COLONY_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,  # a URL may hold a password
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        description="Redis (6.2+) or Valkey that holds the store, and the queue unless broker_url is set. "
        "rediss:// speaks TLS (`colony.tls`).",
    )
    broker_url: str | None = Field(
        None, repr=False, description="A separate Redis for the Celery queue. Default: redis_url."
    )
    redis_tls_ca: Path | None = Field(
        None,
        description="File (PEM) with the CA that signed Redis' certificate, for rediss:// URLs. Default: the "
        "CAs that this system trusts.",
    )
    redis_tls_cert: Path | None = Field(
        None,
        description="File (PEM) with our own certificate, where Redis asks its clients for one.",
    )
    redis_tls_key: Path | None = Field(
        None, description="File (PEM) with the key of redis_tls_cert, without a passphrase."
    )
    redis_tls_verify: Literal["full", "ca"] = Field(
        "full",
        description="What is checked of Redis' certificate: its CA and that it names the host of the URL "
        "(full), or its CA alone (ca). It cannot be left unchecked.",
    )
    app: str | None = Field(
        None,
        description="The definition a node serves, as module:attribute (examples.survey:colony).",
    )
    concurrency: int = Field(
        1000, ge=1, description="How many workers a node process runs at once, on the asyncio pool."
    )
    connect_timeout: Duration = Field(
        timedelta(seconds=1.5),
        description="How long a producer tries to reach Redis before it says so. Errors come within 2 s.",
    )
    beat_interval: Duration = Field(
        timedelta(seconds=1), gt=timedelta(0), description="How often a node renews its lease."
    )
    lease: Duration = Field(
        timedelta(seconds=4),
        description="How long a node's claims hold after its last beat. At least three beats.",
    )
    sweep_interval: Duration = Field(
        timedelta(seconds=0.5),
        gt=timedelta(0),
        description="How often the fleet's janitors, together, look for what is due.",
    )
    ring_again_after: Duration = Field(
        timedelta(seconds=2),
        description="Age of an unanswered doorbell, with an empty queue, before it is rung again; "
        "doubles each time.",
    )
    stop_grace: Duration = Field(
        timedelta(seconds=2),
        description="How long a running worker that was told to stop may take before the store ends it.",
    )
    drain_grace: Duration = Field(
        timedelta(seconds=20),
        ge=timedelta(0),
        description="How long a node that was told to end (SIGTERM, colony drain) lets calls in flight "
        "end; each worker is handed over when its call has ended, or else then, at its last checkpoint. "
        "SIGQUIT does so at once. Give an orchestrator 10 s more.",
    )
    state_dir: Path | None = Field(
        None,
        description="A directory on a local disk that outlives a node: there it leaves word that it lives, "
        "and when it is told to end, for the next one to pass on should Redis be away "
        "(workers/node/word.py). Default: colony-<user id> in the system's directory of temporary files.",
    )
    deaf_after: Duration = Field(
        timedelta(seconds=30),
        gt=timedelta(0),
        description="How long a node with free slots may hear nothing through the broker, though there is "
        "something to hear, before it ends itself with exit code 76: have it started again. More than 11 s "
        "leaves a dead connection to kombu, which then makes another.",
    )
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Where a node or a beat answers /livez, /readyz and /metrics over HTTP (with "
        "--processes also the next ones; 0: any free one, see the log). Default: nowhere.",
    )
    health_host: str = Field(
        "127.0.0.1",
        description="The address for health_port; 0.0.0.0 for an orchestrator's probes.",
    )
    log_format: Literal["text", "json"] = Field(
        "text",
        description="What nodes, beats and gateways write their logs as: text for people, or json, one "
        "object a line (`colony.logs`).",
    )
    tracing: bool = Field(
        False,
        description="Whether spans are sent to the OpenTelemetry collector that OTEL_EXPORTER_OTLP_ENDPOINT "
        "names (`colony.tracing`; needs the extra otel).",
    )
    trace_file: Path | None = Field(
        None,
        description="With tracing: a file to which spans are written as lines of JSON, in place of a "
        "collector.",
    )
    max_message_bytes: int = Field(
        4 * 1024 * 1024,
        ge=1024,
        description="The largest message of a foreign producer (colony.spawn, …) that a node reads; a larger "
        "one is refused unread.",
    )
    credential_ttl: Duration = Field(
        timedelta(seconds=30),
        ge=timedelta(0),
        description="How long a node uses a credential's value before it reads it again; a rotated secret is "
        "seen so much later at most.",
    )
    tool_threads: int = Field(
        64, ge=1, description="Threads of a node for synchronous tools (hung ones are replaced)."
    )
    tracer_threads: int = Field(
        2, ge=1, description="Threads of the asyncio pool that run Celery's tracer."
    )

    delivery_timeout: Duration = Field(
        timedelta(seconds=20),
        gt=timedelta(0),
        description="How long a receiver of a webhook may take to answer, in all.",
    )
    delivery_retries: Annotated[tuple[Duration, ...], NoDecode, BeforeValidator(listed)] = Field(
        tuple(map(_after, (5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400))),
        description="How long after each failed attempt a webhook is sent again, plus up to a tenth, in "
        "seconds with commas between; after the last it is given up (colony deliveries list --dead).",
    )
    delivery_concurrency: int = Field(
        64, ge=1, description="How many webhooks a node sends at once."
    )
    delivery_per_endpoint: int = Field(
        4,
        ge=1,
        description="How many of them to one origin (https://host:port), by all nodes together.",
    )
    delivery_allow_private: Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)] = Field(
        (),
        description="Host names, addresses and networks that webhooks may be sent to although they are not "
        "public, with commas between: 127.0.0.1/32,hooks.internal. They may be called by http.",
    )
    delivery_allow_http: bool = Field(
        False,
        description="Whether webhooks may be sent to public addresses by http, for all to read.",
    )
    callback_secrets: Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)] = Field(
        ("env:HOOK_*", "env:COLONY_HOOK_*"),
        description="Which secrets those who come over HTTP, or hand in by the intake, may name for their "
        "callbacks to be signed with: references, or how they begin with a * behind it, with commas between: "
        "env:HOOK_*,file:/run/secrets/hooks/*. Read by gateways and nodes.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, then the environment, then the files of secrets."""
        named = next(filter(None, map(os.environ.get, SECRETS_DIRECTORIES)), None)
        if named is None:
            return init_settings, env_settings
        if not Path(named).is_dir():
            raise ConfigurationError(
                f"{' or '.join(SECRETS_DIRECTORIES)}: expected a directory of secret files, and "
                f"{named} is none: mount it, or unset the variable"
            )
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, named)

    @model_validator(mode="after")
    def _lease_outlives_beats(self) -> Self:
        if self.lease < 3 * self.beat_interval:
            raise ValueError(
                f"COLONY_LEASE ({self.lease.total_seconds():g} s) must be at least three times "
                f"COLONY_BEAT_INTERVAL ({self.beat_interval.total_seconds():g} s): "
                "otherwise one late beat counts as death"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        for url in (self.redis_url, self.broker_url or self.redis_url):
            self.tls.url(url)
        return self

    @property
    def tls(self) -> Tls:
        """How rediss:// URLs are connected to."""
        return Tls(
            self.redis_tls_ca,
            self.redis_tls_cert,
            self.redis_tls_key,
            check_host=self.redis_tls_verify == "full",
        )

    @property
    def store_url(self) -> str:
        """The Redis that holds the store, for redis-py: with all that TLS needs as parameters."""
        return self.tls.url(self.redis_url)

    @property
    def queue_url(self) -> str:
        """The Redis that holds the Celery queue, in the same form."""
        return self.tls.url(self.broker_url or self.redis_url)
