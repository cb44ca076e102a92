"""The arithmetic of every kernel in plain torch: what the bits must be. `native` must give the same.

Slow and obvious on purpose. Arguments arrive checked by `ops`. Works a group at a time: below torch's 32,768
element grain an operation stays in the calling thread, where flush-to-zero is known to be off.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from intellectd.kernels.codec import (
    BLOCK,
    CANONICAL_NAN_BITS,
    CODE_MAX,
    FP32,
    GROUP,
    REFUSED_BITS_SCALE,
    ROUNDING_MAGIC,
    SCALE_BYTES,
    ZERO_BLOCK_BITS,
    Codec,
)

MAGNITUDE_MASK = 0x7FFFFFFF


def encode(codec: Codec, x: Tensor, out: Tensor) -> int | None:
    return _encode_groups(codec, out, (x[first:last] for first, last in _groups(x.numel())))


def encode_delta(codec: Codec, anchor: Tensor, local: Tensor, out: Tensor) -> tuple[float, int | None]:
    """Encode anchor - local; also its sum of squares."""
    total = 0.0

    def deltas() -> Iterator[Tensor]:
        nonlocal total
        for first, last in _groups(anchor.numel()):
            delta = anchor[first:last] - local[first:last]
            for block_sum in _block_sums_of_squares(delta):
                total += block_sum  # in order, one at a time: sum() compensates from Python 3.12 on
            yield delta

    first_refused = _encode_groups(codec, out, deltas())
    return total, first_refused


def decode(codec: Codec, enc: Tensor, out: Tensor) -> None:
    with torch.no_grad():
        for first, last in _groups(out.numel()):
            out[first:last].copy_(_decode_group(codec, enc, first, last))


def ring_hop(
    codec: Codec, incoming: Tensor | None, own: Tensor, weight: float, divisor: float | None, out: Tensor
) -> bool:
    def sums() -> Iterator[Tensor]:
        for first, last in _groups(codec.elements(own.numel())):
            t = _fp32(weight) * _decode_group(codec, own, first, last)
            if incoming is not None:
                t = _decode_group(codec, incoming, first, last) + t
            yield t if divisor is None else t / _fp32(divisor)

    return _encode_groups(codec, out, sums()) is None


def outer_step(codec: Codec, update: Tensor, theta: Tensor, momentum: Tensor, lr: float, mu: float) -> None:
    with torch.no_grad():
        for first, last in _groups(theta.numel()):
            d = _decode_group(codec, update, first, last)
            m = _fp32(mu) * momentum[first:last] + d
            momentum[first:last].copy_(m)
            theta[first:last].copy_(theta[first:last] - _fp32(lr) * (d + _fp32(mu) * m))


def subtract_into(anchor: Tensor, x: Tensor) -> None:
    with torch.no_grad():
        for first, last in _groups(x.numel()):
            x[first:last].copy_(anchor[first:last] - x[first:last])


def finite(codec: Codec, enc: Tensor) -> bool:
    """Whether every element would decode to a finite number."""
    for first, last in _groups(codec.elements(enc.numel())):
        piece = _piece(codec, enc, first, last)
        if codec is FP32:
            bits, refused = piece.view(torch.int32), codec.refused_bits
        else:
            bits, refused = piece[: _scale_bytes(first, last)].view(torch.int32), REFUSED_BITS_SCALE
        if bool(((bits & MAGNITUDE_MASK) >= refused).any()):
            return False
    return True


def _groups(elements: int) -> Iterator[tuple[int, int]]:
    torch.set_flush_denormal(False)  # this thread's own setting; some libraries switch it when they load
    for first in range(0, elements, GROUP):
        yield first, min(first + GROUP, elements)


def _fp32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def _scale_bytes(first: int, last: int) -> int:
    return (last - first) // BLOCK * SCALE_BYTES


def _piece(codec: Codec, enc: Tensor, first: int, last: int) -> Tensor:
    start, stop = codec.byte_range(first, last)
    # A copy is aligned, whatever the buffer was; through numpy because 64 KiB of uint8 is above torch's grain
    return torch.from_numpy(enc.numpy()[start:stop].copy())


def _encode_groups(codec: Codec, out: Tensor, groups: Iterator[Tensor]) -> int | None:
    """Encode each group, taken in turn; index of the first refused element."""
    first_refused: int | None = None
    position = 0
    with torch.no_grad():
        for group in groups:
            encoded, refused = _encode_group(codec, group)
            start, stop = codec.byte_range(position, position + group.numel())
            out.numpy()[start:stop] = encoded.numpy()
            if first_refused is None and refused is not None:
                first_refused = position + refused
            position += group.numel()
    return first_refused


def _encode_group(codec: Codec, x: Tensor) -> tuple[Tensor, int | None]:
    magnitude = x.view(torch.int32) & MAGNITUDE_MASK
    refused = magnitude >= codec.refused_bits
    encoded = _encode_fp32(x, refused) if codec is FP32 else _encode_int8(x, magnitude, refused)
    return encoded, int(refused.nonzero()[0]) if bool(refused.any()) else None


def _encode_fp32(x: Tensor, refused: Tensor) -> Tensor:
    return x.view(torch.int32).masked_fill(refused, CANONICAL_NAN_BITS).view(torch.uint8)


def _encode_int8(x: Tensor, magnitude: Tensor, refused: Tensor) -> Tensor:
    absmax_bits = magnitude.view(-1, BLOCK).amax(dim=1)
    bad = refused.view(-1, BLOCK).any(dim=1)
    empty = bad | (absmax_bits < ZERO_BLOCK_BITS)
    absmax = absmax_bits.masked_fill(empty, 0x3F800000).view(torch.float32)  # 1.0: no division by zero
    scales = (absmax / _fp32(CODE_MAX)).masked_fill(empty, 0.0).view(torch.int32)
    scaled = x.view(-1, BLOCK) * (_fp32(CODE_MAX) / absmax)[:, None] + _fp32(ROUNDING_MAGIC)
    codes = (scaled.view(torch.int32) & 0xFF).masked_fill(empty[:, None], 0).to(torch.uint8)
    return torch.cat([scales.masked_fill(bad, CANONICAL_NAN_BITS).view(torch.uint8), codes.view(-1)])


def _decode_group(codec: Codec, enc: Tensor, first: int, last: int) -> Tensor:
    piece = _piece(codec, enc, first, last)
    if codec is FP32:
        return piece.view(torch.float32)
    cut = _scale_bytes(first, last)
    scale_bits = piece[:cut].view(torch.int32)
    codes = piece[cut:].view(torch.int8).view(-1, BLOCK).to(torch.float32)
    bad = (scale_bits & MAGNITUDE_MASK) >= REFUSED_BITS_SCALE
    values = codes * scale_bits.view(torch.float32)[:, None]
    return values.view(torch.int32).masked_fill(bad[:, None], CANONICAL_NAN_BITS).view(torch.float32).view(-1)


def _block_sums_of_squares(x: Tensor) -> list[float]:
    """fp64 sum per block, halves added onto halves: an order that vectorizes without choosing its own."""
    squares = x.view(-1, BLOCK).to(torch.float64)
    squares = squares * squares
    while squares.shape[1] > 1:
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    sums: list[float] = squares.view(-1).tolist()
    return sums
