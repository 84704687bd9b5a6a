"""Spans of real nodes and a real gateway, written to files: one trace for a tree, whoever began it, whatever
dies; by the GenAI conventions, and without a text."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
from celery import Celery

from colony import WorkerState, tracing
from colony.doorbell import SPAWN
from colony.testing import Fleet, wait_until
from tests.gateway.kit import Gateway

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
otlp = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

Spans = list[dict[str, Any]]

TRACES = [f"{digit}" * 32 for digit in "123"]
ABOVE = "ab" * 8


def traceparent(trace: str) -> str:
    """What a producer sends along that is in this trace."""
    return f"00-{trace}-{ABOVE}-01"


def spans_in(files: Iterable[Path]) -> Spans:
    """All spans that have ended."""
    texts = [file.read_text() for file in files if file.exists()]
    return [json.loads(line) for text in texts for line in text.splitlines() if line.endswith("}")]


def of(spans: Spans, name: str, worker: str | None = None) -> Spans:
    """Those of this name, of this worker."""
    return [
        s
        for s in spans
        if s["name"] == name and worker in (None, s["attributes"].get("gen_ai.conversation.id"))
    ]


def trace_of(span: dict[str, Any]) -> str:
    """The id of its trace, in hexadecimal digits."""
    return str(span["context"]["trace_id"]).removeprefix("0x")


def id_of(span: dict[str, Any]) -> str:
    """Its own id."""
    return str(span["context"]["span_id"])


async def test_a_tree_is_one_trace_over_processes_and_a_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parent, children, a park, kill -9, the rescue: one trace, each span below who caused it."""
    files = [tmp_path / f"spans-{n}" for n in range(2)]
    monkeypatch.setenv("TEST_GATES", str(tmp_path))
    async with Fleet("tests.fleet.tree_definitions:trees", nodes=0) as fleet:
        start = [partial(fleet.add_nodes, tracing="1", trace_file=str(file)) for file in files]
        [first] = await start[0]()
        runtime = fleet.runtime
        with tracing.inherited(traceparent(TRACES[0])):
            [root] = await runtime.spawn("each hold hunter2 / hold hunter2")

        async def below() -> list[str]:
            workers = await runtime.list_workers(status=WorkerState.RUNNING)
            found = [w.worker_id for w in workers if w.parent_id == root]
            return found if len(found) == 2 else []

        children = await wait_until(below, what="both children run")
        parked = partial(of, name="invoke_agent agent", worker=root)
        await wait_until(lambda: parked(spans_in(files)), what="the parent's slice is written")
        await start[1]()
        first.kill()
        (tmp_path / "hunter2").touch()
        report = await runtime.wait_for_worker(root, 40)
        assert report is not None
        assert len(report.data["reports"]) == 2  # type: ignore[arg-type]
        await wait_until(
            lambda: len(parked(spans_in(files))) == 2, what="the last slice is written"
        )

    spans = spans_in(files)
    assert {trace_of(span) for span in spans} == {TRACES[0]}
    slices = {(s["attributes"]["gen_ai.agent.id"], s["attributes"]["colony.epoch"]): s
              for s in of(spans, "invoke_agent agent")}  # fmt: skip
    assert slices.keys() == {(root, 1), (root, 2), *((child, 2) for child in children)}
    assert slices[root, 1]["attributes"]["colony.outcome"] == "parked"
    assert slices[root, 2]["attributes"]["colony.outcome"] == "ended"
    assert (
        slices[root, 1]["attributes"]["colony.node"] != slices[root, 2]["attributes"]["colony.node"]
    )
    [call] = of(spans, "execute_tool run_parallel_workers", root)[:1]
    made = of(spans, "create_agent trees")[
        0
    ]  # made once more after the park, for the same children
    assert {s["parent_id"] for key, s in slices.items() if key[0] == root} == {f"0x{ABOVE}"}
    assert call["parent_id"] == id_of(slices[root, 1])
    assert made["parent_id"] == id_of(call)
    assert {s["parent_id"] for key, s in slices.items() if key[0] in children} == {id_of(made)}
    asked = of(spans, "chat scripted")
    assert len(of(asked, "chat scripted", root)) == 2
    assert {s["attributes"]["gen_ai.operation.name"] for s in asked} == {"chat"}
    assert all(s["attributes"]["gen_ai.usage.output_tokens"] > 0 for s in asked)
    assert {s["status"]["status_code"] for s in spans} == {"UNSET"}
    assert "hunter2" not in "".join(file.read_text() for file in files)


