"""int8: per block of 256 an fp32 scale, absmax / 127, and the multiples of it, rounded half to even.

Of a group: all scales, then all codes.
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import BLOCK, CANONICAL_NAN_BITS, CODE_MAX, INT8, REFUSED_BITS_SCALE
from intellectd.kernels.reference.bits import MAGNITUDE_MASK, fp32, magnitudes, or_nan, rounded, unit_maxima


def encode(x: Tensor) -> Tensor:
    blocks = x.view(-1, BLOCK)
    absmax, refused, empty = unit_maxima(magnitudes(blocks), INT8.refused_bits)
    scales = (absmax / fp32(CODE_MAX)).masked_fill(empty, 0.0).view(torch.int32)
    codes = rounded(blocks * (fp32(CODE_MAX) / absmax)[:, None]) & 0xFF
    head = scales.masked_fill(refused, CANONICAL_NAN_BITS).view(torch.uint8)
    return torch.cat([head, codes.masked_fill(empty[:, None], 0).to(torch.uint8).view(-1)])


def decode(piece: Tensor) -> Tensor:
    scales, codes = _split(piece)
    values = codes.view(torch.int8).view(-1, BLOCK).to(torch.float32) * scales.view(torch.float32)[:, None]
    return or_nan(values, _bad(scales)[:, None]).view(-1)


def finite(piece: Tensor) -> bool:
    return not bool(_bad(_split(piece)[0]).any())


def _split(piece: Tensor) -> tuple[Tensor, Tensor]:
    cut = piece.numel() // INT8.block_bytes * 4
    return piece[:cut].view(torch.int32), piece[cut:]


def _bad(scales: Tensor) -> Tensor:
    return (scales & MAGNITUDE_MASK) >= REFUSED_BITS_SCALE
