"""Where the part of a parameter that this rank holds lies in the flat vector: all of it, or a DTensor's shard.

Owns reading placements of torch's DTensor (FSDP2's `fully_shard`, HSDP, tensor parallelism). Refuses to know how ranks
talk; the arithmetic is kernels/shards.py.
"""

from dataclasses import dataclass
from typing import Any

import torch

from intellectd.daemon.sdk.errors import ModelUnsupported
from intellectd.kernels.layout import Slot
from intellectd.kernels.shards import Box, Cut, box_of, view_of


@dataclass(frozen=True)
class Placed:
    """One parameter, seen from this rank."""

    slot: Slot
    tensor: torch.Tensor  # a DTensor where `sharded`
    box: Box
    sharded: bool
    writes: bool  # of the ranks that hold the same part, one writes it

    def local(self) -> torch.Tensor:
        """Asked anew each time: FSDP may put other memory behind a parameter."""
        local: torch.Tensor = self.tensor.to_local() if self.sharded else self.tensor  # type: ignore[attr-defined]
        return local

    def place(self, flat: torch.Tensor) -> torch.Tensor:
        return view_of(flat, self.slot, self.box)


def placed(slot: Slot, parameter: torch.Tensor, rank: int) -> Placed:
    """`rank` is this process's among those that share an arena. Raises ModelUnsupported."""
    if not hasattr(parameter, "to_local"):
        whole = Box((0,) * len(slot.shape), slot.shape)
        return Placed(slot, parameter, whole, sharded=False, writes=rank == 0)
    cuts, first = _cuts(slot.name, parameter)
    box = box_of(slot.shape, cuts) if cuts is not None else Box((0,) * len(slot.shape), (0,) * len(slot.shape))
    local = tuple(parameter.to_local().shape)
    if cuts is not None and local != box.extents:
        raise ModelUnsupported(
            f"parameter {slot.name!r} has a shard of shape {local} where {box.extents} was expected",
            "shard it with `fully_shard` along one dimension, evenly but for the last ranks",
        )
    return Placed(slot, parameter, box, sharded=True, writes=first and not box.empty)


def _cuts(name: str, parameter: Any) -> tuple[list[Cut] | None, bool]:
    """(cuts of the mesh's dimensions, outermost first; None where this rank holds nothing of it, whether this rank is
    the first of those that hold the same)."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, cuts, first = parameter.device_mesh, [], True
    at = mesh.get_coordinate()
    if at is None:
        return None, False
    for dim, placement in enumerate(parameter.placements):
        if type(placement) is Shard:
            cuts.append(Cut(placement.dim, mesh.size(dim), at[dim]))
        elif isinstance(placement, Replicate):
            first = first and at[dim] == 0
        else:
            raise ModelUnsupported(
                f"parameter {name!r} is placed as {placement}", "only Shard and Replicate can be put into one vector"
            )
    return cuts, first
