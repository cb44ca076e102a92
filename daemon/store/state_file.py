"""A run's first state written in one go, from values that come piece by piece: theta as given, momentum zero.

Owns the file until it is whole and its digest, which is computed on the way. Memory is one leaf, whatever the size.
Refuses to know where values come from.
"""

import os
from pathlib import Path

from intellectd.daemon.atomic import SYNC_BYTES, storage_errors
from intellectd.daemon.store.snapshot import ELEMENT_BYTES, header_bytes
from intellectd.kernels.digest import LEAF_BYTES, leaf_hash, state_root


class StateFile:
    def __init__(self, path: Path, elements: int) -> None:
        """A new file at `path`; whoever makes it also removes it, if it does not become whole. Raises StorageError."""
        self._path, self._elements = path, elements
        self._leaves: list[bytes] = []
        self._leaf = bytearray()
        self.done_bytes = self._unsynced = 0
        with storage_errors(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = open(descriptor, "wb", buffering=LEAF_BYTES)  # noqa: SIM115, closed by `finish` or `close`
        with storage_errors(path):
            self._file.seek(len(header_bytes(elements, 0, bytes(32))))

    @property
    def theta_bytes(self) -> int:
        return self._elements * ELEMENT_BYTES

    def add(self, data: memoryview) -> None:
        """The next bytes of theta (fp32). Raises StorageError."""
        assert self.done_bytes + len(data) <= self.theta_bytes
        self.done_bytes += len(data)
        self._unsynced += len(data)
        with storage_errors(self._path):
            self._file.write(data)
            if self._unsynced >= SYNC_BYTES:
                self._file.flush()
                os.fdatasync(self._file.fileno())
                self._unsynced = 0
        while data:
            room = LEAF_BYTES - len(self._leaf)
            self._leaf += data[:room]
            data = data[room:]
            if len(self._leaf) == LEAF_BYTES:
                self._end_leaf()

    def finish(self) -> bytes:
        """All of theta was added: the file is a snapshot of round 0, durable. Its digest. Raises StorageError."""
        assert self.done_bytes == self.theta_bytes
        if self._leaf:
            self._end_leaf()
        zero = leaf_hash(bytes(LEAF_BYTES))
        rest = self.theta_bytes % LEAF_BYTES
        zeros = [zero] * (self.theta_bytes // LEAF_BYTES) + ([leaf_hash(bytes(rest))] if rest else [])
        digest = state_root([*self._leaves, *zeros])
        header = header_bytes(self._elements, 0, digest)
        with storage_errors(self._path):
            self._file.flush()
            # A hole reads as zeros. Nothing is written there later: a full disk cannot come as a surprise.
            os.ftruncate(self._file.fileno(), len(header) + 2 * self.theta_bytes)
            os.pwrite(self._file.fileno(), header, 0)
            os.fsync(self._file.fileno())
        self.close()
        return digest

    def close(self) -> None:
        with storage_errors(self._path):
            self._file.close()

    def _end_leaf(self) -> None:
        self._leaves.append(leaf_hash(self._leaf))
        self._leaf = bytearray()
