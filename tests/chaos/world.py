"""The fleet that is hurt: a Redis, nodes as processes that each reach it through a proxy of their own.

Each fault of the schedule is a method of that name. A node that ends is replaced, whoever ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from redis import Redis
from redis import exceptions as redis_errors

from colony.redis_server import EmbeddedRedis
from colony.store.keys import Keys
from colony.store.scripts import SCRIPTS
from colony.testing import Node, wait_until
from tests.chaos.history import History
from tests.chaos.schedule import Fault
from tests.chaos.standing import SETTINGS
from tests.proxy import Proxy

COLONY = "chaos"
DEFINITION = "tests.chaos.definition:colony"
VERSIONS = ("1", "2")
NODES = 3
ATTEND_EVERY_SECONDS = 0.1
READY_SECONDS = 40.0
FROZEN_AT_A_POINT_SECONDS = 4.0
UNAWARE_SECONDS = 1.5
"""A beat, and as much again for a busy machine."""

NODE_SETTINGS = {
    "COLONY_LEASE": "2",
    "COLONY_BEAT_INTERVAL": "0.5",
    "COLONY_SWEEP_INTERVAL": "0.2",
    "COLONY_RING_AGAIN_AFTER": "0.5",
    "COLONY_STOP_GRACE": "1",
    "COLONY_DRAIN_GRACE": "1",
    **SETTINGS,
}
POINTS = (
    *("accept", "claim", "checkpoint", "park", "settle", "join", "give_back", "rescue", "wake"),
    *("ring", "ring_again", "expire"),
)


class Hurt:
    """One node with its proxy, its version, and what is wrong with it now."""

    def __init__(self, node: Node, proxy: Proxy, version: str) -> None:
        self.node, self.proxy, self.version = node, proxy, version
        self.busy = False
        self.leaving = False

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return self.node.process.poll() is None


class World:
    """Use it as ``async with``; `do` does one fault, `heal` ends them all."""

    reaches_us = True
    """Whether a node can send a webhook to this process."""

    def __init__(
        self, folder: Path, history: History, seed: int, env: Mapping[str, str], *, concurrency: int
    ) -> None:
        self.folder, self.history = folder, history
        self.nodes: list[Hurt] = []
        self.unaware: dict[int, list[tuple[float, float]]] = defaultdict(list)
        self.wanted_killers = 0
        self.wanted_stops = 0
        self._dice = random.Random(seed)
        self._env, self._first_env = dict(NODE_SETTINGS), dict(env)
        self._env |= {k: v for k, v in env.items() if k.startswith("TEST_")}
        self._concurrency = concurrency
        self._stack = contextlib.ExitStack()
        self._running: set[asyncio.Task[None]] = set()
        self._attending: asyncio.Task[None] | None = None
        self._thawing: list[asyncio.Task[None]] = []
        self._started = 0
        self._redis_changes = asyncio.Lock()

    async def __aenter__(self) -> World:
        self.redis = self._stack.enter_context(EmbeddedRedis(debug=True))
        self._never_fsync()
        for index in range(NODES):
            self.start_node(VERSIONS[index % 2], self._first_env)
        try:
            await wait_until(self._all_ready, READY_SECONDS, what="every node is ready")
        except BaseException:
            self._end()
            raise
        self._attending = asyncio.create_task(self._attend(), name="attend")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_attending()
        await self._stop_thawing()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        for hurt in self.nodes:
            if hurt.alive:
                hurt.node.thaw()
                hurt.node.kill()
            hurt.proxy.close()
        self._stack.close()

    async def _stop_attending(self) -> None:
        if self._attending is not None:
            attending, self._attending = self._attending, None
            attending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attending  # raises what ended it before its time

    async def _stop_thawing(self) -> None:
        for thawing in self._thawing:
            thawing.cancel()
        await asyncio.gather(*self._thawing, return_exceptions=True)

    # -- nodes -------------------------------------------------------------------------------

    def start_node(self, version: str, env: Mapping[str, str] | None = None) -> Hurt:
        """Start one; every third has a clock that jumps, every second sends some scripts twice."""
        proxy = Proxy(self.redis.url).start()
        self._started += 1
        log = self.folder / f"node-{self._started}.log"
        prefix, url = self._place(proxy)
        told = {
            "TEST_TWICE": "0.05" if self._started % 2 else "0",
            "TEST_CLOCK": "jumps" if self._started % 3 == 0 else "",
            "TEST_VERSION": version,
            "TEST_CALLS": str(self.folder / "calls.jsonl"),
            "TEST_EFFECTS": str(self.folder / "effects.jsonl"),
            "COLONY_REDIS_URL": url,
            "COLONY_STATE_DIR": str(self.folder),
            "PYTHONPATH": os.pathsep.join(["", *filter(None, sys.path)]).lstrip(os.pathsep),
        }
        command = [*prefix, sys.executable, "-m", "tests.chaos.node", DEFINITION]
        command += ["--concurrency", str(self._concurrency)]
        node = Node(command, {**os.environ, **told, **self._env, **(env or {})}, None, log)
        hurt = Hurt(node, proxy, version)
        self.nodes.append(hurt)
        self.history.add(
            "node", pid=node.pid, version=version, number=self._started, env=dict(env or {})
        )
        return hurt

    def _place(self, proxy: Proxy) -> tuple[list[str], str]:
        """Where the next node lives: what its command begins with, and where it finds Redis."""
        return [], proxy.url

    def _all_ready(self) -> bool:
        return all(
            " ready." in h.node.log.read_text(errors="replace") or not h.alive for h in self.nodes
        )

    async def _attend(self) -> None:
        """Replace what has ended; keep a node of each version."""
        while True:
            for hurt in [hurt for hurt in self.nodes if not hurt.alive]:
                self._forget(hurt)
            present = Counter(hurt.version for hurt in self.nodes if not hurt.leaving)
            rarest = min(VERSIONS, key=lambda version: present[version])
            if present.total() < NODES or not present[rarest]:
                self.start_node(rarest)
            await asyncio.sleep(ATTEND_EVERY_SECONDS)

    def _forget(self, hurt: Hurt) -> None:
        code = hurt.node.process.poll()
        self.history.add("ended", pid=hurt.node.pid, code=code)
        self.nodes.remove(hurt)
        hurt.proxy.close()

    def _pick(self, whom: float) -> Hurt | None:
        """One of those that nothing is wrong with, or None: one always stays well."""
        well = [hurt for hurt in self.nodes if hurt.alive and not hurt.busy and not hurt.leaving]
        return well[int(whom * len(well))] if len(well) > 1 else None

    # -- faults ------------------------------------------------------------------------------

    def do(self, fault: Fault) -> None:
        """Begin one fault; those that last go on by themselves."""
        task = asyncio.create_task(self._do(fault), name=fault.what)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _do(self, fault: Fault) -> None:
        """Note what it did; None: there was nobody that it could be done to, or it went wrong itself."""
        verb: Callable[[Fault], Awaitable[Any]] = getattr(self, fault.what)
        done, wrong = None, {}
        try:
            done = await verb(fault)
        except (redis_errors.RedisError, OSError) as error:
            wrong = {"error": f"{type(error).__name__}: {error}"}
        about = {"what": fault.what, "scheduled": fault.at, "seconds": fault.seconds}
        self.history.add("fault", **about, done=done, **wrong)

    async def heal(self) -> None:
        """Nothing goes wrong any more: Redis is there, every way is open, every node runs."""
        if self._running:
            await asyncio.gather(*self._running)
        await asyncio.to_thread(self.redis.start)
        for hurt in self.nodes:
            if hurt.alive:
                hurt.node.thaw()
                hurt.proxy.open()
        self.history.add("healed")

    async def leave(self) -> dict[int, int | None]:
        """SIGTERM to all nodes; pid → exit code (None: it did not end, and was killed)."""
        await self._stop_attending()
        await wait_until(self._all_ready, READY_SECONDS, what="every node is ready or has ended")
        for hurt in self.nodes:
            hurt.node.terminate()
        return dict(
            zip(
                [hurt.node.pid for hurt in self.nodes],
                await asyncio.gather(*(asyncio.to_thread(_end_code, h.node) for h in self.nodes)),
                strict=True,
            )
        )

    async def kill(self, fault: Fault) -> Any:
        """SIGKILL; `_attend` starts the next one."""
        if (hurt := self._pick(fault.whom)) is None:
            return None
        hurt.node.kill()
        return hurt.node.pid

    async def crash(self, fault: Fault) -> Any:
        """One more node, that dies (or freezes for a while) at a point of the code."""
        point = f"{self._dice.choice(('before', 'after'))}-{self._dice.choice(POINTS)}"
        action = "stop" if self._dice.random() < 0.2 else "kill"
        armed = f"{point}@{self._dice.randint(1, 6)}:{action}"
        if len(self.nodes) > NODES:
            return None
        hurt = self.start_node(self._dice.choice(VERSIONS), {"COLONY_FAULT": armed})
        if action == "stop":
            self._thawing.append(asyncio.create_task(self._thaw_at_its_point(hurt)))
        return armed

    async def _thaw_at_its_point(self, hurt: Hurt) -> None:
        """Whenever it comes to the point, also after all is healed: it is frozen there for a while."""
        while hurt.alive and (hurt.busy or not _is_stopped(hurt.node.pid)):
            await asyncio.sleep(0.1)
        if hurt.alive:
            begun = time.time()
            await asyncio.sleep(FROZEN_AT_A_POINT_SECONDS)
            self._note_unaware(hurt.node.pid, begun)
            hurt.node.thaw()

    def _note_unaware(self, pid: int, begun: float) -> None:
        """A process that was frozen, or whose lease was taken behind its back, learns of it with a beat."""
        self.unaware[pid].append((begun, time.time() + UNAWARE_SECONDS))

    async def freeze(self, fault: Fault) -> Any:
        """SIGSTOP, and SIGCONT later."""
        if (hurt := self._pick(fault.whom)) is None:
            return None
        hurt.busy, begun = True, time.time()
        hurt.node.freeze()
        await asyncio.sleep(fault.seconds)
        self._note_unaware(hurt.node.pid, begun)
        if hurt.alive:
            hurt.node.thaw()
        hurt.busy = False
        return hurt.node.pid

    async def deploy(self, fault: Fault) -> Any:
        """A node of the other version comes, this one goes."""
        if (hurt := self._pick(fault.whom)) is None:
            return None
        same = [other for other in self.nodes if other.version == hurt.version and other.alive]
        if len(same) > 1 and len(self.nodes) <= NODES:
            self.start_node(VERSIONS[hurt.version == VERSIONS[0]])
        hurt.leaving = True
        hurt.node.terminate()
        return hurt.node.pid

    async def quit(self, fault: Fault) -> Any:
        """Told to end at once: SIGQUIT."""
        if (hurt := self._pick(fault.whom)) is None:
            return None
        hurt.leaving = True
        hurt.node.process.send_signal(signal.SIGQUIT)
        return hurt.node.pid

    async def expire_lease(self, fault: Fault) -> Any:
        """What a server whose clock jumped does: the lease is over, the node does not know it."""
        with self._client() as redis:
            leases = sorted(redis.zrange(Keys(COLONY)("nodes"), 0, -1))
            if not leases:
                return None
            node = leases[int(fault.whom * len(leases))]
            redis.zadd(Keys(COLONY)("nodes"), {node: 1}, xx=True)
            pid = redis.hget(Keys(COLONY)("node", node), "pid")
        self._note_unaware(int(pid or 0), time.time())
        return node

    async def restart_redis(self, fault: Fault) -> bool:
        """End it in order, start it again."""
        return await self._redis_away(self._shutdown_redis, fault)

    async def kill_redis(self, fault: Fault) -> bool:
        """SIGKILL, start it again."""
        return await self._redis_away(self.redis.kill, fault)

    async def _redis_away(self, end: Callable[[], None], fault: Fault) -> bool:
        async with self._redis_changes:
            await asyncio.to_thread(end)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(self._start_redis)
        return True

    def _shutdown_redis(self) -> None:
        os.kill(self.redis.pid, signal.SIGTERM)
        while self.redis.running:
            time.sleep(0.01)

    def _start_redis(self) -> None:
        self.redis.start()
        self._never_fsync()

    def _never_fsync(self) -> None:
        """Written is written: the machine does not die here, and a fsync under way delays no write."""
        with self._client() as redis:
            redis.config_set("appendfsync", "no")

    async def kill_clients(self, _: Fault) -> Any:
        """Every connection, also the producer's."""
        with self._client() as redis:
            kinds = ("normal", "pubsub")
            return [redis.client_kill_filter(_type=kind, skipme=True) for kind in kinds]

    async def stall_redis(self, fault: Fault) -> bool:
        """The server answers nobody for a while."""
        with self._client() as redis:
            await asyncio.to_thread(redis.execute_command, "DEBUG", "SLEEP", f"{fault.seconds:.2f}")
        return True

    async def flush_scripts(self, _: Fault) -> bool:
        """The server forgets the scripts."""
        with self._client() as redis:
            redis.script_flush()
        return True

    async def lose_doorbells(self, _: Fault) -> Any:
        """The queue is empty at once."""
        with self._client() as redis:
            return redis.delete(f"colony.{COLONY}")

    async def double_doorbells(self, _: Fault) -> Any:
        """What waits in the queue comes twice."""
        with self._client() as redis:
            messages = redis.lrange(f"colony.{COLONY}", 0, -1)
            if messages:
                redis.lpush(f"colony.{COLONY}", *messages)
            return len(messages)

    async def delay(self, fault: Fault) -> Any:
        """A slow way."""
        return await self._proxied(fault, lambda p: p.delay(20 + 130 * fault.whom))

    async def black_hole(self, fault: Fault) -> Any:
        """A partition: nothing comes through, and nobody says so."""
        return await self._proxied(fault, Proxy.black_hole)

    async def mute(self, fault: Fault) -> Any:
        """Half a partition: what is asked is done, and nobody hears of it."""
        return await self._proxied(fault, Proxy.mute)

    async def refuse(self, fault: Fault) -> Any:
        """Nobody listens there."""
        return await self._proxied(fault, Proxy.refuse)

    async def cut(self, fault: Fault) -> Any:
        """Reset all its connections, once."""
        return await self._proxied(fault, Proxy.cut)

    async def _proxied(self, fault: Fault, verb: Callable[[Proxy], None]) -> Any:
        if (hurt := self._pick(fault.whom)) is None:
            return None
        hurt.busy = fault.seconds > 0
        verb(hurt.proxy)
        if hurt.busy:
            await asyncio.sleep(fault.seconds)
            if hurt.alive and hurt in self.nodes:
                hurt.proxy.open()
            hurt.busy = False
        return hurt.node.pid

    async def kill_worker_node(self, _: Fault) -> bool:
        """The producer spawns a worker that kills whoever runs it."""
        self.wanted_killers += 1
        return True

    async def stop(self, _: Fault) -> bool:
        """The producer stops a worker."""
        self.wanted_stops += 1
        return True

    def _client(self) -> Redis:
        return Redis.from_url(
            self.redis.url, decode_responses=True, socket_timeout=5, socket_connect_timeout=1
        )


def _end_code(node: Node) -> int | None:
    try:
        return node.wait(30)
    except subprocess.TimeoutExpired:
        node.process.send_signal(signal.SIGUSR1)  # its stacks, in its log
        time.sleep(0.5)
        node.kill()
        return None


assert set(SCRIPTS) >= {point for point in POINTS if point != "ring"}


def _is_stopped(pid: int) -> bool:
    """Whether a process stands still by a signal."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2].startswith("T")
