"""The outer optimizer's settings as a trainer writes them. Owns their names, defaults and checks.

Refuses to know the arithmetic (kernels do) and, in a run with peers, is not asked: there the manifest decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intellectd.daemon.sdk.errors import ModelUnsupported
from intellectd.kernels.outer import AverageStep, NesterovStep, OuterStep

# By roster size, from the DiLoCo scaling laws' best outer learning rates (arXiv 2503.09799); momentum as in
# every published DiLoCo.
LR_BY_PEERS = ((1, 0.4), (2, 0.6), (4, 0.6), (8, 0.8))
MOMENTUM = 0.9


Rate = float | Sequence[tuple[int, float]]  # a number, or pairs of (peers from which on, lr)


@dataclass(frozen=True)
class Nesterov:
    """Nesterov momentum over the mean of the peers' deltas: what DiLoCo was published with."""

    lr: Rate = LR_BY_PEERS
    momentum: float = MOMENTUM
    codec: str = "int8"

    def lr_for(self, peers: int) -> float:
        return _rate_for(self.lr, peers)

    def step_for(self, peers: int) -> OuterStep:
        return NesterovStep(self.lr_for(peers), self.momentum)


@dataclass(frozen=True)
class Average:
    """The mean of the peers' parameters (lr 1: FedAvg, local SGD), or a part of the way to it."""

    lr: Rate = 1.0
    codec: str = "int8"

    def lr_for(self, peers: int) -> float:
        return _rate_for(self.lr, peers)

    def step_for(self, peers: int) -> OuterStep:
        return AverageStep(self.lr_for(peers))


def _rate_for(lr: Rate, peers: int) -> float:
    """Of the largest entry that is not above `peers`; of the smallest where all are."""
    if isinstance(lr, int | float):
        return float(lr)
    table = sorted(lr)
    return ([rate for size, rate in table if size <= peers] or [table[0][1]])[-1]


def outer_from_manifest(table: Mapping[str, Any]) -> Nesterov | Average:
    """The manifest's `outer` table."""
    given = table.get("lr", LR_BY_PEERS)
    lr = given if isinstance(given, int | float) else tuple((int(size), float(rate)) for size, rate in given)
    codec = str(table.get("codec", "int8"))
    if table.get("optimizer") == "average":
        return Average(lr, codec)
    return Nesterov(lr, float(table.get("momentum", MOMENTUM)), codec)


def outer_of(given: object) -> Nesterov | Average:
    """None, one of the above, or (torchft's way) a torch.optim.SGD with nesterov=True over the same parameters."""
    if given is None:
        return Nesterov()
    if isinstance(given, Nesterov | Average):
        return given
    groups = getattr(given, "param_groups", None)
    wanted = {"nesterov": True, "dampening": 0, "weight_decay": 0, "maximize": False}
    if isinstance(groups, list) and len(groups) == 1 and all(groups[0].get(k) == v for k, v in wanted.items()):
        return Nesterov(lr=float(groups[0]["lr"]), momentum=float(groups[0]["momentum"]))
    raise ModelUnsupported(
        f"outer_optimizer is a {type(given).__name__}; only Nesterov momentum and plain averaging are agreed on",
        "pass intellectd.Nesterov(lr=..., momentum=...), intellectd.Average() or one-group torch.optim.SGD(..., "
        "nesterov=True)",
    )
