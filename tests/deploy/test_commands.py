"""The very commands of image, compose and units, as processes: they come up, do their work, and end in time.

One Redis, started by deploy/redis/start.sh with the users of deploy/redis/users.acl and the passwords of
deploy/secrets.sh; each role has its own. Where this machine permits it (root, mount namespaces), what
runs in a container has a read-only root and no capabilities here, too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from flower.urls import handlers
from flower.views.error import NotFoundErrorHandler
from flower.views.tasks import TasksDataTable
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from colony import ColonyRuntime, ReportStatus
from colony.redis_server import newest_server
from colony.settings import Settings
from colony.testing import wait_until
from tests.deploy.kit import (
    BIN,
    DEPLOY,
    UNITS,
    compose,
    environment_of,
    image,
    sealed,
    seconds,
    services,
    unit,
    why_not_sealed,
)
from tests.fleet.flower_kit import Flower
from tests.fleet.test_health import free_port

pytestmark = [pytest.mark.fleet, pytest.mark.asyncio]

START_SECONDS = 40.0
SURVEYED = "pyproject.toml"


@dataclass
class Secured:
    """A Redis that was started as compose starts it, and everybody's secrets."""

    port: int
    folder: Path
    secrets: Path

    def url(self, user: str) -> str:
        """For a role."""
        return (self.secrets / f"{user}_redis_url").read_text().strip()

    def admin(self) -> Redis:
        """A client that may look at everything."""
        return Redis.from_url(self.url("admin"))


