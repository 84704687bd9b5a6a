"""What nodes, beats and gateways write with COLONY_LOG_FORMAT=json: objects alone, with their fields."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from colony.models import WorkerState
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import node_name, wait_for_state
from tests.gateway.kit import Gateway

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]


def lines(log: Path) -> list[dict[str, Any]]:
    """All lines of a log; each must be an object."""
    return [json.loads(line) for line in log.read_text().splitlines()]


async def test_every_line_is_json_with_its_fields(tmp_path: Path) -> None:
    """Lines of tools (async, in threads, printed), of Celery, of ours; a second attempt's epoch; no task."""
    async with Fleet("tests.fleet.log_definitions:colony", log_format="json") as fleet:
        gateway = Gateway(fleet.redis_url, tmp_path / "gateway", log_format="json")
        try:
            runtime, node = fleet.runtime, fleet.nodes[0]
            name = await node_name(runtime, node)
            beat = fleet.start_beat()
            [worker] = await runtime.spawn("Log hunter2", data={"password": "hunter2"})
            assert (await runtime.wait_for_worker(worker, 20)) is not None
            [napper] = await runtime.spawn("nap")
            await wait_for_state(runtime, WorkerState.RUNNING, 1)
            await fleet.add_nodes()
            node.kill()
            assert (await runtime.wait_for_worker(napper, 30)) is not None
            told = lines(node.log)
            for said in ("from the loop", "from a thread"):
                [line] = [line for line in told if line["event"] == said]
                assert line.items() >= {"worker": worker, "epoch": 1, "node": name}.items()
                assert line["colony"] == "logging"
            assert [x["logger"] for x in told if x["event"] == "printed"] == ["celery.redirected"]
            received = [x for x in told if "received" in x["event"] and x.get("worker") == worker]
            assert [line["logger"] for line in received] == ["celery.worker.strategy"]
            again = [x for x in lines(fleet.nodes[1].log) if x["event"] == "from the loop"]
            assert [(line["worker"], line["epoch"]) for line in again] == [(napper, 2)]
            assert all({"timestamp", "level", "logger", "event"} <= line.keys() for line in told)
            assert "hunter2" not in node.log.read_text()
            await wait_until(lambda: "Sending due task" in beat.log.read_text(), what="a tick")
            assert all(line["colony"] == "logging" for line in lines(beat.log))
            await asyncio.to_thread(gateway.wait_ready)
            for one in (beat, fleet.nodes[1]):
                one.terminate()
                assert await asyncio.to_thread(one.wait) == 0
                assert lines(one.log), "also of its end"
        finally:
            gateway.terminate()
        assert {line["logger"] for line in lines(gateway.log)} >= {"uvicorn.error"}
