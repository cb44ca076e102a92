"""The built-in model: a Llama of the manifest's shape from `transformers`, seeded, on the best device there is.

Owns the translation of a manifest's `model` table. Refuses to know how it is trained. Importing this file does
not import `transformers`, which takes seconds; building a model does.
"""

from collections.abc import Mapping
from typing import Any

import torch

from intellectd.daemon.sdk.errors import IntellectdError

CORRECT_IT = "correct [model] in the run.toml that `intellectd init` takes"


class ModelError(IntellectdError):
    """The manifest describes no model that the built-in trainer can build."""


def llama_settings(table: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's words in those of `transformers.LlamaConfig`; also what an export writes."""
    if table.get("kind") != "llama":
        raise ModelError(
            f'the run\'s model is of kind {table.get("kind")!r}, the built-in trainer only builds "llama"',
            'set trainer = "external" in the daemon\'s config and attach a training loop with intellectd.DiLoCo',
        )
    try:
        settings = _llama_words(table)
    except KeyError as error:
        raise ModelError(f"the run's model lacks {error.args[0]!r}", CORRECT_IT) from error
    except (TypeError, ValueError) as error:
        raise ModelError(f"the run's model is not usable: {error}", CORRECT_IT) from error
    hidden, heads, kv_heads = (settings[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if hidden % (2 * heads) or heads % kv_heads:
        raise ModelError(
            f"hidden_size {hidden} is not a multiple of twice the {heads} heads, or they not of {kv_heads} kv_heads",
            CORRECT_IT,
        )
    return settings


def _llama_words(table: Mapping[str, Any]) -> dict[str, Any]:
    heads = int(table["heads"])
    return {
        "vocab_size": int(table["vocab_size"]),
        "hidden_size": int(table["hidden_size"]),
        "intermediate_size": int(table["intermediate_size"]),
        "num_hidden_layers": int(table["layers"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(table.get("kv_heads", heads)),
        "max_position_embeddings": int(table["context"]),
        "rms_norm_eps": float(table.get("norm_eps", 1e-6)),
        "rope_theta": float(table.get("rope_theta", 10000.0)),
        "tie_word_embeddings": bool(table.get("tie_embeddings", False)),
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "initializer_range": float(table.get("initializer_range", 0.02)),
        # Bytes are the tokens: none of the 256 is set apart.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def build_model(table: Mapping[str, Any], seed: int, device: str | None = None) -> torch.nn.Module:
    """The same initial parameters on every host: the random numbers are drawn on the CPU."""
    settings = llama_settings(table)
    try:
        from transformers.models.llama import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise ModelError(
            "the built-in trainer needs the `transformers` package", "pip install 'intellectd[trainer]'"
        ) from error
    torch.manual_seed(seed)
    theta = settings.pop("rope_theta")
    config = LlamaConfig(**settings, use_cache=False, rope_parameters={"rope_type": "default", "rope_theta": theta})
    model: torch.nn.Module = LlamaForCausalLM(config)
    return model.to(device or best_device()).train()


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
