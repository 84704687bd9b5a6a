"""The scripts: one Lua file per transition, each with a KEYS / ARGV / Returns head.

``KEYS[1]`` is the colony's key prefix; the key names and the helpers of ``_prelude.lua`` are put in
front of every script, so a script reads as the transition it is. A line ``-- uses _name`` puts the helpers of
``_name.lua`` in front, too.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from colony.store.keys import lua_table

SCHEMA = 1
"""Version of the records and scripts. A store written by a newer Colony is refused."""


USES = re.compile(r"^-- uses (_\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text, and the SHA-1 that Redis knows it by."""

    name: str
    text: str
    sha: str


def _load() -> dict[str, Script]:
    folder = resources.files("colony.store") / "lua"
    prelude = lua_table() + (folder / "_prelude.lua").read_text("utf-8")
    scripts = {}
    for file in folder.iterdir():
        name = file.name.removesuffix(".lua")
        if file.name.endswith(".lua") and not name.startswith("_"):
            own = file.read_text("utf-8")
            used = [(folder / f"{name}.lua").read_text("utf-8") for name in USES.findall(own)]
            text = prelude + "".join(used) + own
            scripts[name] = Script(name, text, hashlib.sha1(text.encode()).hexdigest())
    return scripts


SCRIPTS = _load()
