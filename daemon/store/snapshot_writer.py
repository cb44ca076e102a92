"""One state on its way to the disk while training goes on: chunk by chunk, straight from the vectors.

Owns which chunks are written, and that a vector is not changed before its bytes are: who is about to change it writes
what is missing first. So there is never a second copy in this process's memory; what is written early waits in the
page cache. Refuses to know rounds and when a state is due.
"""

import os
import threading
from pathlib import Path

from intellectd.daemon.atomic import SYNC_BYTES, fsync_dir, storage_error, storage_errors
from intellectd.daemon.store.snapshot import State, bytes_of, header_bytes

CHUNK_BYTES = 16 * 1024 * 1024  # written at once: large enough for any disk, small enough to be pre-empted


class SnapshotWriter:
    """`write` in one thread and `copy_out` in another; then `publish` or `discard`, once."""

    def __init__(self, path: Path, state: State, round_: int, digest: bytes) -> None:
        """An older file of the name stays until `publish`. Raises StorageError."""
        self._path = path
        self._temp = path.with_name(f".{path.name}.tmp")
        self._changed = threading.Condition()
        self._vectors = [bytes_of(state.theta), bytes_of(state.momentum)]
        self._size = len(self._vectors[0])
        self._per_vector = -(-self._size // CHUNK_BYTES)
        self._next = self._busy = 0
        self._failure: OSError | None = None
        self._given_up = False
        header = header_bytes(state.theta.numel(), round_, digest)
        self._start = len(header)
        with storage_errors(path):
            self._descriptor = os.open(self._temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with storage_errors(path):
                _write_whole(self._descriptor, memoryview(header), 0)
        except BaseException:
            self.discard()
            raise

    def write(self) -> bool:
        """All of it, until it is on the disk; False if it was given up. Raises StorageError."""
        self._write_chunks(syncs=True)
        self._let_go()
        if self._failure is not None:
            raise storage_error(self._failure, self._path) from self._failure
        if self._given_up:
            return False
        assert self._next == 2 * self._per_vector, "the vectors were let go before all of them was written"
        with storage_errors(self._path):
            os.fsync(self._descriptor)
        return True

    def copy_out(self) -> None:
        """The vectors are about to change: what is not written yet is now. Raises nothing: a disk that fails costs the
        snapshot, of which `write` tells."""
        self._write_chunks(syncs=False)
        self._let_go()

    def give_up(self) -> None:
        """Any thread: `write` ends after the chunk that it is at."""
        with self._changed:
            self._given_up = True

    def publish(self) -> None:
        """`write` is through: the file gets its name. Raises StorageError; it is gone then."""
        try:
            with storage_errors(self._path):
                os.replace(self._temp, self._path)
                fsync_dir(self._path.parent)
        finally:
            self.discard()

    def discard(self) -> None:
        """What is left is of no use. No thread is in `write` any more; one in `copy_out` is waited for. Raises
        StorageError where the disk refuses even that."""
        with self._changed:
            self._given_up = True
            self._changed.wait_for(lambda: not self._busy)
        self._vectors = []
        descriptor, self._descriptor = self._descriptor, -1
        with storage_errors(self._path):
            if descriptor >= 0:
                os.close(descriptor)
            self._temp.unlink(missing_ok=True)

    # ---- chunks

    def _write_chunks(self, syncs: bool) -> None:
        unsynced = 0
        while (chunk := self._take()) is not None:
            failure: OSError | None = None
            try:
                count = self._write_chunk(chunk)
                unsynced += count
                if syncs and unsynced >= SYNC_BYTES:
                    os.fdatasync(self._descriptor)
                    unsynced = 0
            except OSError as error:
                failure = error
            with self._changed:
                self._busy -= 1
                self._failure = self._failure or failure
                self._changed.notify_all()

    def _take(self) -> int | None:
        with self._changed:
            if self._failure or self._given_up or self._next >= 2 * self._per_vector or not self._vectors:
                return None
            self._next += 1
            self._busy += 1
            return self._next - 1

    def _write_chunk(self, chunk: int) -> int:
        vector, number = divmod(chunk, self._per_vector)
        first = number * CHUNK_BYTES
        data = self._vectors[vector][first : first + CHUNK_BYTES]
        _write_whole(self._descriptor, data, self._start + vector * self._size + first)
        return len(data)

    def _let_go(self) -> None:
        """Of the vectors, once nobody reads them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._vectors = []


def write_snapshot(path: Path, state: State, round_: int, digest: bytes) -> None:
    """Here and now. Raises StorageError; an older file of the name stays until the new one is whole."""
    writer = SnapshotWriter(path, state, round_, digest)
    try:
        writer.write()
        writer.publish()
    finally:
        writer.discard()


def _write_whole(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
