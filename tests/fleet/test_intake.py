"""What Celery clients send to the intake by name: plain Celery, link and chord with tasks of their own, and a
raw message that is pushed as the documentation of `workers.intake.tasks` shows it."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from celery import Celery, chain, chord, group
from celery.exceptions import TaskRevokedError
from redis import Redis

from colony import Report, ReportStatus, WorkerState
from colony.doorbell import SPAWN, SPAWN_BATCH, TRIGGER, celery_app
from colony.errors import InvalidTask, UnknownTrigger
from colony.testing import Fleet, wait_until
from tests.fleet.helpers import assert_told_once, records, statuses
from tests.fleet.shop import shop
from workers.intake import tasks

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio(loop_scope="module")]

INTAKE = "colony.basic.intake"
MOST = 256 * 1024
SLOTS = 2
T = TypeVar("T")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Fleet]:
    """One node with two slots that reads messages of at most 256 KB."""
    async with Fleet(
        "tests.definitions:basic", concurrency=SLOTS, max_message_bytes=str(MOST)
    ) as fleet:
        yield fleet
        assert fleet.nodes[0].process.poll() is None, "the node did not survive its messages"


@pytest.fixture(scope="module")
def client(running: Fleet) -> Iterator[Celery]:
    """An existing Celery application, which knows the colony's Redis and the names of tasks."""
    with shop(running.redis_url) as app:
        yield app


