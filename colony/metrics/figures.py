"""The figures of the fleet that are metrics: their names in the store, as metrics, and what they say.

``lua/figures.lua`` gives the figures; `colony.metrics.fleet` reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

STORE_UP: Final = (
    "colony_store_up",
    "1 when Redis answered; 0: the metrics of the fleet are missing.",
)

LEFT_OUT: Final = (
    "colony_figures_left_out",
    "What there are more of than metrics tell: colonies (also those that Redis' user may not read), agents "
    "of a colony, counts of a colony.",
)

GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "nodes": ("colony_nodes", "Nodes whose lease is good."),
    "nodes_draining": ("colony_nodes_draining", "Those of them that drain."),
    "nodes_lost": (
        "colony_nodes_lost",
        "Nodes whose lease ran out and whose workers are not all rescued yet.",
    ),
    "slots": (
        "colony_slots",
        "Workers that all nodes together run at once (not those that drain).",
    ),
    "slots_used": ("colony_slots_used", "Workers that nodes have claimed now."),
    "worst_lag_seconds": (
        "colony_worst_loop_lag_seconds",
        "The longest that any node's agent loop took to answer.",
    ),
    "worst_silence_seconds": (
        "colony_worst_broker_silence_seconds",
        "The longest that any node heard nothing of the broker.",
    ),
    "oldest_pending_seconds": (
        "colony_oldest_pending_seconds",
        "For how long the worker that waits longest for a slot has waited.",
    ),
    "waiting_for_capacity": (
        "colony_workers_waiting_for_capacity",
        "Workers that caps of admission hold back.",
    ),
    "quarantined": (
        "colony_workers_quarantined",
        "Workers in quarantine (colony quarantine list).",
    ),
    "unanswered": (
        "colony_doorbells_unanswered",
        "PENDING workers whose doorbell may be rung again.",
    ),
    "overdue": (
        "colony_items_overdue",
        "Deadlines, wakes and stops whose time has come and nobody has done.",
    ),
    "overdue_seconds": ("colony_items_overdue_seconds", "How late the latest of them is."),
    "joins_waiting": (
        "colony_batches_to_join",
        "Batches that have what they need and are not joined.",
    ),
    "deliveries_pending": ("colony_deliveries_pending", "Webhooks that are owed."),
    "deliveries_oldest_seconds": (
        "colony_deliveries_oldest_seconds",
        "How long the oldest of them has been owed.",
    ),
    "deliveries_dead": (
        "colony_deliveries_dead",
        "Webhooks that were given up (colony deliveries list --dead).",
    ),
    "notices_pending": (
        "colony_notices_pending",
        "Ends that a producer's task is still to be told of.",
    ),
    "timers": ("colony_timers", "Timers that are not paused."),
    "timers_due": ("colony_timers_due", "Timers whose time has come and that have not fired."),
    "timers_late_seconds": ("colony_timers_late_seconds", "How late the latest of them is."),
    "rejected_kept": (
        "colony_messages_set_aside",
        "Messages that were set aside (colony doctor), at most 1,000.",
    ),
    "intake_paused": ("colony_intake_paused", "1 while an operator has paused the intake."),
    "queue": ("colony_queue_messages", "Doorbells that wait in the queue."),
    "unacknowledged": (
        "colony_queue_unacknowledged",
        "Doorbells that nodes have taken and not begun.",
    ),
    "intake": ("colony_intake_messages", "Messages of foreign producers that wait to be accepted."),
    "beat_leads": ("colony_beat_leads", "1 while a beat holds the lead."),
}
"""By the name of the figure: the metric, and what it says."""

TOTALS: Final[Mapping[str, tuple[str, str]]] = {
    "accepted": ("colony_workers_accepted_total", "Workers accepted."),
    "rescued": (
        "colony_workers_rescued_total",
        "Workers that were run again because their node or slice was lost.",
    ),
    "lost": (
        "colony_workers_lost_total",
        "Workers that were given up after max_resurrections, and quarantined.",
    ),
    "stale_refused": (
        "colony_stale_writes_refused_total",
        "Writes refused because the claim was somebody else's by then.",
    ),
    "rung_again": (
        "colony_doorbells_rung_again_total",
        "Doorbells that went unanswered and were rung again.",
    ),
    "rejected": (
        "colony_messages_rejected_total",
        "Messages of the queue that no node understands or that name an unknown worker: set aside.",
    ),
    "intake_refused": (
        "colony_intake_refused_total",
        "Messages of foreign producers that were refused: set aside.",
    ),
    "joined": ("colony_batches_joined_total", "Batches joined."),
    "fired": ("colony_trigger_fires_total", "Fires of triggers that spawned a worker."),
    "fires_skipped": (
        "colony_trigger_fires_skipped_total",
        "Fires that came to nothing (busy, paused, refused).",
    ),
    "fires_missed": ("colony_trigger_fires_missed_total", "Fires whose time had passed."),
    "delivered": ("colony_webhooks_delivered_total", "Webhooks delivered."),
    "delivery_failed": (
        "colony_webhooks_failed_total",
        "Attempts to deliver a webhook that failed.",
    ),
    "delivery_dead": ("colony_webhooks_dead_total", "Webhooks given up."),
    "events": ("colony_events_total", "Events written."),
}
"""By the name of the total in the store (see ``colony stats``)."""

STATUSES: Final = ("success", "partial", "failed", "timeout", "stopped")
BY_STATUS: Final = ("colony_workers_ended_total", "Workers ended, by the status of their report.")
BY_STATE: Final = ("colony_workers", "Workers that the store knows, by state.")
BY_AGENT: Final = ("colony_workers_active", "Workers PENDING or RUNNING, by agent.")
OTHERS: Final = ("colony_counted_total", "What else the store counts, by its name in colony stats.")
