"""A state on its way here: memory over a file in a snapshot's form, and which of its pieces are proven.

Owns both files, and that a piece counts as proven on disk only when its bytes are there. So what came before a crash
is neither fetched nor hashed again. Refuses to know donors; what is proven is its user's to say.
"""

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from intellectd.daemon.atomic import StorageError, fsync_dir, make_dir, storage_errors, write_atomic
from intellectd.daemon.room import take_room
from intellectd.daemon.store.snapshot import ELEMENT_BYTES, header_bytes
from intellectd.kernels.digest import LEAF_BYTES

_MAGIC = b"intellectd proven 1\0"
_HEAD = struct.Struct(f"<{len(_MAGIC)}s32sI")
# Pieces between two syncs: at 1 Gbit/s one in half a second, and what a crash costs is at most so many MiB.
SYNC_PIECES = 64
SYNC_S = 5.0  # or so many seconds, where pieces come slowly


def state_borders(elements: int) -> tuple[int, ...]:
    """Where the pieces of theta and then momentum begin, and the last ends: the leaves of a state's digest (K8)."""
    size = elements * ELEMENT_BYTES
    starts = tuple(range(0, size, LEAF_BYTES))
    return (*starts, *(size + start for start in starts), 2 * size)


def _files(folder: Path, round_: int, digest: bytes) -> tuple[Path, Path]:
    name = f"{max(0, round_):08d}-{digest.hex()[:16]}"
    return folder / f"{name}.state", folder / f"{name}.proven"


class Incoming:
    def __init__(
        self, folder: Path, elements: int, round_: int, digest: bytes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Goes on with what lies there of this very state; what lies there of others goes. Raises StorageError, a full
        disk's before anything is received."""
        self._header = header_bytes(elements, max(0, round_), digest)
        self._digest, self._count = digest, len(state_borders(elements)) - 1
        self._state, self._proven_path = _files(folder, round_, digest)
        self._lock = threading.Lock()
        make_dir(folder, 0o700)
        length = len(self._header) + 2 * elements * ELEMENT_BYTES
        with storage_errors(folder):
            self.drop_others(folder, round_, digest)
            known = self._read_proven() if self._is_ours(length) else None
            if known is None:
                self._proven_path.unlink(missing_ok=True)  # or it would be said of the bytes that come now
            self._memory = self._map(length)
        self._proven = bytearray(known or bytes(self._count))
        if known is None:
            write_atomic(self._proven_path, self._words())  # its room is taken now, whatever fills the disk later
        self._clock = clock
        self._unsynced, self._synced_at = 0, clock()

    @staticmethod
    def drop_others(folder: Path, round_: int, digest: bytes) -> None:
        """What lies there of other states, and with it its room. Raises StorageError."""
        with storage_errors(folder):
            for other in sorted(folder.iterdir()):
                if other not in _files(folder, round_, digest):
                    other.unlink()

    @staticmethod
    def lies_in(folder: Path, round_: int, digest: bytes) -> bool:
        """Some of it, which has its room already."""
        return _files(folder, round_, digest)[0].exists()

    @staticmethod
    def begun_in(folder: Path) -> tuple[int, bytes, int] | None:
        """(round, digest, bytes) of what is proven of a state there, at most; of the first parameters round 0. None:
        nothing that can be told. Whoever goes on with it looks more closely."""
        for path in sorted(folder.glob("*.proven")):
            try:
                raw = path.read_bytes()
            except OSError:
                continue
            head, flags = raw[: _HEAD.size], raw[_HEAD.size :]
            number = path.name.partition("-")[0]
            if len(head) == _HEAD.size and number.isdecimal() and (said := _HEAD.unpack(head))[0] == _MAGIC:
                return int(number), said[1], min(len(flags), flags.count(1)) * LEAF_BYTES
        return None

    @property
    def data(self) -> memoryview:
        """Of theta, then momentum; writable."""
        return memoryview(self._memory)[len(self._header) :]

    @property
    def proven(self) -> tuple[int, ...]:
        with self._lock:
            return tuple(piece for piece, is_proven in enumerate(self._proven) if is_proven)

    def flags(self) -> bytes:
        """Of each piece 1 if it is proven, 0 if not."""
        with self._lock:
            return bytes(self._proven)

    def is_proven(self, piece: int) -> bool:
        return bool(self._proven[piece])

    def prove(self, piece: int) -> None:
        """Its bytes are in `data`, and right. On disk now and then. Raises StorageError."""
        with self._lock:
            self._proven[piece] = 1
            self._unsynced += 1
            if self._unsynced >= SYNC_PIECES or self._clock() - self._synced_at >= SYNC_S:
                self._sync()

    def doubt(self, pieces: list[int]) -> None:
        """They are not right after all."""
        with self._lock:
            for piece in pieces:
                self._proven[piece] = 0
            self._sync()

    def sync(self) -> None:
        """Raises StorageError."""
        with self._lock:
            self._sync()

    def become(self, path: Path) -> None:
        """All is proven: the file is the snapshot of that name now, durable. Raises StorageError."""
        assert all(self._proven), "pieces are missing"
        with storage_errors(path):
            self._memory.flush()
            os.replace(self._state, path)
            fsync_dir(path.parent)
            self._proven_path.unlink(missing_ok=True)

    def drop(self) -> None:
        """It is of no more use."""
        with storage_errors(self._state):
            self._proven_path.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)

    # ---- inside

    def _sync(self) -> None:
        """Bytes before the word that they are there."""
        with storage_errors(self._state):
            self._memory.flush()
            # In place, which takes no room. However much of it a crash leaves, each byte is the old or the new one.
            descriptor = os.open(self._proven_path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, self._words(), 0)
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        self._unsynced, self._synced_at = 0, self._clock()

    def _words(self) -> bytes:
        return _HEAD.pack(_MAGIC, self._digest, self._count) + bytes(self._proven)

    def _is_ours(self, length: int) -> bool:
        try:
            with self._state.open("rb") as file:
                return os.fstat(file.fileno()).st_size == length and file.read(len(self._header)) == self._header
        except FileNotFoundError:
            return False

    def _read_proven(self) -> bytes | None:
        try:
            raw = self._proven_path.read_bytes()
        except FileNotFoundError:
            return None
        head, flags = raw[: _HEAD.size], raw[_HEAD.size :]
        if head != _HEAD.pack(_MAGIC, self._digest, self._count) or len(flags) != self._count or flags.strip(b"\0\1"):
            return None
        return flags

    def _map(self, length: int) -> mmap.mmap:
        descriptor = os.open(self._state, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            take_room(descriptor, length)  # a full disk says so here, not as SIGBUS later
            os.ftruncate(descriptor, length)
            os.pwrite(descriptor, self._header, 0)
            return mmap.mmap(descriptor, length)
        except BaseException:
            if os.fstat(descriptor).st_size != length:
                self._state.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)


class InMemory:
    """The same where no disk has room: after a restart all is fetched again."""

    def __init__(self, elements: int) -> None:
        self._memory = mmap.mmap(-1, max(1, 2 * elements * ELEMENT_BYTES))
        self.proven: tuple[int, ...] = ()

    @property
    def data(self) -> memoryview:
        return memoryview(self._memory)

    def prove(self, piece: int) -> None: ...

    def doubt(self, pieces: list[int]) -> None: ...

    def sync(self) -> None: ...

    def become(self, path: Path) -> None:
        raise StorageError(f"cannot write {path}: there was no room for it", f"free some space on {path.parent}")

    def drop(self) -> None: ...
