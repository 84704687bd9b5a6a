"""Reads what deploy/ declares, and runs it as processes of this machine: no container engine is needed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = DEPLOY / "systemd"
BIN = Path(sys.executable).parent
INTERPOLATED = re.compile(r"\$\{(\w+):-([^}]*)\}")


def documents(path: Path) -> list[dict[str, Any]]:
    """All documents of a YAML file."""
    return [document for document in YAML(typ="safe", pure=True).load_all(path) if document]


@cache
def compose() -> dict[str, Any]:
    """docker-compose.yml, with the defaults of its variables."""
    text = (ROOT / "docker-compose.yml").read_text()
    filled = INTERPOLATED.sub(lambda found: found[2], text)
    return dict(YAML(typ="safe", pure=True).load(filled))


@cache
def services() -> dict[str, dict[str, Any]]:
    """The services of docker-compose.yml."""
    return dict(compose()["services"])


@cache
def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile and their values, in order."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [
        (name, value.strip()) for name, _, value in (line.partition(" ") for line in joined) if name
    ]


def image(instruction: str) -> str:
    """The last value of an instruction: what the image has."""
    return [value for name, value in dockerfile() if name == instruction][-1]


def unit(name: str) -> dict[str, list[str]]:
    """All values of each key of a unit, whatever their section."""
    values: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            values.setdefault(key, []).append(value)
    return values


def seconds(duration: str) -> float:
    """Of "35s" or "35"."""
    return float(duration.removesuffix("s"))


def tool(name: str) -> str | None:
    """A program of this environment, or of the machine."""
    beside = BIN / name
    return str(beside) if beside.exists() else shutil.which(name)


def checker(name: str, install: str) -> str:
    """A program that checks something; where there is none the test is skipped, but not in CI, where
    nobody would see it."""
    program = tool(name)
    why = f"{name} is not installed ({install})"
    if program is None and not os.environ.get("CI"):
        pytest.skip(why)
    assert program is not None, why
    return program


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a check; both of its streams are in `stdout`."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


@cache
def why_not_sealed() -> str | None:
    """Why this machine cannot give a process a read-only root; None when it can."""
    if os.geteuid() != 0:
        return "only root may remount the root file system, in a namespace of its own"
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "unshare and setpriv are not installed (util-linux)"
    tried = run(*sealed(["true"], Path("/tmp")))
    return (
        f"a mount namespace is not permitted: {tried.stdout.strip()}" if tried.returncode else None
    )


def sealed(command: Sequence[str], writable: Path) -> list[str]:
    """The command as a container of ours runs it: a root file system that is read-only but for `writable`
    (a tmpfs), no capabilities, no new privileges. It takes the place of the shell: signals reach it."""
    script = (
        "set -e; mount --make-rprivate /; mount -t tmpfs -o size=64m tmpfs {tmp}; "
        "mount -o remount,ro,bind /; "
        "exec setpriv --no-new-privs --inh-caps=-all --bounding-set=-all {command}"
    )
    filled = script.format(tmp=shlex.quote(str(writable)), command=shlex.join(command))
    return ["unshare", "--mount", "sh", "-c", filled]


def environment_of(declared: Mapping[str, Any], **ours: str) -> dict[str, str]:
    """What a process of ours is given: nothing of this one's but PATH and the language."""
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path} | {n: str(v) for n, v in declared.items()} | ours
