"""Two nodes, a producer elsewhere: what is spawned is run once, wherever there is room."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from colony import ReportStatus
from colony.models import Report
from colony.testing import Fleet
from tests.fleet.helpers import assert_at_rest, assert_told_once, node_name, records, statuses

pytestmark = pytest.mark.fleet

WORKERS = 1000

PRODUCER = """
import sys
from colony.client import ColonyClient

with ColonyClient("basic", redis_url=sys.argv[1]) as client:
    ids = client.spawn("nap a while", count=int(sys.argv[2]))
    for report in client.wait_for_worker_reports(ids, timeout=60):
        print(report.model_dump_json())
"""


async def test_a_thousand_workers_are_spread_over_two_nodes_and_report_once(
    fleet: type[Fleet],
) -> None:
    """1,000 workers of a producer in a third process run on both nodes; each reports once."""
    async with fleet(
        "tests.definitions:basic", nodes=2, concurrency=250, max_history="100000"
    ) as running:
        runtime = running.runtime
        names = {await node_name(runtime, node) for node in running.nodes}
        reports = _produce(running.redis_url)
        ids = [report.worker_id for report in reports]
        assert len(set(ids)) == WORKERS
        assert statuses(reports) == {ReportStatus.SUCCESS: WORKERS}

        done = await records(runtime, ids)
        assert {len(record.attempts) for record in done} == {1}
        share = Counter(record.attempts[0].node for record in done)
        print(f"shares of the nodes: {sorted(share.values())}")
        assert set(share) == names
        assert min(share.values()) >= WORKERS // 4

        await assert_told_once(runtime, ids)
        await assert_at_rest(running.redis_url, "basic")
        assert (await runtime.get_stats()).totals["accepted"] == WORKERS


def _produce(redis_url: str) -> list[Report]:
    """The reports as a producer in a process of its own gets them."""
    produced = subprocess.run(
        [sys.executable, "-c", PRODUCER, redis_url, str(WORKERS)],
        capture_output=True,
        check=False,
        text=True,
        timeout=90,
    )
    assert produced.returncode == 0, produced.stderr
    return [Report.model_validate_json(line) for line in produced.stdout.splitlines()]
