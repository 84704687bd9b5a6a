"""The gateway's settings. Each can be set as ``COLONY_GATEWAY_<FIELD>``; durations are seconds.

Where Redis is, and how long it is tried, is `colony.settings.Settings`, as for every producer.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from colony.listing import MAX_PAGE
from colony.settings import Duration, listed


class GatewaySettings(BaseSettings):
    """How much one gateway process takes, and gives at once. All have defaults."""

    model_config = SettingsConfigDict(
        env_prefix="COLONY_GATEWAY_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    host: str = Field(
        "127.0.0.1", description="The address to listen on. TLS is a proxy's business."
    )
    port: int = Field(8080, ge=0, le=65535, description="The port to listen on; 0: any free one.")
    max_body_bytes: int = Field(
        8 * 1024 * 1024,
        ge=1024,
        description="Largest request body; a larger one is refused with 413.",
    )
    body_timeout: Duration = Field(
        timedelta(seconds=30),
        gt=timedelta(0),
        description="How long a client may take to send its body; then 408.",
    )
    max_url_bytes: int = Field(8192, ge=256, description="Longest path with its query; then 414.")
    max_header_bytes: int = Field(
        16_384, ge=1024, le=65_536, description="All headers of a request together; then 431."
    )
    rate: float = Field(
        100.0,
        gt=0,
        description="Requests a second that one token may make, in all gateways; then 429.",
    )
    burst: int = Field(200, ge=1, description="Requests that it may make at once.")
    hook_rate: float = Field(
        500.0,
        gt=0,
        description="Rightly signed webhooks a second that one trigger takes, in all gateways; then 429. Not "
        "every sender asks again: GitHub does not.",
    )
    hook_burst: int = Field(2000, ge=1, description="Webhooks that it takes at once.")
    max_wait: Duration = Field(
        timedelta(seconds=60),
        ge=timedelta(0),
        description="How long ?wait= holds a request at most; a longer wait is cut to it.",
    )
    page_size: int = Field(100, ge=1, le=MAX_PAGE, description="Items of a page without ?limit=.")
    max_tree: int = Field(1000, ge=1, description="Workers that a tree shows at most.")
    heartbeat: Duration = Field(
        timedelta(seconds=15),
        gt=timedelta(0),
        description="After so long without an event a stream says that it is alive.",
    )
    max_streams: int = Field(
        1000,
        ge=1,
        description="Event streams of one gateway at once; one more is refused with 503.",
    )
    stream_buffer: int = Field(
        500,
        ge=1,
        description="Events that wait in memory for a slow reader; with one more it reads on from the log.",
    )
    send_timeout: Duration = Field(
        timedelta(seconds=30),
        gt=timedelta(0),
        description="A reader that takes nothing for so long is disconnected.",
    )
    max_colonies: int = Field(
        100,
        ge=1,
        description="Colonies that one gateway holds open; idle ones make room for others.",
    )
    definitions: Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)] = Field(
        (),
        description="Definitions (module:attribute, with commas between them) of colonies whose pipeline has "
        "stages that are code: they run in the gateway. One for each colony.",
    )
    metrics_token: SecretStr | None = Field(
        None,
        description="Who scrapes /metrics gives this as a bearer. Default: whoever reaches the gateway may "
        "read them, but not through a proxy.",
    )
    max_connections: int = Field(
        2000, ge=1, description="Connections of one gateway at once; one more is refused with 503."
    )
    shutdown_grace: Duration = Field(
        timedelta(seconds=10),
        gt=timedelta(0),
        description="How long requests in flight may take after SIGTERM. Streams and waits end at once.",
    )
