"""The outer optimizer's settings as a trainer writes them. Owns their names, defaults and checks.

Refuses to know the arithmetic (kernels do) and, in a run with peers, is not asked: there the manifest decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intellectd.daemon.sdk.errors import ModelUnsupported

# By roster size, from the DiLoCo scaling laws' best outer learning rates (arXiv 2503.09799); momentum as in
# every published DiLoCo.
LR_BY_PEERS = ((1, 0.4), (2, 0.6), (4, 0.6), (8, 0.8))
MOMENTUM = 0.9


@dataclass(frozen=True)
class Nesterov:
    """`lr` is a number, or pairs of (peers from which on, lr)."""

    lr: float | Sequence[tuple[int, float]] = LR_BY_PEERS
    momentum: float = MOMENTUM
    codec: str = "int8"

    def lr_for(self, peers: int) -> float:
        """Of the largest entry that is not above `peers`; of the smallest where all are."""
        if isinstance(self.lr, int | float):
            return float(self.lr)
        table = sorted(self.lr)
        return ([lr for size, lr in table if size <= peers] or [table[0][1]])[-1]


def outer_from_manifest(table: Mapping[str, Any]) -> Nesterov:
    """The manifest's `outer` table."""
    lr = table.get("lr", LR_BY_PEERS)
    return Nesterov(
        lr=lr if isinstance(lr, int | float) else tuple((int(size), float(rate)) for size, rate in lr),
        momentum=float(table.get("momentum", MOMENTUM)),
        codec=str(table.get("codec", "int8")),
    )


def outer_of(given: object) -> Nesterov:
    """None, a Nesterov, or (torchft's way) a torch.optim.SGD with nesterov=True over the same parameters."""
    if given is None:
        return Nesterov()
    if isinstance(given, Nesterov):
        return given
    groups = getattr(given, "param_groups", None)
    wanted = {"nesterov": True, "dampening": 0, "weight_decay": 0, "maximize": False}
    if isinstance(groups, list) and len(groups) == 1 and all(groups[0].get(k) == v for k, v in wanted.items()):
        return Nesterov(lr=float(groups[0]["lr"]), momentum=float(groups[0]["momentum"]))
    raise ModelUnsupported(
        f"outer_optimizer is a {type(given).__name__}; only Nesterov momentum is agreed on between peers",
        "pass intellectd.Nesterov(lr=..., momentum=...) or one-group torch.optim.SGD(..., nesterov=True)",
    )
