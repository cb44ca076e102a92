"""Pieces of files that were read lately, so that several who ask for the same cost one reading of the disk.

Owns a bounded number of bytes and who reads; what is being read is waited for, not read again. Files are known by
device, inode and time of change: states and updates are replaced, never changed. Refuses to know who asks.
"""

import os
import threading
from collections import OrderedDict
from pathlib import Path

from intellectd.kernels.digest import LEAF_BYTES

# A joiner has at most 64 leaves of 1 MiB in a request (protocol/pieces.py): who is less far apart shares a reading.
HOT_BYTES_MAX = 64 * LEAF_BYTES
Key = tuple[int, int, int, int]  # device, inode, nanoseconds, offset


class HotPieces:
    def __init__(self, bytes_max: int = HOT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._changed = threading.Condition()
        self._pieces: OrderedDict[Key, bytes] = OrderedDict()  # the one that was asked for last is last
        self._reading: set[Key] = set()
        self.bytes = 0
        self.disk_reads = 0

    def piece(self, key: Key, descriptor: int, length: int) -> bytes:
        """`length` bytes from the key's offset on. Any thread. Raises OSError."""
        with self._changed:
            while key in self._reading:
                self._changed.wait()  # ends with the reading, whichever way that goes
            if key in self._pieces:
                self._pieces.move_to_end(key)
                return self._pieces[key]
            self._reading.add(key)
            self.disk_reads += 1
        data = None
        try:
            data = _read(descriptor, length, key[3])
        finally:
            with self._changed:
                self._reading.discard(key)
                if data is not None:
                    self._keep(key, data)
                self._changed.notify_all()
        return data

    def _keep(self, key: Key, data: bytes) -> None:
        self._pieces[key] = data
        self.bytes += len(data)
        while self.bytes > self._bytes_max:
            _old, gone = self._pieces.popitem(last=False)
            self.bytes -= len(gone)


class FileObject:
    """Bytes [start, start + nbytes) of a file, as the bulk plane serves them (bulk/interface.py: ServedObject)."""

    def __init__(self, path: Path, start: int, nbytes: int, hot: HotPieces) -> None:
        """Raises OSError."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # what is pruned meanwhile is served to its end
        seen = os.fstat(self._descriptor)
        self._id = seen.st_dev, seen.st_ino, seen.st_mtime_ns
        self._start, self._hot, self.nbytes = start, hot, nbytes

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def part(self, start: int, stop: int) -> memoryview:
        """Of [start, stop) what lies in the first piece. Raises OSError."""
        first = start - start % LEAF_BYTES
        length = min(LEAF_BYTES, self.nbytes - first)
        piece = self._hot.piece((*self._id, self._start + first), self._descriptor, length)
        return memoryview(piece)[start - first : min(stop - first, length)]


def _read(descriptor: int, length: int, offset: int) -> bytes:
    parts = []
    while length:
        data = os.pread(descriptor, length, offset)
        if not data:
            raise OSError("the file is shorter than it was")
        parts.append(data)
        length, offset = length - len(data), offset + len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)
