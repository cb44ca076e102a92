"""What a token of training costs in arithmetic, and what the device could do: for MFU, where both are known.

Owns the convention (torchtitan's and PaLM's: 6 FLOPs a weight and token, attention not halved for causality) and the
table of devices. Refuses to guess: an unknown device has no MFU.
"""

from typing import Any

import torch

# Dense bf16 FLOP/s of the makers' data sheets; it is the arithmetic of the built-in trainer on a GPU.
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA GeForce RTX 4090": 165e12,
}
OTHERS = ("MIG", "NVL", "Laptop")  # share a name with one of these and not its speed


def flops_per_token(model: torch.nn.Module) -> float:
    """Forward and backward, of a Llama from `transformers`."""
    config: Any = model.config
    weights = sum(parameter.numel() for parameter in model.parameters())  # tied ones once
    if not config.tie_word_embeddings:
        weights -= config.vocab_size * config.hidden_size  # to look a token up costs nothing
    attention = 12 * config.num_hidden_layers * config.hidden_size * config.max_position_embeddings
    return float(6 * weights + attention)


def peak_flops(model: torch.nn.Module) -> float | None:
    device = next(model.parameters()).device
    return peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def peak_of(name: str) -> float | None:
    if any(other in name for other in OTHERS):
        return None
    return next((peak for known, peak in PEAKS.items() if name.startswith(known)), None)
