"""The whole journey with each process as a user of its own: producer, node, beat, gateway, Flower, operator,
and a client of Celery's that knows nothing of Colony. For servers with TLS, with users, or both."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from celery import Celery
from typer.testing import CliRunner

from colony import OnComplete, Subscription
from colony.cli.app import app
from colony.doorbell import SPAWN, intake_of
from colony.runtime import ColonyRuntime
from colony.settings import Settings
from colony.testing import Fleet, Node, wait_until
from colony.triggers.spec import TriggerSpec, TriggerType
from tests.fleet.receiver import SECRET, receiving
from tests.gateway.kit import Gateway, free_port

DEFINITION = "tests.fleet.secure_definitions:secure"
SECONDS = 20.0
FLOWER_LOGIN = "operator:planted-password-of-flower's-page"
HOOK_TOKEN = "planted-token-of-the-webhook"
PLANTED = {
    "TEST_HOOK_SECRET": HOOK_TOKEN,
    "TEST_MODEL_KEY": "planted-key-of-the-model",
    "TEST_ACCOUNT": "planted-secret-of-an-account",
}
"""What processes read from their environment."""
CLI = [sys.executable, "-m", "colony.cli"]


@dataclass
class Journey:
    """What stands and runs."""

    url: Callable[[str], str]
    env: Mapping[str, str]
    folder: Path
    fleet: Fleet
    gateway: Gateway
    beat: Node
    flower: Node
    flower_url: str
    token: str = ""
    """Of the gateway, once there is one."""

    @property
    def runtime(self) -> ColonyRuntime:
        """The producer."""
        return self.fleet.runtime

    def operate(self, *arguments: str, user: str = "operator") -> str:
        """What a command of an operator prints; from a thread without an event loop."""
        env = {**_variables(self.env), "COLONY_REDIS_URL": self.url(user), "COLUMNS": "300"}
        env |= {"COLONY_NAME": self.fleet.colony_id}
        done = CliRunner().invoke(app, arguments, env=env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.output

    def logs(self) -> str:
        """Of all processes."""
        nodes = [self.beat, self.flower, *self.fleet.nodes]
        return "\n".join(
            [self.gateway.log.read_text(), *(n.log.read_text(errors="replace") for n in nodes)]
        )


@asynccontextmanager
async def journey(
    folder: Path,
    url: Callable[[str], str],
    env: Mapping[str, str],
    celery: Mapping[str, Any] | None = None,
) -> AsyncIterator[Journey]:
    """All processes, up; `url` is that of a user, `env` are settings for all of them."""
    given: dict[str, Any] = {
        **env,
        "delivery_allow_private": "127.0.0.1/32",
        "sweep_interval": "0.2",
    }
    async with AsyncExitStack() as stack:
        stack.enter_context(_environment(PLANTED))
        own = {"hook_secret": SECRET, **given}
        fleet = Fleet(DEFINITION, nodes=0, redis_url=url("producer"), **given)
        await stack.enter_async_context(fleet)
        node = fleet.start_node(**{**own, "redis_url": url("node")})
        gateway = Gateway(url("gateway"), folder / "gateway.log", **given)
        stack.callback(gateway.kill)
        beat = _start(folder, given, url("beat"), "beat", [*CLI, "beat", DEFINITION])
        port = free_port()
        command = [*CLI, "flower", "--colony", "secure", "--port", str(port)]
        flower = _start(folder, given, url("flower"), "flower", command)
        for process in (beat, flower):
            stack.callback(process.kill)
        await fleet._until_ready([node])
        await asyncio.to_thread(gateway.wait_ready)
        yield Journey(url, given, folder, fleet, gateway, beat, flower, f"http://127.0.0.1:{port}")


@contextmanager
def _environment(given: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _variables(settings: Mapping[str, str]) -> dict[str, str]:
    return {f"COLONY_{name.upper()}": value for name, value in settings.items()}


def _start(folder: Path, given: Mapping[str, str], url: str, name: str, command: list[str]) -> Node:
    env = {
        **os.environ,
        **_variables(given),
        "COLONY_REDIS_URL": url,
        "COLONY_APP": DEFINITION,
        "COLONY_FLOWER_BASIC_AUTH": FLOWER_LOGIN,
        "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
    }
    return Node(command, env, None, folder / f"{name}.log")


async def whole_journey(j: Journey, celery: Mapping[str, Any]) -> None:
    """Every way in and out, once."""
    await _produce(j)
    await _ask_over_http(j)
    await asyncio.to_thread(_send_from_afar, j, celery)
    await _tick(j)
    await _look_with_flower(j)
    await _operate(j)


async def _produce(j: Journey) -> None:
    told: list[str] = []
    listening = await j.runtime.subscribe(lambda event: told.append(event.type))
    with receiving() as receiver:
        hook = OnComplete(url=receiver.url("/done"), secret="env:COLONY_HOOK_SECRET")
        ids = [
            *await j.runtime.spawn("echo", count=3),
            *await j.runtime.spawn("tree fetch / echo", on_complete=hook),
            *await j.runtime.spawn_batch(["fetch", "text"], on_complete="shop.done"),
        ]
        reports = await j.runtime.wait_for_worker_reports(ids, timeout=SECONDS)
        assert all(r.ok for r in reports), (reports, j.logs())
        await wait_until(lambda: receiver.at("/done"), 10, what="the webhook comes")
    [slow] = await j.runtime.spawn("sleep")
    assert await j.runtime.stop_worker(slow)
    await j.runtime.wait_for_worker(slow, timeout=SECONDS)
    assert "subagent_report" in told, told
    await listening.close()


async def _ask_over_http(j: Journey) -> None:
    out = await asyncio.to_thread(j.operate, "token", "create", "shop", "--scope", "admin")
    token = j.token = out.split()[0]
    base = f"{j.gateway.url}/v1/colonies/{j.fleet.colony_id}"
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(timeout=30, headers=headers) as client:
        made = await client.post(f"{base}/workers", json={"task": "fetch"})
        assert made.status_code in (201, 202), (made.text, j.gateway.tail())
        [worker] = made.json()["worker_ids"]
        for path in (
            f"/workers/{worker}/report?wait=20",
            f"/workers/{worker}",
            f"/workers/{worker}/conversation",
            f"/trees/{worker}",
            "/workers",
            "/nodes",
            "/stats",
            "/limits",
            "/triggers",
            "/triggers/clock/fires",
            "/quarantine",
        ):
            found = await client.get(base + path)
            assert found.status_code == 200, (path, found.text, j.gateway.tail())
        async with client.stream("GET", f"{base}/events?after=0") as events:
            async for line in events.aiter_lines():
                if worker in line:
                    break
        fired = await client.post(
            f"{base}/hooks/in",
            json={"what": "it"},
            headers={"Authorization": f"Bearer {HOOK_TOKEN}"},
        )
        assert fired.status_code < 300, (fired.text, j.gateway.tail())
        stopped = await client.post(f"{base}/workers", json={"task": "sleep"})
        [worker] = stopped.json()["worker_ids"]
        ended = await client.post(f"{base}/workers/{worker}/stop", json={})
        assert ended.status_code < 300, (ended.text, j.gateway.tail())


def _send_from_afar(j: Journey, celery: Mapping[str, Any]) -> None:
    with Celery("shop", broker=j.url("intake"), backend=j.url("intake")) as shop:
        shop.conf.update(celery)
        sent = shop.send_task(SPAWN, args=["fetch"], queue=intake_of(j.fleet.colony_id))
        [worker] = sent.get(timeout=SECONDS)["worker_ids"]
        assert worker
        shop.backend.result_consumer.stop()


async def _tick(j: Journey) -> None:
    await wait_until(
        lambda: "Sending due task colony.tick" in j.beat.log.read_text(),
        SECONDS,
        what=j.beat.tail(),
    )

    async def fired() -> int:
        return int((await j.runtime.get_stats()).totals.get("fired", 0))

    await wait_until(fired, 10, what="the clock fires")


async def _look_with_flower(j: Journey) -> None:
    auth = httpx2.BasicAuth(*FLOWER_LOGIN.split(":"))
    async with httpx2.AsyncClient(timeout=30, auth=auth, base_url=j.flower_url) as client:

        async def up() -> bool:
            try:
                answer = await client.get("/api/workers?refresh=1")
            except httpx2.TransportError:
                return False
            return answer.status_code == 200 and len(answer.json()) > 0

        await wait_until(up, SECONDS, what=f"Flower sees the node: {j.flower.tail()}")
        [worker] = await j.runtime.spawn("sleep")

        async def seen() -> bool:
            return (await client.get(f"/api/task/info/{worker}")).status_code == 200

        await wait_until(seen, SECONDS, what=f"Flower sees the worker: {j.flower.tail()}")
        ended = await client.post(f"/api/task/revoke/{worker}", params={"terminate": "true"})
        assert ended.status_code == 200, ended.text
        report = await j.runtime.wait_for_worker(worker, timeout=SECONDS)
        assert report is not None
        assert report.status == "stopped"


async def _operate(j: Journey) -> None:
    settings = Settings.model_validate({**j.env, "redis_url": j.url("operator")})
    async with ColonyRuntime(j.fleet.colony_id, settings=settings) as operator:
        await operator.pause_intake()
        await operator.resume_intake()
        [worker] = await operator.spawn("echo")
        assert await operator.wait_for_worker(worker, timeout=SECONDS)
        assert await operator.get_conversation(worker)
        assert await operator.list_workers()
        assert await operator.list_nodes()
        await operator.set_limit("colony", 40)
        await operator.trigger("clock")
        spec = TriggerSpec(id="own", trigger_type=TriggerType.MANUAL, task="fetch")
        await operator.put_trigger(spec)
        await operator.pause_trigger("own")
        await operator.resume_trigger("own")
        await operator.remove_trigger("own")
        await operator.put_subscription(
            Subscription(id="ops", url="http://127.0.0.1:1/in", secret="env:COLONY_HOOK_SECRET")
        )
        await operator.remove_subscription("ops")
        verbs: list[Callable[[], Awaitable[object]]] = [
            operator.list_rejected,
            operator.list_quarantine,
            operator.list_deliveries,
            operator.list_tokens,
            operator.list_triggers,
            operator.get_limits,
            operator.queue_depth,
            operator.intake_depth,
        ]
        for verb in verbs:
            await verb()
    said = await asyncio.to_thread(j.operate, "doctor", DEFINITION)
    assert "reachable" not in said, said
    assert "refuses user" not in said, said
    said = await asyncio.to_thread(_top, j)
    assert "colony secure" in said, said


def _top(j: Journey) -> str:
    """What the operator sees of the fleet at work."""
    env = {**os.environ, **_variables(j.env), "COLONY_REDIS_URL": j.url("operator")}
    done = subprocess.run(
        [*CLI, "top", "--once", "--colony", j.fleet.colony_id],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.stdout + done.stderr
