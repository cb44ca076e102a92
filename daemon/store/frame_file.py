"""An append-only file of checksummed frames: durable when `append` returns, and honest about damage.

Owns the framing, fdatasync, and telling a torn tail (a crash in mid-append: cut off) from corruption (refused,
never overwritten). A power cut may leave the new length without the bytes: a last frame of which whole sectors are
zeros is torn, too, as in etcd's log. Refuses to know what the frames say.

frame: length u32 | check 8 | digest 32 | body. `check` covers place and length, so a tail that is only too short
is told from a length that was changed, behind which whole frames would be cut off. `digest` covers place and
body, so frames cannot be swapped.
"""

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from intellectd.daemon.atomic import fsync_dir, make_dir, storage_errors, write_new
from intellectd.daemon.errors import EXIT_CONFIG, OperatorError

FRAME_BYTES_MAX = 16 * 1024 * 1024  # a record of 1,024 members has about 400 KiB
SECTOR_BYTES = 512  # what a disk writes whole or not at all; newer ones write more at once
LENGTH_BYTES, CHECK_BYTES, DIGEST_BYTES = 4, 8, 32
HEADER_BYTES = LENGTH_BYTES + CHECK_BYTES + DIGEST_BYTES


class CorruptFile(OperatorError):
    """A file of ours was changed by something else; it was left as it is."""

    exit_code = EXIT_CONFIG


class Closed(Exception):
    """The file was closed while somebody still meant to read it: the run was left."""


class FrameFile:
    """`create` makes one, the constructor opens it. Readers may be in other threads than the one that appends."""

    def __init__(self, path: Path, magic: bytes, remedy: str) -> None:
        """Raises CorruptFile, also for a file that is gone: what it held must not be forgotten silently."""
        self.path, self._magic, self._remedy = path, magic, remedy
        self._lock = threading.RLock()  # what `rewrite` is given may be read from this very file
        self._offsets: list[int] = []
        with storage_errors(path):
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            except FileNotFoundError:
                raise CorruptFile(f"{path} is missing", remedy) from None
        try:
            with storage_errors(path):
                self._end = self._scan()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, magic: bytes, remedy: str) -> "FrameFile":
        make_dir(path.parent, 0o700)
        write_new(path, magic)
        return cls(path, magic, remedy)

    def __len__(self) -> int:
        return len(self._offsets)

    def append(self, body: bytes) -> None:
        """Returns when the frame is on the disk. Raises StorageError; the file is then as it was."""
        self._extend([body])

    def _extend(self, bodies: Iterable[bytes]) -> None:
        offsets, end = list[int](), self._end
        with self._lock, storage_errors(self.path):
            try:
                for body in bodies:
                    assert 0 < len(body) <= FRAME_BYTES_MAX
                    _write_whole(self._descriptor, self._frame(body, end))
                    offsets.append(end)
                    end += HEADER_BYTES + len(body)
                os.fdatasync(self._descriptor)
            except OSError:
                os.ftruncate(self._descriptor, self._end)
                raise
            self._offsets += offsets
            self._end = end

    def read(self, index: int) -> bytes:
        """Raises CorruptFile, StorageError or Closed."""
        with self._lock, storage_errors(self.path):
            if self._descriptor < 0:
                raise Closed(str(self.path))
            offset = self._offsets[index]
            header = os.pread(self._descriptor, HEADER_BYTES, offset)
            length = _length(header, offset)
            if length is None:
                raise self._corrupt(offset)
            body = os.pread(self._descriptor, length, offset + HEADER_BYTES)
        if header[-DIGEST_BYTES:] != _digest(body, offset):
            raise self._corrupt(offset)
        return body

    def rewrite(self, bodies: Iterable[bytes]) -> None:
        """Replace the whole content, atomically. Raises StorageError; the file is then as it was."""
        temp = self.path.with_name(f".{self.path.name}.tmp")
        with self._lock, storage_errors(self.path):
            temp.unlink(missing_ok=True)
            fresh = FrameFile.create(temp, self._magic, self._remedy)
            try:
                fresh._extend(bodies)  # written out once: a log may have a hundred thousand records
                os.replace(temp, self.path)
                fsync_dir(self.path.parent)
            except BaseException:
                fresh.close()
                temp.unlink(missing_ok=True)
                raise
            os.close(self._descriptor)
            self._descriptor, self._offsets, self._end = fresh._descriptor, fresh._offsets, fresh._end

    def close(self) -> None:
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1

    def _scan(self) -> int:
        """Index the frames; cut a torn tail off; raise on anything else that is wrong."""
        size, end = os.fstat(self._descriptor).st_size, len(self._magic)
        for offset, body in _walk(self._descriptor, self._magic, size, self._corrupt):
            self._offsets.append(offset)
            end = offset + HEADER_BYTES + len(body)
        return end if end == size else self._cut(end)

    def _cut(self, offset: int) -> int:
        """What was being appended when the power went: nobody was told that it is there."""
        os.ftruncate(self._descriptor, offset)
        os.fdatasync(self._descriptor)
        return offset

    def _frame(self, body: bytes, offset: int) -> bytes:
        return len(body).to_bytes(LENGTH_BYTES, "big") + _check(len(body), offset) + _digest(body, offset) + body

    def _corrupt(self, offset: int) -> CorruptFile:
        return _damage(self.path, offset, self._remedy)


