"""What the codecs share: magnitudes as integers, rounding, constants as fp32.

All comparisons of magnitudes are of integers: they have no order to choose, and NaN and infinity are merely large.
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import CANONICAL_NAN_BITS, ROUNDING_MAGIC, ZERO_BITS

MAGNITUDE_MASK = 0x7FFFFFFF
ONE_BITS = 0x3F800000


def fp32(value: float) -> Tensor:
    """Whatever dtype and device a program has made torch's default: so in all of the reference."""
    return torch.tensor(value, dtype=torch.float32, device="cpu")


def magnitudes(x: Tensor) -> Tensor:
    """Bits of |x|, int32."""
    return x.view(torch.int32) & MAGNITUDE_MASK


def rounded(x: Tensor) -> Tensor:
    """The integer nearest to each x (halves to even), in the low bits of an int32; |x| below 2**22."""
    return (x + fp32(ROUNDING_MAGIC)).view(torch.int32)


def to_bf16(x: Tensor) -> Tensor:
    """bf16 bits of fp32 numbers (no NaN), rounded half to even; int32."""
    bits = x.view(torch.int32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


def from_bf16(bits: Tensor) -> Tensor:
    """fp32 numbers of bf16 bits (int32)."""
    return (bits << 16).view(torch.float32)


def read_u16(piece: Tensor) -> Tensor:
    """Little-endian pairs of bytes as int32."""
    pairs = piece.view(-1, 2).to(torch.int32)
    return pairs[:, 0] | (pairs[:, 1] << 8)


def write_u16(values: Tensor) -> Tensor:
    flat = values.reshape(-1)
    return torch.stack([flat & 0xFF, (flat >> 8) & 0xFF], dim=1).to(torch.uint8).view(-1)


def or_nan(x: Tensor, bad: Tensor) -> Tensor:
    """x, with the canonical NaN where `bad`."""
    return x.view(torch.int32).masked_fill(bad, CANONICAL_NAN_BITS).view(torch.float32)


def unit_maxima(magnitude: Tensor, refused_bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: its largest magnitude, 1.0 in place of what has no scale; whether it is refused; whether empty.

    A row that is refused is also empty: it has no codes.
    """
    most = magnitude.amax(dim=1)
    refused = most >= refused_bits
    empty = refused | (most < ZERO_BITS)
    return most.masked_fill(empty, ONE_BITS).view(torch.float32), refused, empty