async def test_traces_of_producers_are_continued(tmp_path: Path) -> None:
    """A header over HTTP, a header of a Celery message; with neither a worker has a trace of its own."""
    nodes, gate = tmp_path / "nodes", tmp_path / "gateway"
    async with Fleet("tests.definitions:basic", nodes=0) as fleet:
        await fleet.add_nodes(tracing="1", trace_file=str(nodes))
        runtime = fleet.runtime
        gateway = Gateway(fleet.redis_url, tmp_path / "log", tracing="1", trace_file=str(gate))
        try:
            [plain] = await runtime.spawn("echo")
            with Celery(broker=fleet.redis_url, backend=fleet.redis_url) as app:
                sent = app.send_task(
                    SPAWN,
                    args=["echo"],
                    queue="colony.basic.intake",
                    headers={"traceparent": traceparent(TRACES[1])},
                )
                answered = await asyncio.to_thread(sent.get, 20)
            await asyncio.to_thread(gateway.wait_ready)
            token = (await runtime.create_token("test", ["spawn"])).token
            async with httpx2.AsyncClient() as client:
                answer = await client.post(
                    f"{gateway.url}/v1/colonies/basic/workers",
                    json={"task": "raise"},
                    headers={
                        "Authorization": f"Bearer {token}",
                        "traceparent": traceparent(TRACES[2]),
                    },
                )
            asked = {
                plain: tracing.traceparent_of(plain).split("-")[1],
                answered["worker_ids"][0]: TRACES[1],
                answer.json()["worker_ids"][0]: TRACES[2],
            }
            await runtime.wait_for_worker_reports(list(asked), 20)

            def written() -> bool:
                return len(of(spans_in([nodes]), "invoke_agent agent")) == len(asked)

            await wait_until(written, what="the slices are written")
        finally:
            gateway.terminate()
    spans = spans_in([nodes])
    found = {s["attributes"]["gen_ai.agent.id"]: s for s in of(spans, "invoke_agent agent")}
    assert {worker: trace_of(span) for worker, span in found.items()} == asked
    [spawned] = of(spans_in([gate]), "create_agent basic")
    assert (trace_of(spawned), spawned["kind"]) == (TRACES[2], "SpanKind.PRODUCER")
    [_, _, last] = asked
    assert found[last]["parent_id"] == id_of(spawned)
    failed = [s for s in of(spans, "chat scripted", last) if s["status"]["status_code"] == "ERROR"]
    assert failed[0]["attributes"]["error.type"] == "RuntimeError"
    assert "fell over" not in nodes.read_text()


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
async def test_spans_reach_a_collector_before_the_node_has_ended(pool: str) -> None:
    """By OTLP over HTTP, as OTEL_… says where: what is not yet sent leaves when the node is told to end, of
    a child of prefork's pool, too."""
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        """Takes what is posted to it."""

        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not to stderr."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
            patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # not while it runs
            async with Fleet("tests.definitions:basic", nodes=0, pool=pool) as fleet:
                [node] = await fleet.add_nodes(tracing="true")
                [worker] = await fleet.runtime.spawn("fetch")
                assert await fleet.runtime.wait_for_worker(worker, timeout=20) is not None
                node.terminate()
                assert await asyncio.to_thread(node.wait) == 0
        server.shutdown()
    told = [otlp.ExportTraceServiceRequest.FromString(body) for body in received]
    spans = [
        s for t in told for r in t.resource_spans for scope in r.scope_spans for s in scope.spans
    ]
    about = {a.value.string_value for s in spans for a in s.attributes}
    assert worker in about
    assert "invoke_agent" in {span.name.split()[0] for span in spans}
