"""What a folder would be found like, had the process been killed, or the power been cut, before each of its writes.

Owns two images of a folder: everything that was written, as the kernel keeps it when a process dies; and only what was
synced, names by their folder and bytes by their file, as the worst disk keeps it when the power goes. What lies between
the two is not tried. Refuses to know what the files hold. Folders made meanwhile count as durable at once.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# By what a daemon's stores change files. What is written through a buffer shows at the fsync after it.
BY_DESCRIPTOR = ("write", "fsync", "fdatasync", "ftruncate")
BY_NAME = ("replace", "rename", "link", "unlink")


class Watched:
    """A folder whose writes are seen. `before(operation, path)` is called ahead of each of them."""

    def __init__(self, folder: Path, before: Callable[[str, Path], None]) -> None:
        self.folder, self.before = folder, before
        self.operations: list[str] = []
        self._bytes: dict[int, bytes] = {}  # synced, by inode
        self._names: dict[Path, dict[str, int]] = {}  # synced, by folder
        self._busy = False
        for path in sorted([folder, *folder.rglob("*")]):
            self._sync(path)

    def killed(self, target: Path) -> None:
        """As the process would leave it."""
        shutil.copytree(self.folder, target, ignore=_sockets)

    def cut_off(self, target: Path) -> None:
        """As a disk would that did nothing which it was not made to do."""
        for folder in sorted(path for path in (self.folder, *self.folder.rglob("*")) if path.is_dir()):
            there = target / folder.relative_to(self.folder)
            there.mkdir(mode=0o700)
            for name, inode in self._names.get(folder, {}).items():
                (there / name).write_bytes(self._bytes.get(inode, b""))
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

    def done(self, operation: str, path: Path) -> None:
        if operation in ("fsync", "fdatasync"):
            self._sync(path)

    def _sync(self, path: Path) -> None:
        known = os.stat(path, follow_symlinks=False)
        if stat.S_ISREG(known.st_mode):
            self._bytes[known.st_ino] = path.read_bytes()
        elif stat.S_ISDIR(known.st_mode):
            here = [entry for entry in os.scandir(path) if entry.is_file(follow_symlinks=False)]
            self._names[path] = {entry.name: entry.inode() for entry in here}


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(folder) / name).is_file() and not (Path(folder) / name).is_dir()]


@contextmanager
def watching(watched: Watched, patch: pytest.MonkeyPatch) -> Iterator[Watched]:
    with patch.context() as inner:
        for name in BY_DESCRIPTOR:
            inner.setattr(os, name, _seen(watched, name, getattr(os, name), _path_of))
        for name in BY_NAME:
            inner.setattr(os, name, _seen(watched, name, getattr(os, name), Path))
        yield watched


def _seen(watched: Watched, name: str, original: Any, path_of: Callable[[Any], Path]) -> Callable[..., Any]:
    def call(subject: Any, *rest: Any, **named: Any) -> Any:
        path = path_of(subject)
        ours = watched.meets(name, path)
        result = original(subject, *rest, **named)
        if ours:
            watched.done(name, path)
        return result

    return call


def _path_of(descriptor: int) -> Path:
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    except OSError:
        return Path("/")  # it is none of ours, and what was asked of it will say so
