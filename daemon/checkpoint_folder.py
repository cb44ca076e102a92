"""A folder of safetensors and config.json, as Hugging Face writes them: which tensors lie where in which file.

Owns reading the index and each file's header, and that nothing in them leads outside the folder or the file. Imports
no torch, reads no values, and never a pickle. Refuses to know which tensors a model has.
"""

import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from intellectd.daemon.errors import OperatorError
from intellectd.daemon.export_files import CONFIG, INDEX, WEIGHTS

CONFIG_BYTES_MAX = 1024 * 1024  # of published models a few KiB
# Of an index, and of a file's header: 100,000 tensors, which is as many as a layout has, of some 150 bytes each.
WORDS_BYTES_MAX = 32 * 1024 * 1024
LENGTH_BYTES = 8
# Bytes of an element, of all dtypes that the format has had when this was written.
DTYPES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}


class CheckpointError(OperatorError):
    """The folder cannot be imported; names the file or the tensor."""

    code = "import"


@dataclass(frozen=True)
class Stored:
    """One tensor's place: bytes [start, start + nbytes) of `file`, row by row, little-endian."""

    file: Path
    dtype: str  # as the format calls it: "F32", "BF16"
    shape: tuple[int, ...]
    start: int
    nbytes: int


def read_config(folder: Path) -> dict[str, Any]:
    """Raises CheckpointError."""
    return _table(folder / CONFIG, CONFIG_BYTES_MAX, "a checkpoint has one beside its tensors")


def read_tensors(folder: Path) -> dict[str, Stored]:
    """By name, of all files that the index lists, or of the only one. Raises CheckpointError."""
    if not (folder / INDEX).exists():
        if not (folder / WEIGHTS).exists():
            raise CheckpointError(f"{folder} holds neither {WEIGHTS} nor {INDEX}", _how_to_convert(folder))
        return read_file(folder / WEIGHTS)
    listed = _table(folder / INDEX, WORDS_BYTES_MAX, "download it again").get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError(f"{folder / INDEX} has no weight_map from tensors to files", "download it again")
    found: dict[str, Stored] = {}
    for name in sorted(dict.fromkeys(listed.values())):
        if name != os.path.basename(name) or not name.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX} names {name!r:.200}, which is no file beside it", "correct it")
        for tensor, stored in read_file(folder / name).items():
            if tensor in found:
                raise CheckpointError(f"tensor {tensor!r} lies in {found[tensor].file.name} and in {name}", "keep one")
            found[tensor] = stored
    absent = [tensor for tensor in listed if tensor not in found]
    if absent:
        where = f"{folder / INDEX} lists tensor {absent[0]!r:.200} in {listed[absent[0]]}"
        raise CheckpointError(f"{where}, which does not hold it", "download it again")
    return found


def read_file(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file. Raises CheckpointError."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if not 0 < length <= min(WORDS_BYTES_MAX, size - LENGTH_BYTES):
                raise _damaged(path, f"its header claims {length} bytes of {size}")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", "can the daemon's user read it?") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no table")
    first = LENGTH_BYTES + length
    return {name: _stored(path, name, entry, first, size) for name, entry in header.items() if name != "__metadata__"}


def _stored(path: Path, name: str, entry: Any, first: int, size: int) -> Stored:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]} if (
            dtype in DTYPES
            and all(type(length) is int and length >= 0 for length in shape)
            and 0 <= start <= end <= size - first
            and prod(shape) * DTYPES[dtype] == end - start
        ):
            return Stored(path, dtype, tuple(shape), first + start, end - start)
    raise _damaged(path, f"its header does not say where tensor {name!r:.200} lies")


def _table(path: Path, bytes_max: int, hint: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            body = file.read(bytes_max + 1)
        value = json.loads(body) if len(body) <= bytes_max else None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}"[:300], hint) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is no JSON table of at most {bytes_max} bytes", hint)
    return value


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged: {why}", "download it again")


def _how_to_convert(folder: Path) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        return "pickled weights are not read: load them with transformers and save_pretrained(…) as safetensors"
    return "name the folder that save_pretrained(…) wrote"
