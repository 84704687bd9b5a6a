"""The pipeline: what a colony asks of everything that comes in, before it is accepted.

    spawn, each task of spawn_batch, trigger ─▶ stage ─▶ stage ─▶ … ─▶ store.accept
                                                  │ Continue · Transform(task, data, agent) ▲ checked again
                                                  └ Reject(reason) ─▶ PipelineRejected(stage, reason)

    Colony(…, pipeline=[RateLimit(limit=60, key="{caller}"), InputValidation(schemas={"spawn": {…}})])
    COLONY_PIPELINE='[{"type": "rate_limit", "order": 200, "config": {"limit": 60}}]'   # on the nodes

Stages run by their `order`. Those that are **data** (the three built in, and pydantic models of your own that
are registered with ``@stage("name")``) are in the colony's face, so that every producer runs them, also the
gateway. Those that are **code** (any object with ``name``, ``order``, ``async process``) are named there; a
runtime is given them, ``ColonyRuntime(id, pipeline=[…])``, and one that lacks any refuses with
`PipelineIncomplete`: no stage is ever skipped. One that raises, hangs (30 s) or answers something else
rejects, and says so in the log.

A request that was answered already (same idempotency key) is not asked for again. What agents spawn, and what
is retried, was let in before. Rejections are counted: ``pipeline_rejected`` in `FleetStats.totals`.

    credentials (40)       the accounts that a task names are known, and its agent's
    input_validation (100) its data fit a JSON schema
    rate_limit (200)       at most so many within any window, fleet-wide
"""

from __future__ import annotations

from colony.pipeline.accounts import Credentials
from colony.pipeline.input_validation import InputValidation, ModelValidation
from colony.pipeline.rate_limit import RateLimit
from colony.pipeline.registry import StageEntry, stage
from colony.pipeline.stage import (
    Continue,
    Incoming,
    Reject,
    Stage,
    StageContext,
    Transform,
    Verdict,
    request_id_of,
)

__all__ = [
    "Continue",
    "Credentials",
    "Incoming",
    "InputValidation",
    "ModelValidation",
    "RateLimit",
    "Reject",
    "Stage",
    "StageContext",
    "StageEntry",
    "Transform",
    "Verdict",
    "request_id_of",
    "stage",
]
