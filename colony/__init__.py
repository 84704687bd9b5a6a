"""Colony: a distributed worker fleet for LLM agents, on Celery and Redis.

Producers use `ColonyRuntime` (async) or `ColonyClient` (blocking); a definition module uses
`Colony`, `AgentSpec`, `ColonyConfig` and `@colony.tool`.
"""

from __future__ import annotations

from colony.client import ColonyClient
from colony.definition import AgentSpec, Colony, ColonyConfig
from colony.errors import ColonyError
from colony.models import (
    BatchResult,
    Event,
    EventType,
    OnComplete,
    Report,
    ReportStatus,
    Subscription,
    TaskSpec,
    WorkerRecord,
    WorkerState,
)
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.spawning import Batch
from colony.tools import Park, ToolContext

__all__ = [
    "AgentSpec",
    "Batch",
    "BatchResult",
    "Colony",
    "ColonyClient",
    "ColonyConfig",
    "ColonyError",
    "ColonyRuntime",
    "Event",
    "EventType",
    "OnComplete",
    "Park",
    "Report",
    "ReportStatus",
    "Settings",
    "Subscription",
    "TaskSpec",
    "ToolContext",
    "WorkerRecord",
    "WorkerState",
]
