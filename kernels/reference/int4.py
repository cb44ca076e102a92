"""int4: per 64 elements a bf16 scale, absmax / 7 rounded, and the multiples of it from -7 to 7.

Codes are multiples of the scale as it is sent, so its rounding costs nothing. Of a group: all scales, then nibbles
(two's complement).
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import (
    CANONICAL_NAN_BITS_BF16,
    INT4,
    INT4_CODE_MAX,
    INT4_REFUSED_BITS_SCALE,
    SMALL_BLOCK,
    SMALL_BLOCKS,
)
from intellectd.kernels.reference.bits import (
    fp32,
    from_bf16,
    magnitudes,
    or_nan,
    read_u16,
    rounded,
    to_bf16,
    unit_maxima,
    write_u16,
)
from intellectd.kernels.reference.nibbles import pack, unpack


def encode(x: Tensor) -> Tensor:
    rows = x.view(-1, SMALL_BLOCK)
    absmax, refused, empty = unit_maxima(magnitudes(rows), INT4.refused_bits)
    scales = to_bf16(absmax / fp32(INT4_CODE_MAX))
    codes = rounded(rows * (fp32(1.0) / from_bf16(scales))[:, None]).masked_fill(empty[:, None], 0)
    head = scales.masked_fill(empty, 0).masked_fill(refused, CANONICAL_NAN_BITS_BF16)
    return torch.cat([write_u16(head), pack(codes)])


def decode(piece: Tensor) -> Tensor:
    scales, nibbles = _split(piece)
    codes = (unpack(nibbles) ^ 8) - 8
    values = codes.view(-1, SMALL_BLOCK).float() * from_bf16(scales)[:, None]
    return or_nan(values, _bad(scales)[:, None]).view(-1)


def finite(piece: Tensor) -> bool:
    return not bool(_bad(_split(piece)[0]).any())


def _split(piece: Tensor) -> tuple[Tensor, Tensor]:
    cut = piece.numel() // INT4.block_bytes * 2 * SMALL_BLOCKS
    return read_u16(piece[:cut]), piece[cut:]


def _bad(scales: Tensor) -> Tensor:
    return (scales & 0x7FFF) >= INT4_REFUSED_BITS_SCALE
