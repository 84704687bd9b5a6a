"""Every metric that a process counts itself. Those of the fleet are in `colony.metrics.figures`, those that
are measured when somebody scrapes in `workers.node.gauges` and `colony.gateway.measures`."""

from __future__ import annotations

from typing import Final

from colony.metrics.instruments import Counter, Histogram

SLICES: Final = Counter(
    "colony_slices_total",
    "Slices of workers that ended here: ended, parked, handed_over, stopped, stale (the claim was lost).",
    ("agent", "outcome"),
)
SLICE_SECONDS: Final = Histogram(
    "colony_slice_seconds", "How long a slice took, from its claim to its release.", ("agent",)
)
FIRST_REQUEST_SECONDS: Final = Histogram(
    "colony_first_request_seconds",
    "From a worker's acceptance (or its not_before) to its first request to a model.",
    ("agent",),
)
MODEL_REQUESTS: Final = Histogram(
    "colony_model_request_seconds",
    "Requests to models, each try by itself: ok, error, timeout, cut (the slice ended).",
    ("agent", "model", "outcome"),
)
TOOL_CALLS: Final = Histogram(
    "colony_tool_call_seconds", "Calls of tools: ok, error.", ("tool", "outcome")
)
TOKENS: Final = Counter(
    "colony_tokens_total",
    "Tokens of models' answers: input, output (cached ones are part of input).",
    ("agent", "model", "kind"),
)
COST: Final = Counter(
    "colony_cost_usd_total",
    "What models' answers cost in US dollars, where the price is known.",
    ("agent", "model"),
)
WORKERS_RESCUED: Final = Counter(
    "colony_workers_taken_from_dead_nodes_total", "Workers that this node took from dead nodes."
)
TICKS: Final = Counter("colony_beat_ticks_total", "Ticks of a beat that this node answered.")
EVENT_LAG: Final = Histogram(
    "colony_event_lag_seconds",
    "How old an event was when it was owed to a subscription or given to a reader, by this host's clock.",
    ("to",),
)
DELIVERIES: Final = Histogram(
    "colony_delivery_seconds",
    "Attempts to deliver webhooks: delivered, failed (sent again), dead (given up).",
    ("outcome",),
)
ROUNDS_FAILED: Final = Counter(
    "colony_role_failures_total",
    "Rounds of a node's roles that failed: redis_away, or error (a bug; see the log).",
    ("role", "why"),
)
HTTP_REQUESTS: Final = Histogram(
    "colony_http_request_seconds",
    "Requests to the gateway, by the route's operation; streams until they begin.",
    ("operation", "status"),
)
