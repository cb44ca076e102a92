"""What a folder would be found like, had the process been killed, or the power been cut, before each of its writes.

Owns images of a folder: everything that was written, as the kernel keeps it when a process dies; only what was synced,
names by their folder and bytes by their file, as the worst disk keeps it when the power goes; and what lies between the
two: names without their bytes, bytes cut off in the middle, or with holes. Refuses to know what the files hold. Folders
made meanwhile count as durable at once.
"""

import hashlib
import mmap
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

# By what a daemon's stores change files. What is written through a buffer shows at the fsync after it.
BY_DESCRIPTOR = ("write", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate")
BY_NAME = ("replace", "rename", "link", "unlink", "mkdir")
SYNCS = ("fsync", "fdatasync", "flush")
SECTOR_BYTES = 512  # what a disk writes whole or not at all
Content = Literal["synced", "half", "zeros", "holes", "now"]


class Watched:
    """A folder whose writes are seen. `before(operation, path)` is called ahead of each of them."""

    def __init__(self, folder: Path, before: Callable[[str, Path], None]) -> None:
        self.folder, self.before = folder, before
        self.operations: list[str] = []
        self._bytes: dict[int, bytes] = {}  # synced, by inode
        self._names: dict[Path, dict[str, int]] = {}  # synced, by folder
        self._moved: dict[Path, Path] = {}  # folders that have another name on the disk yet, and that
        self._busy = False
        for path in sorted([folder, *folder.rglob("*")]):
            self._sync(path)

    def killed(self, target: Path) -> None:
        """As the process would leave it."""
        shutil.copytree(self.folder, target, ignore=_sockets)

    def cut_off(self, target: Path) -> None:
        """As a disk would that did nothing which it was not made to do."""
        for folder in sorted(path for path in (self.folder, *self.folder.rglob("*")) if path.is_dir()):
            there = target / self._durable(folder).relative_to(self.folder)
            there.mkdir(mode=0o700)
            for name, inode in self._names.get(folder, {}).items():
                (there / name).write_bytes(self._bytes.get(inode, b""))
                (there / name).chmod(0o600)

    def between(self, target: Path, names_now: bool, content: Content) -> None:
        """As a disk may leave it that has written some of what it was not yet made to write."""
        now = {path.stat().st_ino: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        for folder in sorted(path for path in (self.folder, *self.folder.rglob("*")) if path.is_dir()):
            there = target / (folder if names_now else self._durable(folder)).relative_to(self.folder)
            there.mkdir(mode=0o700)
            for name, inode in (_names_in(folder) if names_now else self._names.get(folder, {})).items():
                synced = self._bytes.get(inode, b"")
                (there / name).write_bytes(_mixed(synced, now.get(inode, synced), content))
                (there / name).chmod(0o600)

    def meets(self, operation: str, path: Path) -> bool:
        """Is it a write of this folder? Then `before` has heard of it."""
        if self._busy or not path.is_relative_to(self.folder):
            return False
        self._busy = True
        try:
            self.operations.append(operation)
            self.before(operation, path)
        finally:
            self._busy = False
        return True

    def done(self, operation: str, path: Path, target: Path | None = None) -> None:
        """`target`: where it is moved to, or linked."""
        if operation in SYNCS:
            self._sync(path)
        elif target is not None and operation in ("replace", "rename") and target.is_dir():
            self._moved[target] = self._moved.pop(path, path)
            self._names = {
                target / known.relative_to(path) if known.is_relative_to(path) else known: names
                for known, names in self._names.items()
            }

    def _durable(self, folder: Path) -> Path:
        """What it is called on the disk."""
        for now, before in self._moved.items():
            if folder.is_relative_to(now):
                return before / folder.relative_to(now)
        return folder

    def _sync(self, path: Path) -> None:
        known = os.stat(path, follow_symlinks=False)
        if stat.S_ISREG(known.st_mode):
            self._bytes[known.st_ino] = path.read_bytes()
        elif stat.S_ISDIR(known.st_mode):
            self._names[path] = _names_in(path)
            self._moved = {now: before for now, before in self._moved.items() if now.parent != path}


def _names_in(folder: Path) -> dict[str, int]:
    """Of its files, with their inodes."""
    return {entry.name: entry.inode() for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)}


def _mixed(synced: bytes, now: bytes, content: Content) -> bytes:
    """`now`, of which only a part is written over what was `synced`."""
    if content in ("synced", "now") or synced == now:
        return synced if content == "synced" else now
    same = min(len(synced), len(now))
    first = next((at for at in range(same) if synced[at] != now[at]), same)
    if content == "half":
        middle = (first + len(now) + 1) // 2
        return now[:middle] + synced[middle:]
    whole = bytearray(synced[: len(now)].ljust(len(now), b"\0"))
    if content == "holes":  # of the sectors that differ, every second
        for at in range(first - first % SECTOR_BYTES, len(now), 2 * SECTOR_BYTES):
            whole[at : at + SECTOR_BYTES] = now[at : at + SECTOR_BYTES]
    return bytes(whole)


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


@contextmanager
def watching(watched: Watched, patch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with patch.context() as inner:
        for name in BY_DESCRIPTOR:
            inner.setattr(os, name, _seen(watched, name, getattr(os, name), _path_of))
        for name in BY_NAME:
            inner.setattr(os, name, _seen(watched, name, getattr(os, name), Path))
        inner.setattr(os, "open", _opening(watched, os.open))
        inner.setattr(mmap, "mmap", _mapped(watched))
        yield watched


@contextmanager
def tight_disk(free_bytes: int) -> Iterator[None]:
    """So many bytes are left on any, as statvfs(3) has it."""
    real = os.statvfs

    def told(path: Any) -> os.statvfs_result:
        facts = list(real(path))
        facts[1], facts[4] = 1, free_bytes  # f_frsize, f_bavail
        return os.statvfs_result(facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "statvfs", told)
        yield


def digest_of(folder: Path, more: str) -> bytes:
    whole = hashlib.sha256(more.encode())
    for path in sorted(folder.rglob("*")):
        whole.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
    return whole.digest()


def _opening(watched: Watched, original: Any) -> Callable[..., int]:
    def call(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_CREAT | os.O_TRUNC):
            watched.meets("open", Path(path))
        descriptor: int = original(path, flags, *rest, **named)
        return descriptor

    return call


def _mapped(watched: Watched) -> type[mmap.mmap]:
    class Mapped(mmap.mmap):
        """Knows of which file it is memory, whatever that is called by now."""

        def __new__(cls, descriptor: int, *rest: Any, **named: Any) -> "Mapped":
            made = super().__new__(cls, descriptor, *rest, **named)
            made.inode = os.fstat(descriptor).st_ino if descriptor >= 0 else 0
            return made

        def flush(self, *rest: Any) -> None:
            found = [path for path in watched.folder.rglob("*") if path.is_file() and path.stat().st_ino == self.inode]
            ours = bool(found) and watched.meets("flush", found[0])
            super().flush(*rest)
            if ours:
                watched.done("flush", found[0])

    return Mapped


def _seen(watched: Watched, name: str, original: Any, path_of: Callable[[Any], Path]) -> Callable[..., Any]:
    def call(subject: Any, *rest: Any, **named: Any) -> Any:
        path = path_of(subject)
        ours = watched.meets(name, path)
        result = original(subject, *rest, **named)
        if ours:
            watched.done(name, path, Path(rest[0]) if name in ("replace", "rename") else None)
        return result

    return call


def _path_of(descriptor: int) -> Path:
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return Path("/")  # it is none of ours, and what was asked of it will say so
