"""What encoding lost of this host's own deltas: a file of fp32 under the root of the delta that it was lost from.

Owns names, room, and what may be deleted. No file is flushed: it is this host's own affair, and after a power cut a
hole in it reads as zeros, which is as if less had been lost. Refuses to know which delta was decided (SPEC P10).
"""

import mmap
import os
import re
from collections.abc import Collection
from pathlib import Path

from intellectd.daemon.atomic import make_dir, storage_errors
from intellectd.daemon.room import take_room

FLOAT_BYTES = 4
_RESIDUAL = re.compile(r"^([0-9a-f]{64})\.f32$")
_NEW_NAME = ".new.tmp"  # one at a time: deltas are frozen one after the other


class Residuals:
    def __init__(self, path: Path) -> None:
        self.path = path  # made when first used: most runs have no error feedback

    def held(self) -> tuple[bytes, ...]:
        if not self.path.is_dir():
            return ()
        names = sorted(os.listdir(self.path))
        return tuple(bytes.fromhex(found[1]) for name in names if (found := _RESIDUAL.match(name)))

    def read(self, root: bytes, elements: int) -> mmap.mmap | None:
        """Read-only memory over the file; None if there is none of this length."""
        try:
            with self._path_of(root).open("rb") as file:
                if os.fstat(file.fileno()).st_size != elements * FLOAT_BYTES:
                    return None
                return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        except OSError:
            return None

    def new(self, elements: int) -> mmap.mmap:
        """Zeros to write into; `keep` gives them their name. Raises StorageError."""
        make_dir(self.path, 0o700)
        path = self.path / _NEW_NAME
        with storage_errors(path):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                take_room(descriptor, elements * FLOAT_BYTES)  # a full disk says so here, not as SIGBUS
                return mmap.mmap(descriptor, elements * FLOAT_BYTES)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def keep(self, root: bytes, needed: Collection[bytes]) -> None:
        """What `new` gave is that of `root`; those that are not needed besides go. Raises StorageError."""
        with storage_errors(self.path):
            os.replace(self.path / _NEW_NAME, self._path_of(root))
            for other in self.held():
                if other != root and other not in needed:
                    self._path_of(other).unlink(missing_ok=True)

    def drop_new(self) -> None:
        """Raises StorageError."""
        with storage_errors(self.path):
            (self.path / _NEW_NAME).unlink(missing_ok=True)

    def _path_of(self, root: bytes) -> Path:
        return self.path / f"{root.hex()}.f32"
