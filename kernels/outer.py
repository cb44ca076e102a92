"""The outer optimizers that peers may agree on: which vectors each needs and which numbers.

Owns names, fields and bounds. The arithmetic is in `reference/steps.py`. Scalars are rounded to fp32 when used.
"""

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Above 2**24 an integer has no fp32 of its own; a delay of a hundred is already far beyond the paper's.
DELAY_MAX = 1024


@dataclass(frozen=True)
class NesterovStep:
    """m <- mu m + d; theta <- theta - lr (d + mu m)."""

    lr: float
    mu: float


@dataclass(frozen=True)
class AverageStep:
    """theta <- theta - lr d; with lr 1 the mean of the peers' parameters."""

    lr: float = 1.0


@dataclass(frozen=True)
class DelayedNesterovStep:
    """Nesterov over `delay` updates that come one by one: each moves theta at once, by its share; the last of them
    (`turn`) moves m by the mean of all, and theta by m too.

    g <- g + d; at a turn m <- mu m + g / delay, theta <- theta - lr (d / delay + mu m), g <- 0; else
    theta <- theta - lr d / delay.
    """

    lr: float
    mu: float
    delay: int
    turn: bool


OuterStep = NesterovStep | AverageStep | DelayedNesterovStep


def step_of(optimizer: str, lr: float, mu: float) -> OuterStep:
    """The step that a record's words ask for (SPEC K10). Raises ValueError."""
    if optimizer == "nesterov":
        return NesterovStep(lr, mu)
    if optimizer == "average":
        return AverageStep(lr)
    raise ValueError(f"unknown outer optimizer {optimizer!r}; known: average, nesterov")


@dataclass(frozen=True)
class OuterVectors:
    """What a step works on, in place: fp32 vectors of one length. `momentum` is None where the optimizer has none,
    `gathered` (what came since the last turn) where it is not delayed."""

    theta: "Tensor"
    momentum: "Tensor | None" = None
    gathered: "Tensor | None" = None

    def slice(self, first: int, last: int) -> "OuterVectors":
        """Views of elements [first, last)."""
        momentum = None if self.momentum is None else self.momentum[first:last]
        gathered = None if self.gathered is None else self.gathered[first:last]
        return OuterVectors(self.theta[first:last], momentum, gathered)


def is_fp32(value: float) -> bool:
    """Whether the value has a finite nearest fp32."""
    try:
        return abs(float(struct.unpack("<f", struct.pack("<f", value))[0])) < float("inf")
    except OverflowError:
        return False


def check_step(step: OuterStep, vectors: OuterVectors) -> None:
    """Raises ValueError when a number cannot be used or a vector is missing."""
    numbers = {"lr": step.lr, "mu": getattr(step, "mu", 0.0)}
    for name, value in numbers.items():
        if not is_fp32(value):
            raise ValueError(f"{name} {value} is not a finite fp32 number")
    if vectors.momentum is None and not isinstance(step, AverageStep):
        raise ValueError(f"{type(step).__name__} needs a momentum vector")
    if isinstance(step, DelayedNesterovStep):
        if not 1 <= step.delay <= DELAY_MAX:
            raise ValueError(f"a delay is 1 to {DELAY_MAX} updates, not {step.delay}")
        if vectors.gathered is None:
            raise ValueError("DelayedNesterovStep needs the vector of gathered updates")
