"""Writes an anchor as a Hugging Face model directory that `transformers` (old and new) and its kin load.

Owns the files' names and words, and that a directory is either whole or not there. Refuses to know runs: it is
given a flat vector, its layout and the manifest's `model` table.
"""

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from intellectd.daemon.errors import OperatorError
from intellectd.daemon.trainer.model import llama_settings
from intellectd.kernels.layout import Layout

CONFIG, GENERATION, WEIGHTS = "config.json", "generation_config.json", "model.safetensors"
FLOAT_BYTES = 4


class ExportError(OperatorError):
    """The directory cannot be written; names it."""


def export_hf(theta: torch.Tensor, layout: Layout, model: Mapping[str, Any], target: Path) -> list[str]:
    """Write `target` (which must not exist, or be empty) and return the names of its files.

    Raises ModelError for a model that is no Llama, ExportError where the directory cannot be had.
    """
    config = hf_config(model)
    _refuse_occupied(target)
    files = {
        CONFIG: [_json(config)],
        GENERATION: [_json({"_from_model_config": True, "use_cache": True})],
        WEIGHTS: _safetensors(theta, layout),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_directory(target, files)
    except OSError as error:
        raise ExportError(
            f"cannot write {target}: {error.strerror or error}", "choose another path, or free space"
        ) from error
    return list(files)


def hf_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Every word in both dialects: transformers 4 reads rope_theta and torch_dtype, 5 rope_parameters and dtype."""
    settings = llama_settings(model)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **settings,
        "head_dim": settings["hidden_size"] // settings["num_attention_heads"],
        "rope_parameters": {"rope_type": "default", "rope_theta": settings["rope_theta"]},
        "torch_dtype": "float32",
        "dtype": "float32",
        "use_cache": True,
    }


def _safetensors(theta: torch.Tensor, layout: Layout) -> Iterator[bytes | memoryview]:
    """The file in pieces straight out of the vector: the safetensors package would copy the whole model first."""
    # Loaders of before 2024 refuse a file that does not say whose tensors it holds.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for slot in layout.slots:
        start, end = end, end + slot.size * FLOAT_BYTES
        header[slot.name] = {"dtype": "F32", "shape": list(slot.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for the data to be aligned
    yield struct.pack("<Q", len(text)) + text
    for slot in layout.slots:
        yield theta[slot.offset : slot.offset + slot.size].numpy().data


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _refuse_occupied(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        what = "is not empty" if target.is_dir() else "is a file"
        raise ExportError(f"{target} {what}; nothing was written", "name a directory that does not exist yet")


def _write_directory(target: Path, files: Mapping[str, Iterable[bytes | memoryview]]) -> None:
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
