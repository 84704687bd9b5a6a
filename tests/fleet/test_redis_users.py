"""The users of deploy/redis/users.acl may do nothing else than their work. That they can do all of it is
shown by the journeys of test_secrets and test_tls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

import colony
from colony import ColonyRuntime
from colony.errors import StoreDenied, StoreUnavailable
from colony.settings import Settings
from colony.store.keys import OF_ONE, PLAIN
from colony.testing import Fleet
from tests.secure_redis import USERS, SecureRedis, secure_redis

pytestmark = [pytest.mark.fleet]

STORE = "colony:{shop}:"
ROLES = ("node", "producer", "intake", "gateway", "beat", "flower", "operator")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureRedis]:
    """A Redis with these users."""
    with secure_redis(tmp_path_factory.mktemp("users"), users=True) as made:
        yield made


ADMIN_ALONE = [
    ["CONFIG", "GET", "*"],
    ["CONFIG", "SET", "maxmemory", "1"],
    ["FLUSHALL"],
    ["FLUSHDB"],
    ["DEBUG", "SLEEP", "0"],
    ["KEYS", "*"],
    ["SCAN", "0"],
    ["RANDOMKEY"],
    ["ACL", "LIST"],
    ["ACL", "SETUSER", "producer", "+@all"],
    ["CLIENT", "LIST"],
    ["CLIENT", "KILL", "TYPE", "normal"],
    ["SHUTDOWN", "NOSAVE"],
    ["MONITOR"],
    ["REPLICAOF", "127.0.0.1", "1"],
    ["MODULE", "LIST"],
    ["SCRIPT", "FLUSH"],
    ["MIGRATE", "127.0.0.1", "1", "k", "0", "1"],
    ["SAVE"],
    ["SLOWLOG", "GET"],
    ["SWAPDB", "0", "1"],
]


@pytest.mark.parametrize("role", ROLES)
def test_nobody_but_the_admin(server: SecureRedis, role: str) -> None:
    """What can read, empty or reconfigure the whole server. 7.0 says first that DEBUG is nobody's."""
    for command in ADMIN_ALONE:
        with Redis.from_url(server.url(role)) as redis, pytest.raises(ResponseError) as caught:
            print(command, redis.execute_command(*command))
        if "DEBUG command not allowed" not in str(caught.value):
            assert isinstance(caught.value, NoPermissionError), (command, caught.value)


READ_TOKENS = ["HGETALL", f"{STORE}tokens"]
MAKE_TOKEN = ["HSET", f"{STORE}tokens", "t", "{}"]
READ_CONVERSATION = ["LRANGE", f"{STORE}parts:w1", "0", "-1"]
FORGE_REPORT = ["HSET", f"{STORE}worker:w1", "report", "{}"]
READ_WORKER = ["HGETALL", f"{STORE}worker:w1"]
LISTEN = ["SUBSCRIBE", f"{STORE}live"]
TELL = ["PUBLISH", f"{STORE}hints", "stop w1"]
SEND_TASK = ["LPUSH", "colony.shop", "{}"]
SEND_TO_INTAKE = ["LPUSH", "colony.shop.intake", "{}"]
READ_REJECTED = ["LRANGE", f"{STORE}rejected", "0", "-1"]
SUBSCRIBE_A_URL = ["HSET", f"{STORE}subscription:s", "spec", "{}"]
ROUTE = ["HSET", f"{STORE}routes", "/in", "t"]
CONTROL = ["PUBLISH", "/0.celery.pidbox", "{}"]
OTHERS_KEY = ["SET", "somebody:else", "1"]
SOMEBODYS_SCRIPT = ["EVAL", "return redis.call('GET', 'somebody:else')", "0"]

MAY_NOT = {
    "node": [READ_TOKENS, MAKE_TOKEN, OTHERS_KEY],
    "producer": [
        *(
            READ_TOKENS,
            MAKE_TOKEN,
            READ_CONVERSATION,
            READ_REJECTED,
            SUBSCRIBE_A_URL,
            ROUTE,
            CONTROL,
        ),
    ],
    "intake": [
        *(READ_TOKENS, MAKE_TOKEN, READ_CONVERSATION, FORGE_REPORT, READ_WORKER, LISTEN, TELL),
        *(
            SEND_TASK,
            CONTROL,
            ["LRANGE", "colony.shop.intake", "0", "-1"],
            ["KEYS", "celery-task-meta-*"],
        ),
        ["DEL", "colony.shop.intake"],
        ["SET", "celery-task-meta-x", "forged"],
    ],
    "gateway": [READ_REJECTED, SUBSCRIBE_A_URL, CONTROL],
    "beat": [READ_TOKENS, READ_CONVERSATION, FORGE_REPORT, READ_WORKER, LISTEN, TELL, CONTROL],
    "flower": [
        *(READ_TOKENS, MAKE_TOKEN, READ_CONVERSATION, FORGE_REPORT, READ_WORKER, LISTEN, TELL),
        *(SEND_TASK, SEND_TO_INTAKE, ["DEL", "colony.shop"]),
    ],
    "operator": [CONTROL],
}


def test_a_node_may_touch_every_key_of_the_store(server: SecureRedis) -> None:
    """All that are on the map, but those for API tokens: a key that is new needs a rule, too."""
    tokens = ("tokens", "permits")
    names = [name for name in PLAIN if name not in tokens]
    names += [f"{name}:x" for name in OF_ONE if name not in tokens]
    with Redis.from_url(server.url("node")) as redis:
        for name in names:
            redis.exists(STORE + name)


