"""Held-out loss of a model on fixed sequences: the same number for the same parameters, on every host alike.

Owns which sequences those are. Refuses to know of rounds and of who asked.
"""

import torch

from intellectd.daemon.trainer.data import Text

# Small enough to stay in a core's cache at the demo's size; larger ones were not faster.
EVALUATION_BATCH = 8


def held_out_sequences(text: Text, sequences: int, context: int) -> torch.Tensor:
    """Evenly spread over the held-out text, so that no file dominates. int64 [sequences, context + 1]"""
    if sequences == 0:
        return torch.empty(0, context + 1, dtype=torch.int64)
    room = len(text.held_out) - context - 1
    starts = [index * room // max(1, sequences - 1) for index in range(sequences)]
    return torch.stack([text.held_out[at : at + context + 1] for at in starts]).long()


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, sequences: torch.Tensor) -> float:
    """Mean cross entropy per token, in nats. Leaves the model in the mode it was in."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    for batch in torch.split(sequences, EVALUATION_BATCH):
        total += float(token_loss(model, batch.to(device), "sum"))
    model.train(was_training)
    return total / (sequences.shape[0] * (sequences.shape[1] - 1))


def token_loss(model: torch.nn.Module, tokens: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross entropy of each next byte. tokens: int64 [batch, context + 1]"""
    on_gpu = tokens.device.type == "cuda"
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_gpu):
        logits = model(input_ids=tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction=reduction)
