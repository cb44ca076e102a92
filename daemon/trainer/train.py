"""The built-in training loop, written on the public API alone: what it can do, anybody's loop can.

Owns the inner optimizer, its schedule and what is evaluated when. Refuses to know of peers and daemons.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import intellectd
from intellectd.daemon.trainer.data import Text
from intellectd.daemon.trainer.evaluate import held_out_loss, token_loss

log = logging.getLogger("intellectd")

COSINE_FLOOR = 0.1  # of the peak learning rate, as in Llama's and most published pretraining


@dataclass(frozen=True)
class Recipe:
    """The manifest's words on inner training, with the defaults of those it may leave out."""

    batch_size: int
    context: int
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    warmup_steps: int
    clip_norm: float
    schedule: str
    rounds: int | None

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> "Recipe":
        inner = manifest["inner"]
        beta1, beta2 = inner.get("betas", (0.9, 0.95))
        return cls(
            batch_size=int(manifest["data"]["batch_size"]),
            context=int(manifest["model"]["context"]),
            lr=float(inner["lr"]),
            betas=(float(beta1), float(beta2)),
            weight_decay=float(inner.get("weight_decay", 0.1)),
            warmup_steps=int(inner.get("warmup_steps", 0)),
            clip_norm=float(inner.get("clip_norm", 1.0)),
            schedule=str(inner.get("schedule", "constant")),
            rounds=(manifest.get("until") or {}).get("rounds"),
        )

    def lr_at(self, round_number: int, step: int, steps: int, steps_taken: int) -> float:
        """Warm-up goes by this optimizer's own steps, so a late joiner's fresh one warms up too; decay goes by
        the run's round, so that all peers stand at the same point of the schedule."""
        warm = min(1.0, (steps_taken + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule != "cosine" or not self.rounds:
            return self.lr * warm
        done = min(1.0, (round_number - 1 + step / steps) / self.rounds)
        return self.lr * warm * (COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """Matrices decay, norms do not."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.lr, betas=recipe.betas)


def train(
    d: intellectd.DiLoCo, model: torch.nn.Module, optimizer: torch.optim.Optimizer, text: Text, recipe: Recipe
) -> None:
    """Until the run is finished."""
    device = next(model.parameters()).device
    places = text.positions(recipe.context)
    steps_taken, begun = 0, None
    while not d.finished:
        work, step = d.assignment, d.step
        if work is not begun:
            begun = work
            if not is_finite(optimizer):
                log.warning("the optimizer's averages hold NaN or infinity: it begins anew, as the parameters do")
                optimizer.state.clear()
                steps_taken = 0
        samples = range(step * recipe.batch_size, (step + 1) * recipe.batch_size)
        tokens = text.batch([work.position(i, places) for i in samples], recipe.context).to(device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(work.round, step, work.steps, steps_taken)
        loss = token_loss(model, tokens)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm) if recipe.clip_norm else None
        d.log(loss=loss.detach(), tokens=recipe.batch_size * recipe.context, grad_norm=norm)
        optimizer.step()
        optimizer.zero_grad()
        steps_taken += 1


@torch.no_grad()
def is_finite(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its state is. A round that ends with NaN goes without this host and the next begins from the anchor, but
    an average that holds NaN once holds it for ever, and no later round would count either."""
    averages = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    largest = [torch.linalg.vector_norm(value, math.inf) for value in averages if value.dim() > 0]
    return not largest or math.isfinite(torch.stack(largest).max().item())


class Evaluator:
    """For `on_round`: tells the run each new anchor's held-out loss, and remembers them."""

    def __init__(self, model: torch.nn.Module, sequences: torch.Tensor) -> None:
        self._model, self._sequences = model, sequences
        self.losses: list[float] = []

    def __call__(self, d: intellectd.DiLoCo) -> None:
        if d.wants_evaluation and d.holds_anchor and len(self._sequences):
            self.losses.append(held_out_loss(self._model, self._sequences))
            d.evaluated(self.losses[-1])
