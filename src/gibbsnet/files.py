"""Files that are either the old ones or the new ones, never half of one, not even after a power loss; and whose they are."""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def replace(path: Path, write: Callable[[Path], Any], raced: bool = False) -> None:
    """Lets `write` fill a file beside `path`, which then takes its place in one move.

    raced: other processes may be writing it at the same time, so that each needs a draft of its own.  Else the draft has one
        name, and what a kill left of one the next write puts its own in the place of.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part" if raced else f".{path.name}.part")
    try:
        with named(path):
            write(draft)
            settle(draft, path)
    finally:
        with suppress(OSError):  # where nothing can be written nothing lies
            draft.unlink()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Says which file it was that could not be written: of a full disk the system says no more than that it is full."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} cannot be written ({error.strerror or error}); what was there before is whole"
        ) from error


def settle(draft: Path, path: Path, before: Path | None = None) -> None:
    """Moves a draft to its place once its bytes are on the disk; what lay there goes to `before`, if that is given.

    The bytes first, then the names: whatever a power loss leaves, one of the two files is whole.
    """
    sync(draft)
    if before and path.exists():
        os.replace(path, before)
    os.replace(draft, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# What file systems of clusters say that are mounted without locks.
LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def alone(path: Path, busy: str | None = None, patience: float = 0) -> Iterator[int]:
    """One process at a time holds the lock at `path`; it lets go however it ends. Yields the lock's file descriptor: a child
    that inherits it holds the lock as well.

    Arguments:
        busy: what to say where another process holds it; without it this one waits.
        patience: seconds in which the other may let go yet.

    Raises:
        BlockingIOError: another process holds it; its text is `busy`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        _lock(file, busy, time.monotonic() + patience)
        yield file.fileno()


def _lock(file: IO, busy: str | None, until: float) -> None:
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            if time.monotonic() >= until:
                raise BlockingIOError(busy) from error
            time.sleep(1)
        except OSError as error:
            if error.errno in LOCKLESS:
                return None
            raise


def home(path: str | Path | None) -> Path | None:
    """The path, its ~ spelled out.

    Raises:
        ValueError: ~NAME of nobody.
    """
    try:
        return None if path is None else Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: {error}") from error


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk with links followed, in order, each folder once: a real one before the links beside it."""
    seen = {folder.resolve()}
    for path, inside, files in os.walk(folder, followlinks=True):
        for name in sorted(inside, key=lambda name: (Path(path, name).is_symlink(), name)):
            inside.remove(name)
            if (place := Path(path, name).resolve()) not in seen:
                seen.add(place)
                inside.append(name)
        yield Path(path), inside, files


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
