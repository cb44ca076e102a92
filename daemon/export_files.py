"""A directory of model files, whole or not there: what an export writes, here or in the command line.

Owns the safetensors form of a flat vector and the writing of a directory under one rename. Refuses to know which
files a model has. Imports no torch, so that the command line may use it.
"""

import errno
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from intellectd.daemon.errors import OperatorError
from intellectd.kernels.layout import Layout, Slot

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
FLOAT_BYTES = 4
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
Pieces = Iterable[bytes | memoryview]
Foothold = tuple[str, int, int]  # a directory, its device and its inode


class ExportError(OperatorError):
    """The directory cannot be written; names it."""


class ForbiddenHere(ExportError):
    """This process may not write there; another one of this host may."""


def safetensors(layout: Layout, values: Callable[[Slot], memoryview], facts: Mapping[str, str]) -> Iterator[Any]:
    """The file in pieces straight out of the vector: the safetensors package would copy the whole model first."""
    # Loaders of before 2024 refuse a file that does not say whose tensors it holds.
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **facts}}
    end = 0
    for slot in layout.slots:
        start, end = end, end + slot.size * FLOAT_BYTES
        header[slot.name] = {"dtype": "F32", "shape": list(slot.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for the data to be aligned
    yield struct.pack("<Q", len(text)) + text
    for slot in layout.slots:
        yield values(slot)


def write_directory(target: Path, files: Mapping[str, Pieces]) -> list[str]:
    """`target` must not exist, or be empty. Returns the names of its files. Raises ExportError."""
    refuse_occupied(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(target, files)
    except OSError as error:
        raise _not_written(target, error) from error
    return list(files)


def refuse_occupied(target: Path) -> None:
    """Raises ExportError, unless `target` does not exist or is an empty directory."""
    try:
        if target.is_dir() and not any(target.iterdir()):
            return
        occupied = target.exists() or target.is_symlink()
    except OSError as error:
        raise _not_written(target, error) from error
    if occupied:
        what = "is not empty" if target.is_dir() else "is a file"
        raise ExportError(f"{target} {what}; nothing was written", "name a directory that does not exist yet")


def _not_written(target: Path, error: OSError) -> ExportError:
    kind = ForbiddenHere if error.errno in _FORBIDDEN else ExportError
    return kind(f"cannot write {target}: {error.strerror or error}", "choose another path, or free space")


def _write_whole(target: Path, files: Mapping[str, Pieces]) -> None:
    """All of it under a temporary name, on disk, then one rename (which replaces an empty directory)."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, pieces in files.items():
            with (temporary / name).open("wb") as file:
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock out whoever the model is for
        _sync_directory(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(target.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- whether two processes see the same directory: a sandbox has a /tmp and an empty /home of its own


def foothold(target: Path) -> Foothold:
    """The deepest directory on the way to `target` that exists here, and which one it is."""
    for path in (target, *target.parents):
        try:
            status = path.stat()
        except OSError:
            continue
        return str(path), status.st_dev, status.st_ino
    return "", 0, 0


def is_same(seen: Foothold) -> bool:
    try:
        status = os.stat(seen[0])
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == seen[1:]
