"""topk: of each 4,096 elements the 64 largest: 12-bit indexes, 2-bit values (SparseLoCo, arXiv 2508.15706).

The flat vector is cut into runs of 4,096 where the paper has 64 x 64 tiles of a matrix; a last chunk of n blocks
sends 4 n. Of equal magnitudes the first are taken. Indexes rise. A value is a sign and one of two levels: the
magnitudes sent are split at their mean, and each part is sent as its own mean, in bf16. Sums are taken in fp64, halves
onto halves of 64 places. Nothing below 2**-100 is sent; places left over repeat the last entry, which changes nothing.
Of a chunk: the lower and the upper level, the indexes (pairs in 3 bytes), the values (four in a byte).

Bytes that break this (a level that is negative or not finite, an index that falls or lies outside, an index twice
with different values) make their whole chunk NaN.
"""

import torch
from torch import Tensor

from intellectd.kernels.codec import (
    BLOCK,
    CANONICAL_NAN_BITS_BF16,
    CHUNK,
    INFINITY_BITS_BF16,
    TOPK,
    TOPK_LEVEL_BYTES,
    TOPK_PER_BLOCK,
    ZERO_BITS,
)
from intellectd.kernels.reference.bits import from_bf16, magnitudes, or_nan, read_u16, to_bf16, write_u16

_CHUNK_BYTES = TOPK.encoded_bytes(CHUNK)
_PLACES = CHUNK // BLOCK * TOPK_PER_BLOCK


def encode(x: Tensor) -> Tensor:
    cut = x.numel() // CHUNK * CHUNK
    return torch.cat([_encode_chunks(part).view(-1) for part in _rows(x, cut, CHUNK)])


def decode(piece: Tensor) -> Tensor:
    return torch.cat([_decode_chunks(part)[0].view(-1) for part in _byte_rows(piece)])


def finite(piece: Tensor) -> bool:
    return not any(bool(_decode_chunks(part)[1].any()) for part in _byte_rows(piece))


def _rows(flat: Tensor, cut: int, width: int) -> list[Tensor]:
    """Whole chunks as rows, then the short one as a row of its own."""
    parts = [flat[:cut].view(-1, width)] if cut else []
    return parts + ([flat[cut:].view(1, -1)] if cut < flat.numel() else [])


def _byte_rows(piece: Tensor) -> list[Tensor]:
    return _rows(piece, piece.numel() // _CHUNK_BYTES * _CHUNK_BYTES, _CHUNK_BYTES)


def _encode_chunks(x: Tensor) -> Tensor:
    magnitude = magnitudes(x)
    refused = (magnitude >= TOPK.refused_bits).any(dim=1, keepdim=True)
    indexes, used = _selected(magnitude.masked_fill(refused, 0))
    last = (used.sum(dim=1, keepdim=True) - 1).clamp_min(0)
    sizes = magnitude.gather(1, indexes).view(torch.float32).to(torch.float64) * used
    big = sizes >= _sum(sizes) / used.sum(dim=1, keepdim=True).clamp_min(1)
    levels = torch.cat([_mean(sizes, used & ~big), _mean(sizes, used & big)], dim=1)
    codes = (x.gather(1, indexes) < 0).to(torch.int32) | (big.to(torch.int32) << 1)
    codes = torch.where(used, codes, codes.gather(1, last)).masked_fill(~used.any(dim=1, keepdim=True), 0)
    indexes = torch.where(used, indexes, indexes.gather(1, last))
    head = to_bf16(levels.to(torch.float32)).masked_fill(refused, CANONICAL_NAN_BITS_BF16)
    parts = (write_u16(head), _pack_indexes(indexes), _pack_codes(codes))
    return torch.cat([part.view(x.shape[0], -1) for part in parts], dim=1)


def _selected(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Rising indexes of the largest magnitudes, and which of them hold one (those come first)."""
    elements = magnitude.shape[1]
    keys = magnitude.masked_fill(magnitude < ZERO_BITS, 0)
    largest = torch.sort(keys, dim=1, descending=True, stable=True)
    places = elements // BLOCK * TOPK_PER_BLOCK
    kept = largest.indices[:, :places].masked_fill(largest.values[:, :places] == 0, elements)
    indexes = torch.sort(kept, dim=1).values
    used = indexes < elements
    return indexes.masked_fill(~used, 0), used


def _sum(values: Tensor) -> Tensor:
    """Of each row, in fp64: zeros up to 64 places, then halves added onto halves."""
    padded = torch.nn.functional.pad(values, (0, _PLACES - values.shape[1]))
    while padded.shape[1] > 1:
        half = padded.shape[1] // 2
        padded = padded[:, :half] + padded[:, half:]
    return padded


def _mean(sizes: Tensor, which: Tensor) -> Tensor:
    return _sum(sizes * which) / which.sum(dim=1, keepdim=True).clamp_min(1)


def _decode_chunks(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The elements of each chunk, and whether it is NaN."""
    blocks = (rows.shape[1] - TOPK_LEVEL_BYTES) // TOPK.block_bytes
    cut = TOPK_LEVEL_BYTES + 6 * blocks
    levels = read_u16(rows[:, :TOPK_LEVEL_BYTES].reshape(-1)).view(-1, 2)
    indexes, codes = _unpack_indexes(rows[:, TOPK_LEVEL_BYTES:cut]), _unpack_codes(rows[:, cut:])
    steps = indexes[:, 1:] - indexes[:, :-1]
    twice_unlike = (steps == 0) & (codes[:, 1:] != codes[:, :-1])
    outside = (indexes >= blocks * BLOCK).any(dim=1)
    bad = outside | (levels >= INFINITY_BITS_BF16).any(dim=1) | ((steps < 0) | twice_unlike).any(dim=1)
    sizes = from_bf16(levels).gather(1, (codes >> 1).to(torch.int64))
    values = torch.where((codes & 1) != 0, -sizes, sizes)
    out = torch.zeros(rows.shape[0], blocks * BLOCK, dtype=torch.float32, device=rows.device)
    out.scatter_(1, indexes.masked_fill(outside[:, None], 0).to(torch.int64), values)
    return or_nan(out, bad[:, None]), bad


def _pack_indexes(indexes: Tensor) -> Tensor:
    first, second = indexes.view(-1, 2).unbind(dim=1)
    triple = [first & 0xFF, (first >> 8) | ((second & 0xF) << 4), second >> 4]
    return torch.stack(triple, dim=1).to(torch.uint8).view(-1)


def _unpack_indexes(rows: Tensor) -> Tensor:
    one, two, three = rows.reshape(-1, 3).to(torch.int32).unbind(dim=1)
    return torch.stack([one | ((two & 0xF) << 8), (two >> 4) | (three << 4)], dim=1).view(rows.shape[0], -1)


def _pack_codes(codes: Tensor) -> Tensor:
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.int32, device=codes.device)
    return (codes.view(-1, 4) << shifts).sum(dim=1).to(torch.uint8)


def _unpack_codes(rows: Tensor) -> Tensor:
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.int32, device=rows.device)
    return ((rows.to(torch.int32)[:, :, None] >> shifts) & 3).view(rows.shape[0], -1)
