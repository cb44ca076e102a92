"""e3m0: a sign and three bits of exponent, as Streaming DiLoCo sends outer gradients (arXiv 2501.18512).

The paper leaves the scale open. Here 64 elements share one: the exponent of their largest value, in one byte. Code 0
is zero, code e from 1 to 7 the power of two 7 - e below the largest; the nearest is taken, halves away from zero.
Of a group: all scales, then nibbles with the sign on top.
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import (
    E3M0,
    E3M0_CODE_MAX,
    E3M0_SCALE_MIN,
    E3M0_SCALE_NAN,
    SMALL_BLOCK,
    SMALL_BLOCKS,
)
from intellectd.kernels.reference.bits import magnitudes, or_nan, unit_maxima
from intellectd.kernels.reference.nibbles import pack, unpack

_HALF_OCTAVE = 0x400000  # of the mantissa: from 1.5 up the next power of two is nearer


def encode(x: Tensor) -> Tensor:
    magnitude = magnitudes(x.view(-1, SMALL_BLOCK))
    absmax, refused, empty = unit_maxima(magnitude, E3M0.refused_bits)
    scales = (absmax.view(torch.int32) + _HALF_OCTAVE) >> 23
    bottom = (scales - E3M0_CODE_MAX)[:, None]  # half of the smallest value: what is nearer to zero is below it
    codes = (((magnitude + _HALF_OCTAVE) >> 23) - bottom).clamp(1, E3M0_CODE_MAX)
    codes = codes.masked_fill((magnitude >> 23) < bottom, 0)
    codes = codes | torch.where((codes != 0) & (x.view(-1, SMALL_BLOCK) < 0), 8, 0)
    head = scales.masked_fill(empty, 0).masked_fill(refused, E3M0_SCALE_NAN)
    return torch.cat([head.to(torch.uint8), pack(codes.masked_fill(empty[:, None], 0))])


def decode(piece: Tensor) -> Tensor:
    scales, nibbles = _split(piece)
    codes = unpack(nibbles).view(-1, SMALL_BLOCK)
    exponents = scales[:, None] - E3M0_CODE_MAX + (codes & 7)
    zero = ((codes & 7) == 0) | (scales < E3M0_SCALE_MIN)[:, None]
    values = (exponents << 23).masked_fill(zero, 0).view(torch.float32)
    values = torch.where((codes & 8) != 0, -values, values).masked_fill(zero, 0.0)
    return or_nan(values, (scales == E3M0_SCALE_NAN)[:, None]).view(-1)


def finite(piece: Tensor) -> bool:
    return not bool((_split(piece)[0] == E3M0_SCALE_NAN).any())


def _split(piece: Tensor) -> tuple[Tensor, Tensor]:
    cut = piece.numel() // E3M0.block_bytes * SMALL_BLOCKS
    return piece[:cut].to(torch.int32), piece[cut:]
