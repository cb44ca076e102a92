"""A state (theta, momentum) as a safetensors file: written atomically, checked before it is believed.

Owns the file's form: two flat F32 vectors, and in the metadata the round and the state's digest. Every byte is
under a check, the header's too. Refuses to know whether the state is the agreed one: the log says which it must be.
"""

import json
import mmap
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from intellectd.daemon.atomic import StorageFull, storage_errors
from intellectd.daemon.store.frame_file import CorruptFile
from intellectd.kernels.digest import LEAF_BYTES, leaf_hash, state_digest, state_root

LENGTH_BYTES = 8  # of the header, little-endian, as safetensors has it
HEADER_BYTES_MAX = 64 * 1024  # two tensors and metadata take about 300 bytes
ELEMENT_BYTES = 4
PIECE_BYTES = 16 * 1024 * 1024  # read at once
ALIGNMENT_BYTES = 8  # safetensors pads its header to this, so that the vectors are aligned when mapped


@dataclass(frozen=True)
class State:
    theta: torch.Tensor
    momentum: torch.Tensor


@dataclass(frozen=True)
class Snapshot:
    """What a file holds: the state after `round`, and its digest, which was computed anew."""

    state: State
    digest: bytes


def snapshot_bytes(elements: int) -> int:
    return 2 * elements * ELEMENT_BYTES + HEADER_BYTES_MAX


def check_room(folder: Path, wanted_bytes: int, spare_bytes: int) -> None:
    """Raises StorageFull before a snapshot takes the room that the log and the next updates need."""
    left = free_bytes(folder)
    if left < wanted_bytes + spare_bytes:
        raise StorageFull(
            f"cannot write a snapshot to {folder}: {left // 2**20} MiB are free, it takes {wanted_bytes // 2**20} MiB "
            f"and {spare_bytes // 2**20} MiB are kept for the next rounds",
            f"free some space on the disk of {folder}",
        )


def free_bytes(folder: Path) -> int:
    """Raises StorageError."""
    with storage_errors(folder):
        free = os.statvfs(folder)
    return free.f_bavail * free.f_frsize


def read_snapshot(path: Path, elements: int, round_: int) -> Snapshot:
    """Both vectors, in memory. Raises CorruptFile or StorageError."""
    with storage_errors(path), path.open("rb", buffering=0) as file:
        length, digest = _read_header(path, file, elements, round_)
        _check_size(path, file, length, elements)
        state = State(torch.empty(elements), torch.empty(elements))
        for vector in (state.theta, state.momentum):
            if not _read_into(file, bytes_of(vector)):
                raise damaged(path, "it ended while it was read")
    if state_digest(state.theta, state.momentum) != digest:
        raise damaged(path, "its vectors do not have the digest that it names")
    return Snapshot(state, digest)


def check_snapshot(path: Path, elements: int, round_: int) -> bytes:
    """The digest of a file whose every byte is right, read in parts. Raises CorruptFile or StorageError."""
    with storage_errors(path), path.open("rb", buffering=0) as file:
        length, digest = _read_header(path, file, elements, round_)
        _check_size(path, file, length, elements)
        leaves, whole = list[bytes](), memoryview(bytearray(LEAF_BYTES))
        for _vector in range(2):
            for start in range(0, elements * ELEMENT_BYTES, LEAF_BYTES):
                leaf = whole[: min(LEAF_BYTES, elements * ELEMENT_BYTES - start)]
                if not _read_into(file, leaf):
                    raise damaged(path, "it ended while it was read")
                leaves.append(leaf_hash(leaf))
    if state_root(leaves) != digest:
        raise damaged(path, "its vectors do not have the digest that it names")
    return digest


def header_of(path: Path, elements: int, round_: int) -> bytes:
    """The digest that a file names, if its header is that of such a state. Raises CorruptFile or StorageError."""
    with storage_errors(path), path.open("rb", buffering=0) as file:
        return _read_header(path, file, elements, round_)[1]


def damaged(path: Path, why: str) -> CorruptFile:
    return CorruptFile(
        f"snapshot {path} is damaged: {why}; it was left as it is",
        f"move {path} away: the daemon then starts from an older one or fetches the state from its peers",
    )


def extent_of(path: Path, part: str) -> tuple[int, int]:
    """Where in the file one vector's bytes begin, or both as "state", and how many. Raises CorruptFile or OSError."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= HEADER_BYTES_MAX:
            raise damaged(path, f"its header claims {length} bytes")
        try:
            header = json.loads(file.read(length))
            first, last = ("theta", "momentum") if part == "state" else (part, part)
            start, end = int(header[first]["data_offsets"][0]), int(header[last]["data_offsets"][1])
        except (ValueError, KeyError, TypeError) as error:
            raise damaged(path, f"its header is none ({type(error).__name__})") from error
        start, end = LENGTH_BYTES + length + start, LENGTH_BYTES + length + end
        if not LENGTH_BYTES + length <= start <= end <= os.fstat(file.fileno()).st_size:
            raise damaged(path, "it is shorter than its header says")
    return start, end - start


def part_of(path: Path, part: str) -> memoryview:
    """The same bytes, mapped. Raises CorruptFile or OSError."""
    start, count = extent_of(path, part)
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    return memoryview(memory)[start : start + count]


def header_bytes(elements: int, round_: int, digest: bytes) -> bytes:
    """The one header that a file of ours can have: whoever reads it compares all of it."""
    size = elements * ELEMENT_BYTES
    header = {
        "__metadata__": {"format": "pt", "intellectd": "state-1", "round": str(round_), "digest": digest.hex()},
        "theta": {"dtype": "F32", "shape": [elements], "data_offsets": [0, size]},
        "momentum": {"dtype": "F32", "shape": [elements], "data_offsets": [size, 2 * size]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def bytes_of(vector: torch.Tensor) -> memoryview:
    view: memoryview = vector.numpy().data
    return view.cast("B")


def _read_header(path: Path, file: BinaryIO, elements: int, round_: int) -> tuple[int, bytes]:
    """(its length, the digest that it names)."""
    length = int.from_bytes(file.read(LENGTH_BYTES), "little")
    if not 0 < length <= HEADER_BYTES_MAX:
        raise damaged(path, f"its header claims {length} bytes")
    header = file.read(length)
    named = re.search(rb'"digest":"([0-9a-f]{64})"', header)
    digest = bytes.fromhex(named[1].decode()) if named else b""
    if not named or length.to_bytes(LENGTH_BYTES, "little") + header != header_bytes(elements, round_, digest):
        raise damaged(path, f"its header is not that of a state of {elements} elements after round {round_}")
    return length, digest


def _check_size(path: Path, file: BinaryIO, header_length: int, elements: int) -> None:
    size = os.fstat(file.fileno()).st_size
    expected = LENGTH_BYTES + header_length + 2 * elements * ELEMENT_BYTES
    if size != expected:
        raise damaged(path, f"it has {size} bytes, not {expected}")


def _read_into(file: BinaryIO, view: memoryview) -> bool:
    while view:
        count = file.readinto(view[:PIECE_BYTES])  # type: ignore[attr-defined]
        if not count:
            return False
        view = view[count:]
    return True