@pytest.fixture(scope="module")
def clerk(running: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker process of that application, for its own tasks."""
    log = tmp_path_factory.mktemp("clerk") / "log"
    command = [sys.executable, "-m", "tests.fleet.shop", running.redis_url]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text(errors="replace")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def answer(ask: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What a blocking call returns."""
    return await asyncio.to_thread(ask, *args, **kwargs)


async def asked(client: Celery, name: str, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The result of one of our tasks, sent with these arguments; raises its error."""
    sent = await answer(client.send_task, name, args=args, kwargs=kwargs, queue=INTAKE)
    result: dict[str, Any] = await answer(sent.get, timeout=10)
    return result


async def reports_of(running: Fleet, ids: list[str]) -> list[Report]:
    """The reports of these workers, which were told of once each."""
    found = await running.runtime.wait_for_worker_reports(ids, timeout=15)
    await assert_told_once(running.runtime, ids)
    return found


async def totals(running: Fleet) -> dict[str, int]:
    """The colony's counters."""
    return dict((await running.runtime.get_stats()).totals)


def push(running: Fleet, message: bytes | str, queue: str = INTAKE) -> None:
    """As `redis-cli LPUSH`."""
    with Redis.from_url(running.redis_url) as redis:
        redis.lpush(queue, message)


def raw(kwargs: Any, task: str = SPAWN, task_id: Any = "raw-1", **changes: Any) -> str:
    """A message as it is documented, with `changes` to its envelope."""
    message = {
        "headers": {"task": task, "id": task_id},
        "properties": {"correlation_id": task_id},
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "body": json.dumps([[], kwargs, {}]),
    }
    return json.dumps({**message, **changes})


async def test_a_client_spawns_by_name(running: Fleet, client: Celery) -> None:
    """One positional argument is a task; the result is the worker's id, and the worker reports once."""
    result = await asked(client, SPAWN, "fetch")
    assert result == {"worker_ids": result["worker_ids"], "batch_id": None}
    [report] = await reports_of(running, result["worker_ids"])
    assert report.data == {"rows": 5}


async def test_all_arguments_arrive(running: Fleet, client: Celery) -> None:
    """Each named argument of colony.spawn is in the record that it makes; count makes as many."""
    result = await asked(
        client,
        SPAWN,
        task="fetch",
        data={"path": "LICENSE"},
        agent="bare",
        count=2,
        correlation_id="order 7",
        deadline_seconds=3600,
        soft_deadline_seconds=1800,
        not_before_seconds=0.1,
        priority=3,
        idempotency_key="all arguments",
        stream_id="stream 7",
        concurrency_key="customer 7",
    )
    assert len(set(result["worker_ids"])) == 2
    for record in await records(running.runtime, result["worker_ids"]):
        assert (record.task, record.data, record.agent) == ("fetch", {"path": "LICENSE"}, "bare")
        assert (record.correlation_id, record.stream_id) == ("order 7", "stream 7")
        assert record.priority == 3
        assert record.deadline
        assert record.soft_deadline
        assert record.not_before
        assert (record.deadline - record.soft_deadline).total_seconds() == pytest.approx(
            1800, abs=1
        )
    again = await asked(client, SPAWN, task="fetch", count=2, idempotency_key="all arguments")
    assert again == result


async def test_a_batch_is_spawned_and_joined(running: Fleet, client: Celery, clerk: None) -> None:
    """colony.spawn_batch answers with the ids in order; on_complete calls the client's own task."""
    with Redis.from_url(running.redis_url) as redis:
        redis.delete("shop:seen")
        result = await asked(
            client,
            SPAWN_BATCH,
            tasks=["fetch", {"task": "echo", "agent": "agent"}, {"task": "fail", "data": {"a": 1}}],
            policy="all",
            on_complete={"task": "shop.note", "queue": "shop"},
        )
        joined = await running.runtime.wait_for_batch(result["batch_id"], timeout=15)
        assert joined
        assert [member.worker_id for member in joined.members] == result["worker_ids"]
        assert [member.status for member in joined.members] == ["success", "success", "failed"]
        [seen] = await wait_until(lambda: redis.lrange("shop:seen", 0, -1), 10, what="on_complete")
    assert json.loads(seen)["batch_id"] == result["batch_id"]


async def test_what_is_linked_gets_the_result(running: Fleet, client: Celery, clerk: None) -> None:
    """`link` and `link_error` call the client's own tasks on its own worker: with the documented result, with
    the id of the task that failed."""
    with Redis.from_url(running.redis_url, decode_responses=True) as redis:
        redis.delete("shop:seen")
        note = client.signature("shop.note", queue="shop")
        spawn = client.signature(SPAWN, args=["fetch"], queue=INTAKE, app=client)
        sent = await answer(spawn.apply_async, link=note, link_error=note)
        result = await answer(sent.get, timeout=10)
        [seen] = await wait_until(lambda: redis.lrange("shop:seen", 0, -1), 10, what="the link")
        assert json.loads(seen) == result
        redis.delete("shop:seen")
        bad = client.signature(SPAWN, args=[5], queue=INTAKE, app=client)
        sent = await answer(bad.apply_async, link=note, link_error=note)
        [seen] = await wait_until(lambda: redis.lrange("shop:seen", 0, -1), 10, what="the errback")
        assert json.loads(seen) == sent.id
    assert statuses(await reports_of(running, result["worker_ids"])) == {ReportStatus.SUCCESS: 1}


async def test_a_link_by_its_name_alone_and_headers_of_nobody(
    running: Fleet, client: Celery, clerk: None
) -> None:
    """What Celery's own clients always write may be left out; what no client writes is in nobody's way."""
    headers = {"task": SPAWN, "id": "by hand", "_children": 5, "get": 5, "as_execution_options": 5}
    links = {"callbacks": [{"task": "shop.note", "options": {"queue": "shop"}}]}
    body = json.dumps([["fetch"], {}, links])
    with Redis.from_url(running.redis_url, decode_responses=True) as redis:
        redis.delete("shop:seen")
        push(running, raw({}, headers=headers, body=body))
        result = await answer(client.AsyncResult("by hand").get, timeout=10)
        [seen] = await wait_until(lambda: redis.lrange("shop:seen", 0, -1), 10, what="the link")
        assert json.loads(seen) == result
    await reports_of(running, result["worker_ids"])


async def test_a_chord_of_ours_and_theirs(running: Fleet, client: Celery, clerk: None) -> None:
    """Two of our tasks and one of the client's are the header of a chord, whose body is the client's."""
    header = [
        client.signature(SPAWN, args=["fetch"], queue=INTAKE),
        client.signature("shop.double", args=[21], queue="shop"),
        client.signature(SPAWN_BATCH, args=[["fetch", "echo"]], queue=INTAKE),
    ]
    body = client.signature("shop.gather", queue="shop")
    joined = await answer(lambda: chord(header, app=client)(body))
    first, second, third = await answer(joined.get, timeout=15)
    assert second == 42
    assert first["batch_id"] is None
    assert third["batch_id"]
    await reports_of(running, [*first["worker_ids"], *third["worker_ids"]])


async def test_a_chain_hands_its_result_to_ours(
    running: Fleet, client: Celery, clerk: None
) -> None:
    """The result of the client's task is the positional task of ours, and ours goes on to the next."""
    steps = [
        client.signature("shop.word", args=["fetch"], queue="shop"),
        client.signature(SPAWN, queue=INTAKE),
        client.signature("shop.gather", queue="shop"),
    ]
    sent = await answer((steps[0] | steps[1] | steps[2]).apply_async)
    result = await answer(sent.get, timeout=15)
    await reports_of(running, result["worker_ids"])


async def test_a_chain_goes_on_to_a_chord(running: Fleet, clerk: None) -> None:
    """What Celery's own clients write of groups and chords, also beneath a link, is taken as it is."""
    plain = Celery("plain", broker=running.redis_url, backend="cache+memory://")
    first = plain.signature(SPAWN, args=["fetch"], queue=INTAKE)
    word = plain.signature("shop.word", queue="shop")
    first.link(chain(word, group([word, word], app=plain), app=plain))
    gather = plain.signature("shop.gather", queue="shop")
    sent = await answer((first | group([word, word], app=plain) | gather).apply_async)
    with Redis.from_url(running.redis_url) as redis:
        key = f"celery-task-meta-{sent.id}"
        told = json.loads(await wait_until(lambda: redis.get(key), 15, what="the chord's body"))
    one, other = told["result"]
    assert one == other
    await reports_of(running, one["worker_ids"])


def documented() -> dict[str, Any]:
    """The raw message in the docstring of the tasks' module."""
    assert tasks.__doc__
    found = re.search(r"::\n\n(.*?)\n\n", tasks.__doc__, re.S)
    assert found
    message: dict[str, Any] = json.loads(found[1])
    return message


async def test_the_documented_message_can_be_pushed(running: Fleet, client: Celery) -> None:
    """LPUSH of the documented JSON, to the letter, is a worker; its result is where Celery looks for it."""
    message = documented()
    push(running, json.dumps(message))
    result = await answer(client.AsyncResult(message["headers"]["id"]).get, timeout=10)
    [record] = await records(running.runtime, result["worker_ids"])
    assert (record.task, record.data) == ("Survey", {"path": "LICENSE"})


async def test_the_same_task_id_is_the_same_spawn(running: Fleet, client: Celery) -> None:
    """The same message ten times, five of them at once: one worker, also when it has ended."""
    accepted = (await totals(running))["accepted"]
    for _ in range(2):
        for _ in range(5):
            push(running, raw({"task": "fetch", "count": 2}, task_id="ten times"))
        result = await answer(client.AsyncResult("ten times").get, timeout=10)
        await reports_of(running, result["worker_ids"])
        await wait_until(lambda: _is_empty(running), 5, what="the intake is empty")
    assert (await totals(running))["accepted"] == accepted + 2
    for policy in ("all", "any"):
        for _ in range(3):
            message = raw({"tasks": ["fetch", "echo"], "policy": policy}, SPAWN_BATCH, policy)
            push(running, message)
        batch = await answer(client.AsyncResult(policy).get, timeout=10)
        assert await running.runtime.wait_for_batch(batch["batch_id"], timeout=15)
        await wait_until(lambda: _is_empty(running), 5, what="the intake is empty")
    assert (await totals(running))["accepted"] == accepted + 6


def _is_empty(running: Fleet) -> bool:
    with Redis.from_url(running.redis_url) as redis:
        return not [k for k in redis.keys(f"{INTAKE}*") if redis.type(k) == b"list"]


@pytest.mark.parametrize("encoding", ["base64", None, ""])
async def test_a_body_may_be_text_or_base64(
    running: Fleet, client: Celery, encoding: str | None
) -> None:
    """Both encodings that clients use are read."""
    body = json.dumps([["fetch"], {}, None])
    task_id = f"encoded {encoding}"
    properties = {"correlation_id": task_id, "body_encoding": encoding}
    text = base64.b64encode(body.encode()).decode() if encoding else body
    push(running, raw({}, task_id=task_id, body=text, properties=properties))
    result = await answer(client.AsyncResult(task_id).get, timeout=10)
    assert len(result["worker_ids"]) == 1


async def test_celerys_priorities_are_read_too(running: Fleet, client: Celery) -> None:
    """A client that sets a priority pushes to another list: it is taken from there."""
    for priority in (1, 5, 9):
        sent = await answer(
            client.send_task, SPAWN, args=["fetch"], queue=INTAKE, priority=priority
        )
        assert await answer(sent.get, timeout=10)


async def test_a_message_in_the_queue_of_doorbells_is_passed_on(
    running: Fleet, client: Celery
) -> None:
    """Who forgets ".intake" is served as well."""
    sent = await answer(client.send_task, SPAWN, args=["fetch"], queue="colony.basic")
    result = await answer(sent.get, timeout=10)
    await reports_of(running, result["worker_ids"])


async def test_a_consumer_that_was_told_to_read_the_intake_leaves_it(
    running: Fleet, client: Celery
) -> None:
    """As with `-Q`: what it takes there it gives back, and takes no more."""
    with celery_app("basic", running.runtime.settings) as app:
        asked_for = answer(app.control.inspect(timeout=2).active_queues)
        [ours] = [n for n, q in (await asked_for).items() if q[0]["name"] == "colony.basic"]
        await answer(app.control.add_consumer, INTAKE, destination=[ours])  # not the clerk
        results = await asyncio.gather(*(asked(client, SPAWN, "fetch") for _ in range(20)))
        ids = [worker for result in results for worker in result["worker_ids"]]
        assert len(set(ids)) == 20
        await reports_of(running, ids)
        [queues] = (await answer(app.control.inspect([ours], timeout=2).active_queues)).values()
    assert [queue["name"] for queue in queues] == ["colony.basic"]


async def test_work_is_accepted_while_every_slot_is_taken(running: Fleet, client: Celery) -> None:
    """With more sleepers than slots a spawn is answered within a second."""
    sleepers = await running.runtime.spawn("sleep", count=SLOTS + 2)
    result = await asyncio.wait_for(asked(client, SPAWN, "fetch"), 3)
    [record] = await records(running.runtime, result["worker_ids"])
    assert record.state is WorkerState.PENDING
    for worker in sleepers:
        await running.runtime.stop_worker(worker)
    await reports_of(running, result["worker_ids"])


async def test_a_countdown_is_not_before(running: Fleet, client: Celery) -> None:
    """Celery's countdown lets the worker wait in the store; the answer comes at once."""
    sent = await answer(client.send_task, SPAWN, args=["fetch"], queue=INTAKE, countdown=60)
    result = await answer(sent.get, timeout=5)
    [record] = await records(running.runtime, result["worker_ids"])
    assert (record.state, record.waits_for) == (WorkerState.PARKED, "time")
    assert record.not_before
    assert timedelta(seconds=50) < record.not_before - datetime.now(UTC) < timedelta(seconds=61)


async def test_an_expired_message_is_revoked(running: Fleet, client: Celery) -> None:
    """Past its `expires` nothing is accepted, and the client is told."""
    before = await totals(running)
    gone = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    headers = {"task": SPAWN, "id": "too late", "expires": gone}
    push(running, raw({"task": "fetch"}, task_id="too late", headers=headers))
    with pytest.raises(TaskRevokedError, match="expired"):
        await answer(client.AsyncResult("too late").get, timeout=10)
    assert await totals(running) == before


async def test_a_paused_intake_keeps_what_is_sent(running: Fleet, client: Celery) -> None:
    """While paused nothing is accepted and nothing refused, and the node does not spin; afterwards it is."""
    await running.runtime.pause_intake()
    before = await totals(running)
    sent = [client.send_task(SPAWN, args=["fetch"], queue=INTAKE) for _ in range(3)]
    with Redis.from_url(running.redis_url) as redis:
        calls = redis.info("commandstats")["cmdstat_blmove"]["calls"]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(answer(sent[0].get, timeout=2), 2)
        tries = redis.info("commandstats")["cmdstat_blmove"]["calls"] - calls
        assert await running.runtime.intake_depth() == 3
    assert 1 <= tries <= 8
    assert await totals(running) == before
    await running.runtime.resume_intake()
    results = [await answer(result.get, timeout=15) for result in sent]
    await reports_of(running, [w for result in results for w in result["worker_ids"]])


async def test_a_revoke_is_heard_before_the_message_is_accepted(
    running: Fleet, client: Celery
) -> None:
    """Celery's revoke of a task that waits in the paused intake: nothing is accepted, the client is told."""
    await running.runtime.pause_intake()
    before = await totals(running)
    sent = await answer(client.send_task, SPAWN, args=["fetch"], queue=INTAKE)
    await answer(client.control.revoke, sent.id)

    async def heard() -> bool:
        nodes = await answer(client.control.inspect(timeout=1).revoked)
        return any(sent.id in ids for ids in (nodes or {}).values())

    await wait_until(heard, 10, what="the node has heard of it")
    await running.runtime.resume_intake()
    with pytest.raises(TaskRevokedError, match="revoked"):
        await answer(sent.get, timeout=10)
    assert await totals(running) == before


REFUSED: dict[str, tuple[str, Any, Any, str]] = {
    "no task": (SPAWN, [], {}, "task is missing"),
    "unknown argument": (SPAWN, ["fetch"], {"dta": {}}, "unknown argument 'dta'"),
    "task a number": (SPAWN, [5], {}, "task: input should be a valid string, got 5"),
    "task blank": (SPAWN, [" "], {}, "task is blank"),
    "task twice": (SPAWN, ["a"], {"task": "b"}, "given twice"),
    "two positional": (SPAWN, ["a", {}], {}, "takes one positional argument"),
    "data a list": (SPAWN, ["fetch"], {"data": [1]}, "data: input should be"),
    "unknown agent": (SPAWN, ["fetch"], {"agent": "bond"}, "agent 'bond' is unknown"),
    "count 0": (SPAWN, ["fetch"], {"count": 0}, "count: "),
    "count true": (SPAWN, ["fetch"], {"count": True}, "count: "),
    "count huge": (SPAWN, ["fetch"], {"count": 10**9}, "count: "),
    "deadline text": (SPAWN, ["fetch"], {"deadline_seconds": "5"}, "deadline_seconds: "),
    "deadline NaN": (SPAWN, ["fetch"], {"deadline_seconds": float("nan")}, "deadline_sec"),
    "deadline over": (SPAWN, ["fetch"], {"deadline_seconds": -1}, "deadline_seconds: "),
    "deadline endless": (SPAWN, ["fetch"], {"deadline_seconds": 1e300}, "deadline_seconds"),
    "surrogate in data": (SPAWN, ["fetch"], {"data": {"a": "\ud800"}}, "data"),
    "surrogate in a key": (SPAWN, ["fetch"], {"idempotency_key": "\ud800"}, "idempotency_"),
    "empty batch": (SPAWN_BATCH, [[]], {}, "tasks: "),
    "a batch of numbers": (SPAWN_BATCH, [["fetch", 5]], {}, "tasks[1]"),
    "a batch of text": (SPAWN_BATCH, ["fetch"], {}, "tasks: "),
    "unknown policy": (SPAWN_BATCH, [["fetch"]], {"policy": "most"}, "policy: "),
    "on_complete a number": (SPAWN_BATCH, [["fetch"]], {"on_complete": 5}, "on_complete"),
    "data too deep": (
        SPAWN,
        ["fetch"],
        {"data": json.loads('{"a":' * 180 + "1" + "}" * 180)},
        "data is nested too deeply",
    ),
    "on_complete with a key of the node": (
        SPAWN_BATCH,
        [["fetch"]],
        {"on_complete": {"url": "https://example.org/", "secret": "env:OPENAI_API_KEY"}},
        "on_complete.secret: 'env:OPENAI_API_KEY' is not among the secrets",
    ),
    "task too large": (SPAWN, ["x" * 70_000], {}, "max_task_bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_bad_arguments_fail_the_task(running: Fleet, client: Celery, name: str) -> None:
    """The client gets InvalidTask with the reason; nothing is accepted; it is counted and set aside."""
    task, args, kwargs, reason = REFUSED[name]
    before = await totals(running)
    with pytest.raises(InvalidTask, match=re.escape(reason)):
        await asked(client, task, *args, **kwargs)
    assert await totals(running) == before | {"intake_refused": before.get("intake_refused", 0) + 1}
    [rejected, *_] = await running.runtime.list_rejected(1)
    assert reason in rejected.reason
    assert len(rejected.message) <= 2000


def linking(task_id: str, field: str, what: Any) -> str:
    """A good call with this in the canvas of its body."""
    return raw({}, task_id=task_id, body=json.dumps([["fetch"], {}, {field: what}]))


UNREADABLE: dict[str, tuple[bytes | str, str, str | None]] = {
    "not JSON": (b"garbage {", "the message is not JSON", None),
    "empty": (b"", "the message is not JSON", None),
    "not UTF-8": (b'"\x80\xff"', "the message is not JSON", None),
    "a number": (b"17", "not a Celery message", None),
    "deeply nested": (b"[" * 60_000, "the message is not JSON", None),
    "a huge number": (b"9" * 10_000, "the message is not JSON", None),
    "no headers": (raw({}, headers=None), "not a Celery message", None),
    "no task": (raw({}, headers={"id": "u1"}), "headers.task is missing", None),
    "no id": (raw({}, headers={"task": SPAWN}), "headers.id", None),
    "id a number": (raw({}, task_id=5), "headers.id", None),
    "id too long": (raw({}, task_id="x" * 256), "headers.id", None),
    "protocol 1": (
        raw({}, headers={}, body=json.dumps({"task": SPAWN, "id": "u2", "args": ["fetch"]})),
        "protocol 1",
        "u2",
    ),
    "task a list": (raw({}, task=[], task_id="u3"), "headers.task", "u3"),  # type: ignore[arg-type]
    "unknown task": (raw({}, task="shop.note", task_id="u4"), "unknown task 'shop.note'", "u4"),
    "a doorbell": (raw({}, task="colony.run_worker", task_id="u5"), "unknown task", "u5"),
    "pickle": (raw({}, task_id="u6", **{"content-type": "application/x-pickle"}), "content", "u6"),
    "body not base64": (
        raw({}, task_id="u7", properties={"body_encoding": "base64"}, body="!!!"),
        "body is not base64",
        "u7",
    ),
    "body not JSON": (raw({}, task_id="u8", body="{]"), "the body is not JSON", "u8"),
    "body an object": (raw({}, task_id="u9", body="{}"), "body: expected [list", "u9"),
    "body a list": (raw({}, task_id="u10", body='[["fetch"]]'), "body: expected [list", "u10"),
    "args an object": (raw({}, task_id="u11", body="[{}, {}, {}]"), "body: expected", "u11"),
    "lone surrogate": (raw({"task": "a\ud800"}, task_id="u16"), "task: expected Unicode", "u16"),
    "id not Unicode": (raw({}, task_id="\ud800"), "headers.id", None),
    "a link that is none": (
        raw({}, task_id="u12", body='[["fetch"], {}, {"callbacks": [5]}]'),
        "body: callbacks",
        "u12",
    ),
    "a link with arguments that are none": (
        linking("u17", "callbacks", [{"task": "shop.note", "args": 5}]),
        "body: callbacks",
        "u17",
    ),
    "a group without its tasks": (
        linking("u18", "errbacks", [{"task": "celery.group", "subtask_type": "group"}]),
        "body: errbacks",
        "u18",
    ),
    "a chain with a step that is none": (
        linking("u19", "chain", [{"task": "x", "subtask_type": "chain", "kwargs": {"tasks": [5]}}]),
        "body: chain",
        "u19",
    ),
    "a chord of a kind that is none": (
        linking("u20", "chord", {"task": "shop.gather", "subtask_type": "choir"}),
        "body: chord",
        "u20",
    ),
    "expires nonsense": (
        raw({}, headers={"task": SPAWN, "id": "u13", "expires": "soon"}),
        "headers.expires",
        "u13",
    ),
    "too large": (raw({"task": "x" * MOST}, task_id="u14"), "at most 262144 are read", "u14"),
    "ten megabytes": (raw({"task": "x" * 10**7}, task_id="u15"), "at most 262144 are read", "u15"),
    "too large and garbage": (b"\x00" * (MOST + 1), "at most 262144 are read", None),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_unreadable_message_is_set_aside(
    running: Fleet, client: Celery, name: str
) -> None:
    """It is counted and set aside with its reason, and fails where its id is known; nothing is accepted until
    the next."""
    message, reason, task_id = UNREADABLE[name]
    before = await totals(running)
    push(running, message)

    async def counted() -> bool:
        now = (await totals(running)).get("intake_refused", 0)
        return now == before.get("intake_refused", 0) + 1

    await wait_until(counted, 5, what=f"{name} is counted")
    assert (await totals(running)).get("accepted") == before.get("accepted")
    [rejected, *_] = await running.runtime.list_rejected(1)
    assert reason in rejected.reason
    assert len(rejected.message) <= 2000
    if task_id is not None:
        with pytest.raises(InvalidTask, match=re.escape(reason)):
            await answer(client.AsyncResult(task_id).get, timeout=5)
    result = await asked(client, SPAWN, "fetch")
    await reports_of(running, result["worker_ids"])


async def test_what_cannot_be_answered_blocks_nobody(running: Fleet, client: Celery) -> None:
    """A part of a chord that Celery cannot count: its worker is accepted, the message set aside, not for ever
    tried again."""
    group = {"task": SPAWN, "id": "no part", "group": "g", "group_index": {"a": 1}}
    body = json.dumps([["fetch"], {}, {"chord": {"task": "shop.gather", "options": {}}}])
    push(running, raw({}, headers=group, body=body))
    result = await asked(client, SPAWN, "fetch")
    await reports_of(running, result["worker_ids"])
    [rejected, *_] = await running.runtime.list_rejected(1)
    assert "could not be answered" in rejected.reason


async def test_a_trigger_is_fired_by_name(running: Fleet, client: Celery) -> None:
    """colony.trigger fires once for a task id, with its input; an unknown trigger fails the task."""
    spec = {"id": "by-name", "trigger_type": "api", "task": "fetch ${input.what}"}
    await running.runtime.put_trigger({"name": "By name", **spec})
    for _ in range(3):
        push(running, raw({"trigger_id": "by-name", "input": {"what": "tea"}}, TRIGGER, "fire 1"))
    result = await answer(client.AsyncResult("fire 1").get, timeout=10)
    await wait_until(lambda: _is_empty(running), 5, what="the intake is empty")
    assert result == {"worker_ids": result["worker_ids"], "batch_id": None}
    [record] = await records(running.runtime, result["worker_ids"])
    assert record.task == "fetch tea"
    assert len(await running.runtime.get_fires("by-name")) == 1
    with pytest.raises(UnknownTrigger, match="there is no trigger 'nobody'"):
        await asked(client, TRIGGER, "nobody")