def commands_of_the_store() -> set[str]:
    """All that its scripts and its functions send, in lower case."""
    store = Path(colony.__file__).parent / "store"
    sent = re.compile(r"""call\(\s*["']([A-Za-z]+)["']""")
    files = [*store.glob("lua/*.lua"), *store.glob("*.py")]
    return {name.lower() for file in files for name in sent.findall(file.read_text())}


@pytest.mark.parametrize("role", ["producer", "gateway", "operator"])
def test_a_role_may_send_every_command_of_the_store(role: str) -> None:
    """One that is new needs a rule, too."""
    sent = commands_of_the_store()
    assert len(sent) > 40
    [rules] = re.findall(rf"^user {role} (.*)", USERS.read_text(), re.MULTILINE)
    assert sent - {rule.removeprefix("+") for rule in rules.split()} == set()


@pytest.mark.parametrize("role", ROLES)
def test_what_a_role_may_not(server: SecureRedis, role: str) -> None:
    """Directly, and inside of a script that it sends itself."""
    with Redis.from_url(server.url("admin")) as admin:
        admin.set("somebody:else", "secret")
    with Redis.from_url(server.url(role)) as redis:
        for command in [*MAY_NOT[role], OTHERS_KEY, SOMEBODYS_SCRIPT]:
            with pytest.raises(ResponseError, match=r"(?i)permission|can't") as caught:
                print(command, redis.execute_command(*command))
            assert "somebody's secret" not in str(caught.value)
        if role in ("node", "producer", "gateway", "operator", "beat", "flower"):
            for command in MAY_NOT[role]:
                if command[0] in ("SUBSCRIBE", "KEYS"):
                    continue
                with pytest.raises(ResponseError, match=r"(?i)permission|can't"):
                    print(command, redis.eval("return redis.call(unpack(ARGV))", 0, *command))


def test_the_tests_above_would_see_it(server: SecureRedis) -> None:
    """The same commands, given by those who may."""
    may: Sequence[tuple[str, list[str]]] = [
        ("gateway", READ_TOKENS),
        ("operator", MAKE_TOKEN),
        ("operator", READ_CONVERSATION),
        ("producer", READ_WORKER),
        ("producer", SEND_TASK),
        ("intake", SEND_TO_INTAKE),
        ("flower", CONTROL),
        ("operator", SUBSCRIBE_A_URL),
        ("admin", ["CONFIG", "GET", "maxmemory"]),
    ]
    for role, command in may:
        with Redis.from_url(server.url(role)) as redis:
            redis.execute_command(*command)


APART = {
    "colony:{*}:": "colony:{NAME}:",
    "~colony.* ": "~colony.NAME ~colony.NAME[^-A-Za-z0-9_]* ",
    "colony.*.": "colony.NAME.",
}
"""What users.acl says to write instead, where colonies are to be kept apart."""


async def test_colonies_are_kept_apart(tmp_path: Path) -> None:
    """By the rules as users.acl says to change them: all works, and another colony's keys are not touched."""
    said = USERS.read_text()
    with secure_redis(tmp_path, users=True) as server, Redis.from_url(server.url("admin")) as admin:
        for role in ("node", "producer"):
            [rules] = re.findall(rf"^user {role} (.*)", said, re.MULTILINE)
            for general, own in APART.items():
                assert own.strip() in said
                rules = rules.replace(general, own.replace("NAME", "basic"))
            admin.execute_command("ACL", "SETUSER", role, *rules.split())
        url = server.url("producer")
        async with Fleet("tests.definitions:basic", nodes=0, redis_url=url) as fleet:
            await fleet.add_nodes(redis_url=server.url("node"))
            batch = await fleet.runtime.spawn_batch(["echo", "echo"])
            assert await fleet.runtime.wait_for_batch(batch.id, timeout=20)
        # Text or bytes, as the version of Redis has it.
        told = [(str(e["username"]), str(e["object"])) for e in admin.acl_log(100)]
        assert [(user, what) for user, what in told if "client" not in what] == []
        for key in ("colony:{basic2}:meta", "colony.basic2", "colony.basic-2.intake"):
            with Redis.from_url(server.url("node")) as node, pytest.raises(NoPermissionError):
                node.delete(key)


async def test_a_denial_names_user_and_command(server: SecureRedis) -> None:
    """So that an operator knows which line of the ACL to mend; the password is not told."""

    async def refused(role: str, words: str, verb: str, *arguments: object) -> None:
        settings = Settings(redis_url=server.url(role))
        with pytest.raises(StoreUnavailable, match=words) as caught:
            async with ColonyRuntime("shop", settings=settings) as runtime:
                await getattr(runtime, verb)(*arguments)
        assert isinstance(caught.value, StoreDenied), caught.value
        assert "planted" not in str(caught.value)
        assert "users.acl" in str(caught.value)

    await refused(
        "producer", "user 'producer' .*'lrange' on one of its keys", "get_conversation", "w1"
    )
    await refused("producer", "user 'producer' .*'hgetall' on one of", "list_tokens")
    await refused("flower", "user 'flower' the command 'info'", "get_stats")
    await refused("intake", "user 'intake' the command '(info|hget)'", "spawn", "fetch")


def test_without_a_password_there_is_no_user(server: SecureRedis) -> None:
    """Neither the default one, nor one of the roles."""
    with (
        Redis.from_url(server.url()) as nobody,
        pytest.raises(AuthenticationError),
    ):
        nobody.ping()
    url = server.url("node").replace(server.passwords["node"], "wrong")
    with Redis.from_url(url) as wrong, pytest.raises(AuthenticationError):
        wrong.ping()