@dataclass
class Running:
    """One process of what is deployed, and how it is told to end."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    told_by: signal.Signals
    within: float
    health: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def tail(self) -> str:
        """What it said."""
        return self.log.read_text(errors="replace")[-4000:]

    def is_healthy(self) -> bool:
        """Ask with its declared health check."""
        assert self.process.poll() is None, f"{self.name} ended:\n{self.tail()}"
        asked = subprocess.run(
            self.health, env=self.environment, capture_output=True, timeout=10, check=False
        )
        return asked.returncode == 0

    def end(self) -> int:
        """Its exit code, after the declared signal and within the declared time."""
        self.process.send_signal(self.told_by)
        try:
            return self.process.wait(self.within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(
                f"{self.name} did not end within {self.within} s:\n{self.tail()}"
            ) from None


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """start.sh, given the folders that compose mounts by other names."""
    folder = tmp_path_factory.mktemp("deployed")
    port = free_port()
    made = Secured(port, folder, folder / "secrets")
    environment = environment_of({}, OUT=str(made.secrets))
    command = ["sh", str(DEPLOY / "secrets.sh"), f"127.0.0.1:{port}"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    programs = folder / "bin"
    programs.mkdir()
    (programs / "redis-server").symlink_to(newest_server().path)
    shell, script = services()["redis"]["entrypoint"]
    (folder / "data").mkdir()
    conf = (DEPLOY / "redis" / "redis.conf").read_text()
    conf = conf.replace("port 6379", f"port {port}").replace("bind * -::*", "bind 127.0.0.1")
    (folder / "redis.conf").write_text(conf.replace("dir /data", f"dir {folder / 'data'}"))
    with ExitStack() as stack:
        log = stack.enter_context((folder / "redis.log").open("wb"))
        server = subprocess.Popen(
            [shell, script.replace("/etc/colony", str(DEPLOY / "redis"))],
            env={
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "SECRETS": str(made.secrets),
                "RULES": str(DEPLOY / "redis" / "users.acl"),
                "CONF": str(folder / "redis.conf"),
                "MADE": str(folder / "users.acl"),
            },
            stdout=log,
            stderr=log,
        )
        stack.callback(server.wait)
        stack.callback(server.terminate)
        health = services()["redis"]["healthcheck"]["test"][1].replace("$$", "$")
        health = health.replace("/run/secrets", str(made.secrets))
        health = health.replace("redis-cli", f"redis-cli -p {port}")
        path = f"{newest_server().path.parent}{os.pathsep}{os.environ['PATH']}"

        def is_healthy() -> bool:
            assert server.poll() is None, (folder / "redis.log").read_text()
            asked = subprocess.run(["sh", "-c", health], env={"PATH": path}, check=False)
            return asked.returncode == 0

        asyncio.run(wait_until(is_healthy, START_SECONDS, what="Redis is healthy"))
        yield made


async def test_redis_keeps_the_passwords_to_itself(redis: Secured) -> None:
    """Only hashes, in a file of its own; nobody comes in without one."""
    rules = redis.folder / "users.acl"
    assert stat.S_IMODE(rules.stat().st_mode) == 0o600
    passwords = [path.read_text().strip() for path in redis.secrets.glob("redis_*_password")]
    assert passwords
    for password in passwords:
        assert password not in rules.read_text()
    with (
        Redis(port=redis.port, retry=Retry(NoBackoff(), 0)) as nobody,
        pytest.raises(RedisError, match=r"NOAUTH|HELLO must be called"),
    ):
        nobody.ping()
    with redis.admin() as admin:
        assert admin.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert admin.config_get("appendonly") == {"appendonly": "yes"}


def put_secrets(redis: Secured, folder: Path, service: Mapping[str, Any]) -> None:
    """The files that compose mounts at /run/secrets."""
    folder.mkdir()
    for secret in service["secrets"]:
        named = {"source": secret, "target": secret} if isinstance(secret, str) else secret
        source = Path(compose()["secrets"][named["source"]]["file"]).name
        (folder / named["target"]).write_text((redis.secrets / source).read_text())


PORTS = {"worker": 8001, "beat-1": 8001, "gateway": 8080, "flower": 5555}


def start_service(redis: Secured, folder: Path, name: str) -> Running:
    """A service of compose as a process: its command in the image's environment, sealed where permitted."""
    service, folder = services()[name], folder / name
    folder.mkdir()
    put_secrets(redis, folder / "secrets", service)
    (folder / "tmp").mkdir()
    (folder / "data").mkdir()
    port, declared = free_port(), PORTS.get(name, 0)

    def here(value: object) -> str:
        text = (
            str(value)
            .replace("/run/secrets", str(folder / "secrets"))
            .replace("0.0.0.0", "127.0.0.1")
        )
        text = re.sub(r"^/data\b", f"{folder}/tmp", text)
        return re.sub(rf"\b{declared}\b", str(port), text) if declared else text

    of_image = dict(re.findall(r"(\w+)=(\S+)", image("ENV")))
    declarations = of_image | (service.get("environment") or {})
    declarations = {n: here(v) for n, v in declarations.items() if n not in ("PATH", "HOME")}
    tmp = str(folder / "tmp")
    environment = environment_of(declarations, HOME=tmp, TMPDIR=tmp)
    command = [*json.loads(image("ENTRYPOINT")), *service["command"]]
    if why_not_sealed() is None:
        command = sealed(command, folder / "tmp")
    health = service["healthcheck"].get("test") or json.loads(
        image("HEALTHCHECK").split("CMD", 1)[1]
    )
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, cwd=Path.cwd(), stdout=out, stderr=out, start_new_session=True
        )
    return Running(
        name,
        process,
        log,
        signal.Signals[service["stop_signal"]],
        seconds(service["stop_grace_period"]),
        [here(word) for word in health if word != "CMD"],
        environment,
    )


@dataclass
class Systemd:
    """The receiving end of NOTIFY_SOCKET."""

    address: Path

    def __post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self.address))
        self._said = ""

    def said(self) -> str:
        """All of it so far."""
        try:
            while True:
                self._said += self._socket.recv(4096).decode() + "\n"
        except BlockingIOError:
            return self._said

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def start_unit(redis: Secured, folder: Path, name: str, notify: Path, **ours: str) -> Running:
    """A unit as a process: ExecStart with its environment and credentials."""
    declared, folder = unit(name), folder / name
    folder.mkdir()
    credentials = folder / "credentials"
    credentials.mkdir()
    for loaded in declared["LoadCredential"]:
        target, _, source = loaded.partition(":")
        (credentials / target).write_text((redis.secrets / Path(source).name).read_text())
    example = (UNITS / "colony.env.example").read_text()
    lines = [line for line in example.splitlines() if line and not line.startswith("#")]
    variables = dict(line.split("=", 1) for line in lines)
    for line in declared.get("Environment", []):
        named, _, value = line.partition("=")
        value = value.replace("%d", str(credentials))
        for kept in declared.get("StateDirectory", []):
            value = value.replace(f"%S/{kept}", str(folder))
        variables[named] = value.replace("%i", "1")
    variables |= {"CREDENTIALS_DIRECTORY": str(credentials), **ours}
    if declared["Type"] == ["notify"]:
        watchdog = int(1e6 * seconds(declared["WatchdogSec"][0]))
        variables |= {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": str(watchdog)}
    start = declared["ExecStart"][0].replace("/opt/colony/bin", str(BIN))
    command = [
        re.sub(r"\$\{(\w+)\}", lambda v: variables[v[1]], word) for word in shlex.split(start)
    ]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment_of(variables), stdout=out, stderr=out, start_new_session=True
        )
    return Running(
        name,
        process,
        log,
        signal.Signals[declared["KillSignal"][0]],
        seconds(declared["TimeoutStopSec"][0]),
    )


