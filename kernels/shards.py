"""Where the shard of a tensor that one rank holds lies in the flat vector: ranks write theirs straight into the arena.

Owns the arithmetic of sharded tensors as torch's DTensor has it (`Shard(dim)`, which FSDP2 uses with dim 0): a
dimension is cut into as many equal pieces as there are ranks, rounded up, so the last ranks may have less or nothing.
Refuses to know processes and process groups; does not import torch. Raises LayoutError.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from intellectd.kernels.layout import LayoutError, Slot

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """One placement: dimension `dim` divided among `ranks`, of which this is number `rank`."""

    dim: int
    ranks: int
    rank: int


@dataclass(frozen=True)
class Box:
    """A part of a tensor: elements [offset, offset + extent) of each dimension."""

    offsets: tuple[int, ...]
    extents: tuple[int, ...]

    @property
    def empty(self) -> bool:
        return 0 in self.extents


def box_of(shape: Sequence[int], cuts: Sequence[Cut]) -> Box:
    """What is left of a tensor after each cut in turn (the mesh's dimensions, outermost first)."""
    offsets, extents = [0] * len(shape), list(shape)
    for cut in cuts:
        if not 0 <= cut.dim < len(shape) or not 0 <= cut.rank < cut.ranks:
            raise LayoutError(f"{cut} does not fit a tensor of shape {tuple(shape)}")
        piece = -(-extents[cut.dim] // cut.ranks)
        start = min(cut.rank * piece, extents[cut.dim])
        offsets[cut.dim] += start
        extents[cut.dim] = min(piece, extents[cut.dim] - start)
    return Box(tuple(offsets), tuple(extents))


def ranges_of(slot: Slot, box: Box) -> Iterator[tuple[int, int]]:
    """The runs [first, last) of the flat vector that the box is, rising; one run for a cut of dimension 0."""
    _check(slot, box)
    if box.empty:
        return
    strides = _strides(slot.shape)
    inner = len(slot.shape)  # dimensions from here on are whole, so they lie in one run
    while inner > 0 and box.extents[inner - 1] == slot.shape[inner - 1]:
        inner -= 1
    run = max(0, inner - 1)
    length = box.extents[run] * strides[run] if slot.shape else 1
    start = slot.offset + sum(offset * stride for offset, stride in zip(box.offsets, strides, strict=True))
    for place in product(*(range(extent) for extent in box.extents[:run])):
        first = start + sum(index * stride for index, stride in zip(place, strides, strict=False))
        yield first, first + length


def view_of(flat: "Tensor", slot: Slot, box: Box) -> "Tensor":
    """The shard's place in the flat vector, of the shard's own shape: copy into it, or out of it."""
    _check(slot, box)
    whole = flat[slot.offset : slot.offset + slot.size].view(slot.shape)
    return whole[tuple(slice(o, o + n) for o, n in zip(box.offsets, box.extents, strict=True))]


def _strides(shape: Sequence[int]) -> list[int]:
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * shape[dim + 1]
    return strides


def _check(slot: Slot, box: Box) -> None:
    fits = len(box.offsets) == len(box.extents) == len(slot.shape) and all(
        min(offset, extent) >= 0 and offset + extent <= whole
        for offset, extent, whole in zip(box.offsets, box.extents, slot.shape, strict=True)
    )
    if not fits:
        raise LayoutError(f"{box} is no part of tensor {slot.name!r} {slot.shape}")
