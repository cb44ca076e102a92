"""A vector taken group by group: elements, and their encoded bytes.

Owns where a group's bytes lie and who encodes them; knows no arithmetic of its own.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from intellectd.kernels.codec import BF16, E3M0, FP32, GROUP, INT4, INT8, TOPK, Codec
from intellectd.kernels.reference import bf16, e3m0, fp32, int4, int8, topk
from intellectd.kernels.reference.bits import magnitudes


class Arithmetic(Protocol):
    """What a file of one codec provides, for one group of whole blocks."""

    def encode(self, x: Tensor) -> Tensor:
        """uint8 of fp32; what is refused is written as NaN."""
        ...

    def decode(self, piece: Tensor) -> Tensor:
        """fp32 of uint8; any bytes at all."""
        ...

    def finite(self, piece: Tensor) -> bool:
        """Whether all of it decodes to finite numbers."""
        ...


_ARITHMETIC: dict[str, Arithmetic] = {
    FP32.name: fp32,
    BF16.name: bf16,
    INT8.name: int8,
    INT4.name: int4,
    E3M0.name: e3m0,
    TOPK.name: topk,
}


def groups(elements: int) -> Iterator[tuple[int, int]]:
    """[first, last) of each group; `no_grad` is the caller's."""
    torch.set_flush_denormal(False)  # this thread's own setting; some libraries switch it when they load
    for first in range(0, elements, GROUP):
        yield first, min(first + GROUP, elements)


def decode_group(codec: Codec, enc: Tensor, first: int, last: int) -> Tensor:
    return _ARITHMETIC[codec.name].decode(_piece(codec, enc, first, last))


def group_finite(codec: Codec, enc: Tensor, first: int, last: int) -> bool:
    return _ARITHMETIC[codec.name].finite(_piece(codec, enc, first, last))


def encode_group(codec: Codec, x: Tensor, out: Tensor, first: int) -> int | None:
    """Encode x, elements from `first` on, into its place in `out`; index of the first refused element."""
    start, stop = codec.byte_range(first, first + x.numel())
    out.numpy()[start:stop] = _ARITHMETIC[codec.name].encode(x).numpy()
    refused = magnitudes(x) >= codec.refused_bits
    return first + int(refused.nonzero()[0]) if bool(refused.any()) else None


def _piece(codec: Codec, enc: Tensor, first: int, last: int) -> Tensor:
    start, stop = codec.byte_range(first, last)
    # A copy is aligned, whatever the buffer was; through numpy because 64 KiB of uint8 is above torch's grain
    return torch.from_numpy(enc.numpy()[start:stop].copy())