@pytest_asyncio.fixture
async def started() -> Any:
    """What a test has started; it is killed if the test did not end it."""
    running: list[Running] = []
    yield running
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


async def survey(redis: Secured) -> None:
    """A producer, with its own user, has one worker do its work."""
    settings = Settings(redis_url=redis.url("producer"))
    async with ColonyRuntime("survey", settings=settings) as runtime:
        [one] = await runtime.spawn("Survey", data={"root": str(Path.cwd()), "path": SURVEYED})
        report = await runtime.wait_for_worker(one, timeout=20)
        assert report is not None
        assert report.status is ReportStatus.SUCCESS, report


def beat_leads(redis: Secured) -> bool:
    """A beat holds RedBeat's lock."""
    with redis.admin() as admin:
        return bool(admin.exists("colony.survey.beat::lock"))


def forget_beat(redis: Secured) -> None:
    """That one led."""
    with redis.admin() as admin:
        admin.delete("colony.survey.beat::lock")


async def end_all(running: Sequence[Running]) -> None:
    """Each by its declared signal, in its declared time, in order."""
    codes = await asyncio.gather(*(asyncio.to_thread(one.end) for one in running))
    said = "\n".join(one.tail() for one, code in zip(running, codes, strict=True) if code)
    names = [one.name for one in running]
    assert dict(zip(names, codes, strict=True)) == dict.fromkeys(names, 0), said
    for one in running:
        assert "Read-only file system" not in one.tail()
        assert "cannot leave word" not in one.tail()
        assert "cannot read what nodes" not in one.tail()


async def test_the_services_of_compose(
    redis: Secured, tmp_path: Path, started: list[Running]
) -> None:
    """Each becomes healthy by its own check, with its own user of Redis; work is done; each ends in time."""
    if why := why_not_sealed():
        print(f"without a read-only root: {why}")
    names = ("worker", "beat-1", "gateway", "flower")
    started += [start_service(redis, tmp_path, name) for name in names]
    for one in started:
        await wait_until(
            lambda one=one: asyncio.to_thread(one.is_healthy),  # type: ignore[misc]
            START_SECONDS,
            what=f"{one.name} is healthy",
        )
    await survey(redis)
    await wait_until(lambda: beat_leads(redis), START_SECONDS, what="a beat leads")
    await end_all(started)
    forget_beat(redis)


async def test_what_is_sealed_can_write_nothing_but_its_tmp(tmp_path: Path) -> None:
    """So the test above says something."""
    if why := why_not_sealed():
        pytest.skip(why)
    (tmp_path / "tmp").mkdir()
    for place, code in (("tmp/file", 0), ("file", 1)):
        tried = subprocess.run(
            sealed(["touch", str(tmp_path / place)], tmp_path / "tmp"),
            capture_output=True,
            check=False,
        )
        assert tried.returncode == code, tried.stderr


async def test_the_image_runs_a_node_by_default() -> None:
    """What compose runs is what the image does without being told."""
    assert json.loads(image("CMD")) == services()["worker"]["command"]


