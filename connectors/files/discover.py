"""Which files of a path, folder or glob still have to be read: a file counts as read by its content, not its name."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from cdp.errors import CdpError, FatalError

# What editors, browsers and copy tools leave beside files that are not finished.
_UNFINISHED = (".tmp", ".part", ".crdownload", ".download", ".swp")
_GLOB = set("*?[")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Found:
    """A file to read. *name*: its path below the home where it lies there, for records and state."""

    path: Path
    name: str
    digest: str
    state: dict[str, Any]


def find(patterns: str | Sequence[str], root: Path) -> list[Path]:
    """The files that *patterns* mean now, sorted by name, each once. A folder means the files in it.

    A glob or folder may be empty. Raises `FatalError` when a path that names one file or folder is not there.
    """
    found: dict[Path, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found.update(dict.fromkeys(_find_one(pattern, root)))
    return sorted(path for path in found if not _is_unfinished(path))


def _find_one(pattern: str, root: Path) -> list[Path]:
    full = root / Path(pattern).expanduser()
    if full.is_dir():
        return [path for path in full.iterdir() if path.is_file()]
    if full.is_file():
        return [full]
    if not _GLOB & set(str(full)):
        raise FatalError(f"{full} is not there", hint="check `path` of the source; it is relative to the home")
    anchor = Path(full.anchor)
    return [path for path in anchor.glob(str(full.relative_to(anchor))) if path.is_file()]


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith((".", "~$")) or path.suffix.lower() in _UNFINISHED


def unread(
    patterns: str | Sequence[str],
    root: Path,
    state: Mapping[str, Any],
    *,
    failed: Container[str] = (),
    whole: bool = False,
    forget: bool = False,
) -> Iterator[Found]:
    """Files whose content has not been read yet, in name order; each carries the state to save once it is landed.

    A file of unchanged size and time is not opened. *failed*: names (the caller adds to it) of files that could not be
    read; no later state counts them as read. With *whole*, all files come as soon as one is new (full dumps).
    With *forget*, files that are gone are forgotten: for lines, which are known by themselves when they come again.
    """
    files: dict[str, list[Any]] = {name: list(facts) for name, facts in state.get("files", {}).items()}
    landed = {facts[0] for facts in files.values()}
    found = [_facts(path, _name(path, root), files) for path in find(patterns, root)]
    if forget:  # but not before this pass, so that a file that was only renamed is known
        there = {name for _, name, _ in found}
        files = {name: facts for name, facts in files.items() if name in there}
    everything = whole and any(facts[0] not in landed for _, _, facts in found)
    for path, name, facts in found:
        if facts[0] in landed and not everything:
            files[name] = facts
            continue
        yield Found(path, name, facts[0], {"files": {**files, name: facts}})
        if name not in failed:
            files[name] = facts
            landed.add(facts[0])


def raise_all(faults: Mapping[str, CdpError]) -> None:
    """Tell the files that could not be read, once all others are done. A single fault is raised as it is."""
    errors = list(faults.values())
    if len(errors) == 1:
        raise errors[0]
    if errors:
        told = "\n".join(error.message for error in errors)
        raise FatalError(f"{len(errors)} files could not be read:\n{told}", hint=errors[0].hint)


def _facts(path: Path, name: str, known: Mapping[str, list[Any]]) -> tuple[Path, str, list[Any]]:
    """(path, name, [digest, size, time]); the digest is taken over from *known* where size and time are the same."""
    stat = path.stat()
    place = [stat.st_size, stat.st_mtime_ns]
    before = known.get(name)
    return path, name, [before[0] if before and before[1:] == place else _digest(path), *place]


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _digest(path: Path) -> str:
    """XXH3 of the content, in 128 bits: it tells files apart, and is no proof against forgery."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