class Frames:
    """The same file, read by somebody who does not own it: a daemon may append to it meanwhile. Changes nothing."""

    def __init__(self, path: Path, magic: bytes, remedy: str) -> None:
        self.path, self._magic, self._remedy = path, magic, remedy
        self.unfinished_bytes = 0  # at the end, after it was read to there: being written, or left by a crash

    def __iter__(self) -> Iterator[bytes]:
        """Body by body. Raises CorruptFile where one is damaged, OSError where the file cannot be read."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            left = size - len(self._magic)
            for _, body in _walk(descriptor, self._magic, size, self._corrupt):
                left -= HEADER_BYTES + len(body)
                yield body
            self.unfinished_bytes = left
        finally:
            os.close(descriptor)

    def _corrupt(self, offset: int) -> CorruptFile:
        return _damage(self.path, offset, self._remedy)


def _walk(
    descriptor: int, magic: bytes, size: int, corrupt: Callable[[int], CorruptFile]
) -> Iterator[tuple[int, bytes]]:
    """(offset, body) of every whole frame; ends before a torn tail."""
    if os.pread(descriptor, len(magic), 0) != magic:
        raise corrupt(0)
    offset = len(magic)
    while offset + HEADER_BYTES <= size:
        header = os.pread(descriptor, HEADER_BYTES, offset)
        length = _length(header, offset)
        if length is None:
            if _is_torn(descriptor, offset, size):
                return
            raise corrupt(offset)
        if offset + HEADER_BYTES + length > size:
            return
        body = os.pread(descriptor, length, offset + HEADER_BYTES)
        if _digest(body, offset) != header[-DIGEST_BYTES:]:
            if offset + HEADER_BYTES + length == size and _is_torn(descriptor, offset, size):
                return
            raise corrupt(offset)
        yield offset, body
        offset += HEADER_BYTES + length


def _is_torn(descriptor: int, offset: int, size: int) -> bool:
    """Can what lies from here to the end be one frame of which a disk wrote some sectors and not the others? Those read
    as zeros. No frame may begin behind it: then it is older damage."""
    if size - offset > HEADER_BYTES + FRAME_BYTES_MAX:
        return False
    tail = os.pread(descriptor, size - offset, offset)
    borders = [offset, *range(offset - offset % SECTOR_BYTES + SECTOR_BYTES, size, SECTOR_BYTES), size]
    parts = [tail[a - offset : b - offset] for a, b in itertools.pairwise(borders)]
    if all(any(part) for part in parts):
        return False
    return all(
        _length(tail[at : at + HEADER_BYTES], offset + at) is None for at in range(1, len(tail) - HEADER_BYTES + 1)
    )


def _length(header: bytes, offset: int) -> int | None:
    """None when the header is damaged."""
    length = int.from_bytes(header[:LENGTH_BYTES], "big")
    return length if header[LENGTH_BYTES : LENGTH_BYTES + CHECK_BYTES] == _check(length, offset) else None


def _damage(path: Path, offset: int, remedy: str) -> CorruptFile:
    return CorruptFile(f"{path} is damaged at byte {offset}; it was left as it is", remedy)


def _check(length: int, offset: int) -> bytes:
    return hashlib.sha256(b"length" + offset.to_bytes(8, "big") + length.to_bytes(8, "big")).digest()[:CHECK_BYTES]


def _digest(body: bytes, offset: int) -> bytes:
    return hashlib.sha256(offset.to_bytes(8, "big") + body).digest()


def _write_whole(descriptor: int, data: bytes) -> None:
    """A disk that fills up takes a part first and says so at the next write."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
