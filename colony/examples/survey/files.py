"""Which files are surveyed, and the one way to open them.

What a project would keep under version control, as far as names tell: hidden files, environments,
installed packages, build outputs, lock files and minified code are left out, so are binaries and
anything above 512 KiB. The same rules bind the tools: a model that asks for ``.env``, for
``../../etc/passwd`` or for a link that leads out of the folder is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path, PurePosixPath

from colony.errors import ColonyError, ConfigurationError

MAX_FILES = 500
"""The most that one survey covers: one editor is told about all of them."""
GROUP = 64
"""Readers of one call: the most that run_parallel_workers takes."""
MAX_FILE_BYTES = 512 * 1024
SURVEY_MARK = "<!-- colony survey"
"""How a page of ours begins: surveys are not surveyed, and only they are overwritten."""

DOCUMENTS = frozenset({"Markdown", "reStructuredText", "AsciiDoc", "Text", "Org", "TeX"})
SUFFIXES = {
    ".md": "Markdown", ".markdown": "Markdown", ".rst": "reStructuredText", ".adoc": "AsciiDoc",
    ".txt": "Text", ".org": "Org", ".tex": "TeX",
    ".py": "Python", ".pyi": "Python", ".lua": "Lua", ".rb": "Ruby", ".go": "Go", ".rs": "Rust",
    ".js": "JavaScript", ".mjs": "JavaScript", ".cjs": "JavaScript", ".jsx": "JavaScript",
    ".ts": "TypeScript", ".tsx": "TypeScript", ".vue": "Vue", ".svelte": "Svelte",
    ".java": "Java", ".kt": "Kotlin", ".scala": "Scala", ".cs": "C#", ".swift": "Swift",
    ".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".hpp": "C++", ".php": "PHP",
    ".ex": "Elixir", ".exs": "Elixir", ".erl": "Erlang", ".hs": "Haskell", ".clj": "Clojure",
    ".r": "R", ".jl": "Julia", ".pl": "Perl", ".sh": "Shell", ".bash": "Shell", ".zsh": "Shell",
    ".sql": "SQL", ".html": "HTML", ".css": "CSS", ".scss": "CSS",
    ".toml": "TOML", ".yaml": "YAML", ".yml": "YAML", ".ini": "INI", ".cfg": "INI", ".conf": "INI",
}  # fmt: skip
NAMES = {
    "makefile": "Make", "gnumakefile": "Make", "dockerfile": "Docker", "readme": "Text",
    "license": "Text", "changelog": "Text", "contributing": "Text", "justfile": "Make",
}  # fmt: skip
SKIPPED_FOLDERS = frozenset(
    (
        "node_modules", "__pycache__", "site-packages", "venv", "vendor",
        "build", "dist", "target", "htmlcov", "coverage",
    )
)  # fmt: skip
SKIPPED_NAMES = (
    "*.lock", "*.min.js", "*.min.css", "*-lock.*", "*.lock.*", "requirements.lock", "go.sum",
)  # fmt: skip


class Refused(ColonyError, ValueError):
    """A file that is not surveyed was asked for. The text says why, and what can be asked for."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The files of a folder that are surveyed: POSIX paths below it, in order of their path.

    `left_out`: how many more there are by their names; the deepest are left out first.
    """

    paths: tuple[str, ...]
    left_out: int = 0


def language_of(path: str) -> str | None:
    """The language or kind of document that a file's name tells; None: it is not surveyed."""
    name = PurePosixPath(path).name.lower()
    return SUFFIXES.get(PurePosixPath(name).suffix) or NAMES.get(name.partition(".")[0])


def choose_files(root: Path, *, max_files: int = 200) -> Chosen:
    """The documents and source files below `root`; the same folder gives the same answer.

    Raises `ConfigurationError` where `root` is not a folder, or holds nothing to survey.
    """
    if not root.is_dir():
        raise ConfigurationError(f"expected a folder to survey, got {str(root)!r}: no such folder")
    if max_files < 1:
        raise ConfigurationError(f"max_files must be at least 1, got {max_files}")
    root = root.resolve()
    named = sorted(_candidates(root), key=lambda path: (path.count("/"), path))
    chosen = list(islice((path for path in named if _worth(root, path)), max_files))
    if not chosen:
        raise ConfigurationError(
            f"nothing to survey in {str(root)!r}: no document or source file of 1 byte to "
            f"{MAX_FILE_BYTES // 1024} KiB (hidden and build folders are not searched); "
            "name another folder"
        )
    left_out = len(named) - 1 - named.index(chosen[-1]) if len(chosen) == max_files else 0
    return Chosen(tuple(sorted(chosen)), left_out)


def load(root: Path, path: str) -> str:
    """The text of one surveyed file; bytes that are not UTF-8 become U+FFFD.

    Raises `Refused` for whatever `choose_files` would not choose.
    """
    real_root = root.resolve()
    target = _inside(real_root, path)
    try:
        content = _read(target)
    except OSError as error:
        raise Refused(f"{path!r} cannot be read: {error.strerror or error}") from error
    if b"\0" in content:
        raise Refused(f"{path!r} is binary: only text files are surveyed")
    return content.decode("utf-8", errors="replace").replace("\r\n", "\n")


def _candidates(root: Path) -> Iterator[str]:
    for folder, subfolders, names in os.walk(root):
        here = Path(folder)
        subfolders[:] = [s for s in subfolders if not _skipped_folder(s, here / s)]
        for name in names:
            path = (here / name).relative_to(root).as_posix()
            if _name_refusal(path) is None and not (here / name).is_symlink():
                yield path


def _worth(root: Path, path: str) -> bool:
    try:
        text = load(root, path)
    except Refused:
        return False  # binary, huge, unreadable or gone by now: what the rules leave out
    return bool(text.strip()) and not text.startswith(SURVEY_MARK)


def _inside(root: Path, path: str) -> Path:
    asked = PurePosixPath(path)
    if asked.is_absolute() or ".." in asked.parts or not path or "\0" in path:
        raise Refused(
            f"expected a path below the surveyed folder, such as 'src/app.py', got {path!r}"
        )
    try:
        target = (root / asked).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise Refused(f"{path!r}: no such file in the surveyed folder") from error
    if not target.is_relative_to(root):
        raise Refused(f"{path!r} leads out of the surveyed folder through a link")
    if refusal := _name_refusal(target.relative_to(root).as_posix()):
        raise Refused(f"{path!r} is not surveyed: {refusal}")
    return target


def _read(target: Path) -> bytes:
    # Looked at once more after it is open: what the path named may have been swapped meanwhile.
    descriptor = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{target.name!r} is not a regular file")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise Refused(
            f"{target.name!r} has {status.st_size} bytes: at most {MAX_FILE_BYTES} are surveyed"
        )
    return content


def _name_refusal(path: str) -> str | None:
    parts = PurePosixPath(path).parts
    if not path.isprintable():
        return "its name holds control characters"
    if any(part.startswith(".") for part in parts):
        return "hidden files and folders stay private"
    if any(_skipped_folder(part) for part in parts[:-1]):
        return "it lies in a folder of installed or built files"
    if any(fnmatch(parts[-1].lower(), pattern) for pattern in SKIPPED_NAMES):
        return "it is a lock file or minified"
    if language_of(path) is None:
        return "it is neither a document nor a source file"
    return None


def _skipped_folder(name: str, path: Path | None = None) -> bool:
    return (
        name.startswith(".")
        or name.lower() in SKIPPED_FOLDERS
        or name.endswith(".egg-info")
        or (path is not None and (path / "pyvenv.cfg").exists())
    )
