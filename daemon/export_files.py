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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from intellectd.daemon.atomic import SYNC_BYTES
from intellectd.daemon.errors import OperatorError
from intellectd.kernels.layout import Layout, Slot

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SPOOLS = "exports"  # in the state directory: what the command line fetches from there, in a folder a run
PIECE_ELEMENTS = 4 * 1024 * 1024  # read, cast and written at once: 16 MiB of fp32
SHARD_BYTES = 5 * 10**9  # as transformers 4 saves models
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
Pieces = Iterable[bytes | memoryview]
Foothold = tuple[str, int, int]  # a directory, its device and its inode


class ExportError(OperatorError):
    """The directory cannot be written; names it."""


class ForbiddenHere(ExportError):
    """This process may not write there; another one of this host may."""


@dataclass(frozen=True)
class Values:
    """The vector's elements as a file is to hold them."""

    dtype: str  # as the format calls it
    element_bytes: int
    read: Callable[[int, int], memoryview]  # (first element, how many): their bytes, little-endian


def weight_files(layout: Layout, values: Values, facts: Mapping[str, str], shard_bytes: int) -> dict[str, Pieces]:
    """Names, and each file in pieces: one file, or several of at most `shard_bytes` (or one tensor) and their index, as
    transformers saves them. A piece is read when it is written: memory is one piece."""
    shards = _shards(layout.slots, values.element_bytes, shard_bytes)
    if len(shards) == 1:
        return {WEIGHTS: safetensors(shards[0], values, facts)}
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    index = {
        "metadata": {"total_size": layout.parameters * values.element_bytes},
        "weight_map": {slot.name: name for name, slots in zip(names, shards, strict=True) for slot in slots},
    }
    files: dict[str, Pieces] = {
        name: safetensors(slots, values, facts) for name, slots in zip(names, shards, strict=True)
    }
    return {**files, INDEX: [(json.dumps(index, indent=2) + "\n").encode()]}


def safetensors(slots: Sequence[Slot], values: Values, facts: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """One file, in pieces straight out of the vector: the safetensors package would copy the whole model first."""
    # Loaders of before 2024 refuse a file that does not say whose tensors it holds.
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **facts}}
    end = 0
    for slot in slots:
        start, end = end, end + slot.size * values.element_bytes
        header[slot.name] = {"dtype": values.dtype, "shape": list(slot.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for the data to be aligned
    yield struct.pack("<Q", len(text)) + text
    for slot in slots:
        for first in range(slot.offset, slot.offset + slot.size, PIECE_ELEMENTS):
            yield values.read(first, min(PIECE_ELEMENTS, slot.offset + slot.size - first))


def _shards(slots: Sequence[Slot], element_bytes: int, shard_bytes: int) -> list[list[Slot]]:
    """In order, each as full as it may be."""
    shards: list[list[Slot]] = [[]]
    size = 0
    for slot in slots:
        if shards[-1] and size + slot.size * element_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(slot)
        size += slot.size * element_bytes
    return shards


def write_directory(target: Path, files: Mapping[str, Pieces], check: Callable[[], None] = lambda: None) -> list[str]:
    """`target` must not exist, or be empty. Returns the names of its files. Raises ExportError, and what `check`
    raises, which is called before each file and once more before the directory gets its name."""
    refuse_occupied(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(target, files, check)
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


def _write_whole(target: Path, files: Mapping[str, Pieces], check: Callable[[], None]) -> None:
    """All of it under a temporary name, on disk, then one rename (which replaces an empty directory)."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, pieces in files.items():
            check()
            with (temporary / name).open("wb") as file:
                _write_pieces(file, pieces)
        temporary.chmod(0o755)  # mkdtemp's 0700 would lock out whoever the model is for
        _sync_directory(temporary)
        check()
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_directory(target.parent)


def _write_pieces(file: BinaryIO, pieces: Pieces) -> None:
    unsynced = 0
    for piece in pieces:
        file.write(piece)
        unsynced += memoryview(piece).nbytes
        if unsynced >= SYNC_BYTES:
            file.flush()
            os.fdatasync(file.fileno())
            unsynced = 0
    file.flush()
    os.fsync(file.fileno())


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
