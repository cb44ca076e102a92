"""Writes an anchor as a Hugging Face model directory that `transformers` (old and new) and its kin load, or as bare
tensors for a program that knows its own model.

Owns the files' names and words. Refuses to know runs: it is given a flat vector, its layout and the manifest's
`model` table.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from intellectd.daemon.export_files import (
    CONFIG,
    SHARD_BYTES,
    ExportError,
    Pieces,
    Values,
    weight_files,
    write_directory,
)
from intellectd.daemon.import_hf import llama_layout
from intellectd.daemon.trainer.model import llama_settings
from intellectd.kernels.layout import Layout

GENERATION = "generation_config.json"
FLOAT_BYTES = 4  # of the vector


DTYPES = {"fp32": ("F32", torch.float32), "bf16": ("BF16", torch.bfloat16)}
Vector = Callable[[int, int], torch.Tensor]  # (first element, how many): fp32


def export_hf(
    theta: torch.Tensor | Vector,
    layout: Layout,
    model: Mapping[str, Any],
    target: Path,
    dtype: str = "fp32",
    shard_bytes: int = SHARD_BYTES,
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Write `target` (which must not exist, or be empty) and return the names of its files. `theta`: fp32, flat; or who
    reads parts of it. `dtype`: "fp32", or "bf16", rounded to nearest even. `check`: as write_directory's.

    Raises ModelError for a model that is no Llama, ExportError for tensors that are not all of its, and where the
    directory cannot be had.
    """
    config: Pieces = [_json(hf_config(model, str(DTYPES[dtype][1]).removeprefix("torch.")))]
    _check_whole(layout, model)
    generation: Pieces = [_json({"_from_model_config": True, "use_cache": True})]
    weights = weight_files(layout, _values(theta, dtype), {}, shard_bytes)
    return write_directory(target, {CONFIG: config, GENERATION: generation, **weights}, check)


def export_tensors(
    theta: torch.Tensor | Vector,
    layout: Layout,
    facts: Mapping[str, str],
    target: Path,
    dtype: str = "fp32",
    shard_bytes: int = SHARD_BYTES,
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """The tensors alone, under the names that the trainer gave them. Raises ExportError."""
    return write_directory(target, weight_files(layout, _values(theta, dtype), facts, shard_bytes), check)


def of_file(path: Path, start: int) -> Vector:
    """A vector that lies in a file from a byte on, read in parts: it may be larger than memory. Raises OSError."""
    file = path.open("rb", buffering=0)

    def read(first: int, count: int) -> torch.Tensor:
        raw = bytearray(count * FLOAT_BYTES)
        file.seek(start + first * FLOAT_BYTES)
        view = memoryview(raw)
        while view:
            got = file.readinto(view)
            if not got:
                raise OSError(f"{path} ended while it was read")
            view = view[got:]
        return torch.frombuffer(raw, dtype=torch.float32)

    return read


def hf_config(model: Mapping[str, Any], dtype: str = "float32") -> dict[str, Any]:
    """Every word in both dialects: transformers 4 reads rope_theta and torch_dtype, 5 rope_parameters and dtype."""
    settings = llama_settings(model)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **settings,
        "head_dim": settings["hidden_size"] // settings["num_attention_heads"],
        "rope_parameters": {"rope_type": "default", "rope_theta": settings["rope_theta"]},
        "torch_dtype": dtype,
        "dtype": dtype,
        "use_cache": True,
    }


def _check_whole(layout: Layout, model: Mapping[str, Any]) -> None:
    """A program of one's own may freeze some, or name them otherwise: transformers would draw those anew, at random."""
    wanted, given = ({slot.name: slot.shape for slot in found.slots} for found in (llama_layout(model), layout))
    for name in [*wanted, *given]:
        if wanted.get(name) != given.get(name):
            raise ExportError(
                f"tensor {name!r} has shape {given.get(name, 'none')} in the run, by its manifest's model "
                f"{wanted.get(name, 'none')}: its trainers' model is another one, or they froze a part",
                "use --format safetensors: the tensors that there are, for load_state_dict(..., strict=False)",
            )


def _values(theta: torch.Tensor | Vector, dtype: str) -> Values:
    name, kind = DTYPES[dtype]

    def read(first: int, count: int) -> memoryview:
        part = theta[first : first + count] if isinstance(theta, torch.Tensor) else theta(first, count)
        view: memoryview = part.to(kind).view(torch.uint8).numpy().data
        return view

    return Values(name, kind.itemsize, read)


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
