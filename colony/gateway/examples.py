"""Examples of answers, for the OpenAPI description. Tests check each against its schema."""

from __future__ import annotations

from typing import Any

AT = "2030-01-31T12:00:00Z"
WORKER_ID = "w0019a1b2c3d4e5f6a7b8c"
BATCH_ID = "b0019a1b2c3d4e5f6a7b8c"

REPORT: dict[str, Any] = {
    "worker_id": WORKER_ID,
    "status": "success",
    "summary": "Summarised in 5 points.",
    "data": {"points": 5},
    "error": None,
    "duration_seconds": 12.5,
    "tokens_used": 1234,
    "cost_usd": 0.01,
    "left_running": [],
}
SUMMARY: dict[str, Any] = {
    "worker_id": WORKER_ID,
    "state": "COMPLETED",
    "status": "success",
    "agent": "agent",
    "task": "Summarise the report",
    "stream_id": f"worker:{WORKER_ID}",
    "root_id": WORKER_ID,
    "tokens_used": 1234,
    "created_at": AT,
    "since": AT,
    "started_at": AT,
    "ended_at": AT,
}
WORKER: dict[str, Any] = {
    "worker_id": WORKER_ID,
    "colony_id": "survey",
    "state": "COMPLETED",
    "agent": "agent",
    "task": "Summarise the report",
    "data": {"url": "https://example.com/report"},
    "stream_id": f"worker:{WORKER_ID}",
    "root_id": WORKER_ID,
    "version": "1",
    "created_at": AT,
    "since": AT,
    "ended_at": AT,
    "epoch": 1,
    "attempts": [
        {"epoch": 1, "node": "host-1", "started_at": AT, "ended_at": AT, "outcome": "success"}
    ],
    "report": REPORT,
}
WORKERS = {"items": [SUMMARY], "next_cursor": "bGlzdGVkIDE4OTYxODA0MDAwMDAgdzAwMTlhMWIy"}
RUNNING = {"id": WORKER_ID, "state": "RUNNING"}
CONVERSATION = {
    "items": [{"kind": "answer", "message": {"kind": "response", "parts": []}, "opened": []}],
    "next_cursor": None,
}
SPAWNED = {"worker_ids": [WORKER_ID]}
RETRIED = {"retried": WORKER_ID, "worker_id": "w0019a1b2c3d5e5f6a7b8c"}

BATCH: dict[str, Any] = {
    "batch_id": BATCH_ID,
    "state": "JOINED",
    "size": 2,
    "arrived": 2,
    "policy": "all",
    "need": 3,
    "parent_id": None,
    "created_at": AT,
    "deadline": None,
    "joined_at": AT,
    "counts": {"success": 1, "failed": 1},
}
BATCH_RESULT: dict[str, Any] = {
    "batch_id": BATCH_ID,
    "size": 1,
    "policy": "all",
    "counts": {"success": 1},
    "joined_at": AT,
    "correlation_id": None,
    "members": [{"worker_id": WORKER_ID, "status": "success"}],
}
BATCH_SPAWNED = {"batch_id": BATCH_ID, "worker_ids": [WORKER_ID]}
MEMBERS = {"items": [{"index": 0, "worker_id": WORKER_ID}], "next_cursor": None}
REPORTS = {"items": [REPORT, None], "next_cursor": None}

TREE: dict[str, Any] = {
    "tops": [{"worker_id": WORKER_ID, "worker": SUMMARY, "children": []}],
    "workers": 1,
    "truncated": False,
}
STATS: dict[str, Any] = {
    "colony_id": "survey",
    "states": {"PENDING": 3, "RUNNING": 10, "COMPLETED": 87},
    "nodes": 1,
    "slots": 1000,
    "intake_paused": False,
    "oldest_pending_seconds": 0.2,
    "totals": {"accepted": 100, "success": 87},
    "events": 1204,
    "quarantined": 0,
}
NODE: dict[str, Any] = {
    "node": "host-1-4711-9f3a",
    "host": "host-1",
    "pid": 4711,
    "pool": "asyncio",
    "concurrency": 1000,
    "version": "1",
    "started_at": AT,
    "lease_seconds": 3.2,
    "running": 10,
}
LIMITS = [{"name": "max_concurrent_workers", "defined": 500, "most": 50}]
TRIGGER: dict[str, Any] = {
    "trigger_id": "morning",
    "spec": {
        "id": "morning",
        "name": "",
        "trigger_type": "timer",
        "trigger_config": {"cron": "0 8 * * 1-5", "timezone": "Europe/Paris"},
        "task": "Summarise what happened since ${trigger.due}",
    },
    "paused": False,
    "next_due": AT,
    "last_fired": AT,
    "fired": 12,
    "missed": 0,
    "live": 0,
    "created_at": AT,
}
TRIGGERS = {"items": [TRIGGER], "next_cursor": None}
FIRE: dict[str, Any] = {
    "at": AT,
    "source": "timer",
    "due": AT,
    "missed": 0,
    "outcome": "accepted",
    "worker_id": WORKER_ID,
}
FIRED = {"trigger_id": "morning", "worker_id": WORKER_ID}
EVENT = (
    "retry: 1000\nid: 1-41\n\nid: 1-42\nevent: execution_completed\n"
    f'data: {{"id":"1-42","type":"execution_completed","worker_id":"{WORKER_ID}","data":'
    '{"status":"success"}}\n\n: alive\nid: 1-42\n\n'
)
