"""The witness: what each transition of a worker found and left, noted in Redis by the transition itself.

Wraps the scripts of a node, so that each call leaves a line in one list, in the order in which Redis ran
them, beside and independent of the fence that the scripts have themselves. A line is a JSON list, see
`Line`. Only calls that changed something or were refused a change are of interest; all are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

from colony.store.keys import lua_table
from colony.store.scripts import SCRIPTS, Script

TRACE = "chaos:trace"
"""The list, outside of the colony's keys."""

TOKEN_AT = {"claim": 3, "checkpoint": 2, "settle": 2, "park": 2, "give_back": 2, "join": 0}
"""The witnessed scripts, and which argument is the claim's token (0: it has none)."""

WRAPPED = """
local function body()
{body}
end
local function found()
  local f = redis.call('HMGET', K.worker(ARGV[1]), 'state', 'token', 'epoch', 'status', 'stop_status')
  local length = redis.call('LLEN', K.parts(ARGV[1]))
  return {{f[1] or '', f[2] or '', tonumber(f[3] or '0'), f[4] or '', f[5] or '', length}}
end
local before = found()
local reply = body()
local verdict = type(reply) == 'table' and reply[1] or reply
if type(verdict) ~= 'string' then verdict = '' end
local arguments = {{}}
for i = 2, math.min(#ARGV, 4) do arguments[i - 1] = ARGV[i] end
local line = {{now, '{name}', ARGV[1], {token}, before, found(), verdict, arguments}}
redis.call('RPUSH', '{trace}', cjson.encode(line))
return reply
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A worker at one moment; `token` of the claim that is valid, "" for none."""

    state: str
    token: str
    epoch: int
    status: str
    told: str
    length: int


@dataclass(frozen=True, slots=True)
class Line:
    """One call of a script: when (ms, Redis' clock), which, of what (a worker, or a batch), with which
    token, what it found and left, its verdict, its next arguments (second to fourth)."""

    at: int
    script: str
    of: str
    token: str
    before: Found
    after: Found
    verdict: str
    arguments: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether the call changed the worker."""
        return self.before != self.after

    @classmethod
    def read(cls, text: str) -> Line:
        """A line as it is in the list."""
        at, script, of, token, before, after, verdict, arguments = json.loads(text)
        found = [Found(*values) for values in (before, after)]
        return cls(int(at), script, of, token, found[0], found[1], verdict, tuple(arguments))


def install(change: Callable[[str, str], str] = lambda _, text: text) -> None:
    """Wrap the scripts of this process; `change` gets each script's name and text first."""
    for name in SCRIPTS:
        prelude, body = _parts(name)
        prelude, body = change("_prelude:" + name, prelude), change(name, body)
        if name in TOKEN_AT:
            at = TOKEN_AT[name]
            token = f"ARGV[{at}]" if at else "''"
            body = WRAPPED.format(body=body, trace=TRACE, name=name, token=token)
        text = prelude + body
        SCRIPTS[name] = Script(name, text, hashlib.sha1(text.encode()).hexdigest())


def _parts(name: str) -> tuple[str, str]:
    folder = resources.files("colony.store") / "lua"
    prelude = lua_table() + (folder / "_prelude.lua").read_text("utf-8")
    return prelude, SCRIPTS[name].text.removeprefix(prelude)