async def test_the_units_of_systemd(redis: Secured, tmp_path: Path, started: list[Running]) -> None:
    """Each says READY=1, gives signs of life, answers probes, and ends by its signal, in time."""
    health, ticks, gateway, flower = (str(free_port()) for _ in range(4))
    ports = {
        "colony-worker@": {"COLONY_HEALTH_HOST": "127.0.0.1", "COLONY_HEALTH_PORT": health},
        "colony-beat@": {"COLONY_HEALTH_HOST": "127.0.0.1", "COLONY_HEALTH_PORT": ticks},
        "colony-gateway": {"COLONY_GATEWAY_PORT": gateway},
        "colony-flower": {"COLONY_FLOWER_PORT": flower},
    }
    heard = {name: Systemd(tmp_path / f"{name}notify") for name in ports}
    started += [
        start_unit(redis, tmp_path, f"{name}.service", heard[name].address, **ours)
        for name, ours in ports.items()
    ]

    def said(word: str, of: int, systemd: Systemd) -> bool:
        assert started[of].process.poll() is None, started[of].tail()
        return word in systemd.said()

    for of, (name, systemd) in enumerate(heard.items()):
        for word in ("READY=1", "WATCHDOG=1"):
            await wait_until(
                partial(said, word, of, systemd), START_SECONDS, what=f"{word} of {name}"
            )
    for one, port, path in (
        (started[0], health, "readyz"),
        (started[0], health, "metrics"),
        (started[1], ticks, "readyz"),
        (started[2], gateway, "readyz"),
        (started[3], flower, "healthcheck"),
    ):
        one.health = [sys.executable, "-S", "-c"]
        one.health += [f"import urllib.request as r; r.urlopen('http://127.0.0.1:{port}/{path}')"]
        await wait_until(
            lambda one=one: asyncio.to_thread(one.is_healthy),  # type: ignore[misc]
            START_SECONDS,
            what=f"{one.name} answers",
        )
    await survey(redis)
    await wait_until(lambda: beat_leads(redis), START_SECONDS, what="a beat leads")
    await end_all(started)
    for name, systemd in heard.items():
        assert ("STOPPING=1" in systemd.said()) == (name != "colony-flower")
        systemd.close()


def changing_routes() -> list[str]:
    """All of Flower's that are asked by POST, but the table of tasks, which is read in this way."""
    pairs = [
        rule[:2] if isinstance(rule, tuple) else (rule.regex.pattern, rule.target)
        for rule in handlers
    ]
    paths = [
        pattern.replace("(.+)", "some").rstrip("$")
        for pattern, target in pairs
        if "post" in vars(target) and target not in (TasksDataTable, NotFoundErrorHandler)
    ]
    assert len(paths) >= 14
    return paths


async def test_flower_by_the_command_of_celery(
    redis: Secured, tmp_path: Path, started: list[Running]
) -> None:
    """With deploy/flower/flowerconfig.py and Flower's user: nobody comes in without credentials; as a
    read-only one it lets nobody stop anything."""
    port = str(free_port())
    login = redis.secrets / "flower_basic_auth"
    environment = environment_of(
        {
            "COLONY_NAME": "survey",
            "COLONY_REDIS_URL": redis.url("flower"),
            "COLONY_FLOWER_PORT": port,
            "COLONY_FLOWER_BASIC_AUTH_FILE": login,
            "COLONY_FLOWER_READ_ONLY": "true",
        }
    )
    config = str(DEPLOY / "flower" / "flowerconfig.py")
    command = [str(BIN / "celery"), "-A", "colony.flower.app", "flower", f"--conf={config}"]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True
        )
    flower = Running("flower", process, log, signal.SIGTERM, 15)
    started.append(flower)
    shown = Flower(f"http://127.0.0.1:{port}", log)

    def answers() -> bool:
        assert process.poll() is None, flower.tail()
        return shown.ask("/healthcheck").status == 200

    await wait_until(answers, START_SECONDS, what="Flower answers")
    with_login = login.read_text().strip()
    for path in ("/tasks", "/api/tasks"):
        assert shown.ask(path, credentials="").status == 401
        assert shown.ask(path, credentials="operator:wrong").status == 401
        assert shown.ask(path, credentials=with_login).status == 200
    assert "Colony" in shown.ask("/tasks", credentials=with_login).text
    for path in changing_routes():
        asked = f"{path}?terminate=true"
        assert shown.ask(asked, b"", credentials=with_login).status == 403, path
    await end_all([flower])
