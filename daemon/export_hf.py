"""Writes an anchor as a Hugging Face model directory that `transformers` (old and new) and its kin load, or as bare
tensors for a program that knows its own model.

Owns the files' names and words. Refuses to know runs: it is given a flat vector, its layout and the manifest's
`model` table.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from intellectd.daemon.export_files import CONFIG, WEIGHTS, safetensors, write_directory
from intellectd.daemon.trainer.model import llama_settings
from intellectd.kernels.layout import Layout

GENERATION = "generation_config.json"


def export_hf(theta: torch.Tensor, layout: Layout, model: Mapping[str, Any], target: Path) -> list[str]:
    """Write `target` (which must not exist, or be empty) and return the names of its files.

    Raises ModelError for a model that is no Llama, ExportError where the directory cannot be had.
    """
    files = {
        CONFIG: [_json(hf_config(model))],
        GENERATION: [_json({"_from_model_config": True, "use_cache": True})],
        WEIGHTS: safetensors(layout, _values(theta), {}),
    }
    return write_directory(target, files)


def export_tensors(theta: torch.Tensor, layout: Layout, facts: Mapping[str, str], target: Path) -> list[str]:
    """One file, with the tensors under the names that the trainer gave them. Raises ExportError."""
    return write_directory(target, {WEIGHTS: safetensors(layout, _values(theta), facts)})


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


def _values(theta: torch.Tensor) -> Any:
    return lambda slot: theta[slot.offset : slot.offset + slot.size].numpy().data


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
