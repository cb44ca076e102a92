"""The folder of encoded updates: memory to receive one in, durable under its root, gone when nobody needs it.

Owns names, durability and what may be deleted. Refuses to know rounds: the run's store says which roots its log
needs.
"""

import mmap
import os
import re
from collections.abc import Collection
from pathlib import Path

import torch

from intellectd.daemon.atomic import fsync_dir, make_dir, storage_errors
from intellectd.daemon.room import take_room
from intellectd.kernels import ops
from intellectd.kernels.digest import update_root

DAMAGED_NAME = "damaged"  # the newest damaged file, for whoever wants to know what happened to it
_UPDATE = re.compile(r"^([0-9a-f]{64})\.bin$")


class NotHeld(Exception):
    """An update that was thought to be here is gone or damaged; it may be had from peers."""


class Updates:
    def __init__(self, path: Path, log_length: int) -> None:
        self.path = path
        make_dir(path, 0o700)
        for left in sorted(path.glob(".*.tmp")):
            left.unlink(missing_ok=True)  # what a crash left half-received
        # By root: how long the log was when the update came. One that the log does not name yet may be the one
        # that the next record will name, and a vote may rest on it.
        self._came_at = dict.fromkeys(self.held(), log_length)

    def path_of(self, root: bytes) -> Path:
        return self.path / f"{root.hex()}.bin"

    def held(self) -> tuple[bytes, ...]:
        """Raises StorageError."""
        with storage_errors(self.path):
            names = sorted(os.listdir(self.path))
        return tuple(bytes.fromhex(found[1]) for name in names if (found := _UPDATE.match(name)))

    def holds(self, root: bytes) -> bool:
        """Raises StorageError."""
        with storage_errors(self.path):
            return self.path_of(root).is_file()

    def new(self, name: bytes, length: int) -> mmap.mmap:
        """Writable memory over a temporary file; `keep` makes it durable under its root. Raises StorageError."""
        path = self._temporary(name)
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                take_room(descriptor, length)  # a full disk says so here, not as SIGBUS later
                return mmap.mmap(descriptor, length)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def keep(self, name: bytes, memory: mmap.mmap, root: bytes, log_length: int) -> None:
        """Raises StorageError."""
        path = self._temporary(name)
        with storage_errors(path):
            memory.flush()
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._came_at[root] = log_length
            os.replace(path, self.path_of(root))
            fsync_dir(self.path)

    def drop(self, name: bytes) -> None:
        """Raises StorageError."""
        self._delete(self._temporary(name))

    def read(self, root: bytes) -> mmap.mmap:
        """Raises OSError."""
        with self.path_of(root).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    def read_verified(self, root: bytes) -> torch.Tensor:
        """Hashed once more: what lay on a disk is not believed. A damaged file is put aside. Raises NotHeld."""
        path = self.path_of(root)
        try:
            update = ops.as_bytes(self.read(root))
        except (OSError, ValueError) as error:
            raise NotHeld(f"{path} cannot be read: {error}; it is fetched again from the peers") from error
        if update_root(update) != root:
            with storage_errors(path):
                os.replace(path, self.path / DAMAGED_NAME)
            raise NotHeld(f"{path} was damaged; it is now {DAMAGED_NAME} there, and fetched again from the peers")
        return update

    def prune(self, needed: Collection[bytes], log_length: int) -> None:
        """Delete what the log does not need, but for what came since its last record. Raises StorageError."""
        for root in self.held():
            if root not in needed and self._came_at.get(root, log_length) < log_length:
                self._delete(self.path_of(root))
                self._came_at.pop(root, None)

    def _delete(self, path: Path) -> None:
        with storage_errors(path):
            path.unlink(missing_ok=True)

    def _temporary(self, name: bytes) -> Path:
        return self.path / f".{name.hex()[:40]}.tmp"
