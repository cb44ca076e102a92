"""Durable file writes: a reader, or a daemon after a power cut, sees the old file or the new, never half.

Owns temp file, fsync, rename, fsync of the folder, and the words for a disk that is full or read-only.
Refuses to know what the files hold.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from intellectd.daemon.errors import EXIT_PERMISSION, OperatorError

# Between two syncs of what is written in the background: so much of it may wait in the page cache, and a disk of 100
# MB/s has it in three seconds. Without them the last sync would take as long as all the writing, and a file system may
# make that of a vote wait for it.
SYNC_BYTES = 256 * 1024 * 1024

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class StorageError(OperatorError):
    """The file system refused. Nothing was overwritten."""

    exit_code = EXIT_PERMISSION


class StorageFull(StorageError):
    """No space, quota or file size left."""


class StorageReadOnly(StorageError):
    """The file system is mounted read-only, or this user may not write there."""


class FileExists(StorageError):
    """`write_new` found a file where there must be none."""


def storage_error(error: OSError, path: Path) -> StorageError:
    """The operator's words for what the kernel said about `path`."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return StorageFull(f"cannot write {path}: {reason}", f"free some space on the disk of {path.parent}")
    if error.errno in _READ_ONLY:
        return StorageReadOnly(
            f"cannot write {path}: {reason}",
            f"make {path.parent} writable for this user, or choose another folder with `--state-dir`",
        )
    return StorageError(f"cannot write {path}: {reason}", f"check {path.parent}")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a StorageError about `path`; for logs that append."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, path) from error


def make_dir(path: Path, mode: int = 0o750) -> None:
    """The folder and its parents. An existing one is left as it is."""
    with storage_errors(path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)


def fsync_dir(path: Path) -> None:
    """Makes a rename or a new name in the folder survive a power cut."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomic(path: Path, body: bytes | memoryview, mode: int = 0o600) -> None:
    """Replace or create `path` with `body`."""
    with replacing(path, mode) as file:
        file.write(body)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o600) -> Iterator[BinaryIO]:
    """A file to write into that becomes `path` when the block ends, and vanishes when the block raises."""
    with storage_errors(path), _temporary(path, mode) as (temp, file):
        yield file
        _flush(file)
        os.replace(temp, path)
        fsync_dir(path.parent)


def write_new(path: Path, body: bytes, mode: int = 0o600) -> None:
    """Create `path` with `body`, whole or not at all; raises FileExists rather than overwrite."""
    with storage_errors(path), _temporary(path, mode) as (temp, file):
        file.write(body)
        _flush(file)
        try:
            os.link(temp, path)  # unlike rename, link never replaces
        except FileExistsError:
            raise FileExists(f"{path} exists already", "it was left as it is") from None
        fsync_dir(path.parent)


@contextlib.contextmanager
def _temporary(path: Path, mode: int) -> Iterator[tuple[Path, BinaryIO]]:
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            yield temp, file
    finally:
        with contextlib.suppress(OSError):  # renamed already, or the disk is past caring
            temp.unlink()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
