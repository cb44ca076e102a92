"""int4 in Triton: a bf16 scale per quarter, absmax / 7 rounded, and multiples from -7 to 7. As reference/int4.py."""

import triton
import triton.language as tl

from intellectd.kernels import codec
from intellectd.kernels.cuda.bits import NAN_BITS_BF16, from_bf16, magnitudes, or_nan, rounded, to_bf16, unit_state
from intellectd.kernels.cuda.tiles import QUARTER, places

CODE_MAX = tl.constexpr(codec.INT4_CODE_MAX)
REFUSED_BITS_SCALE = tl.constexpr(codec.INT4_REFUSED_BITS_SCALE)
HEAD_BYTES = tl.constexpr(2 * codec.SMALL_BLOCKS)
CODE_BYTES = tl.constexpr(codec.BLOCK // 2)


@triton.jit
def encode_tile(out, rows, blocks, x0, x1, x2, x3):
    """The tile's bytes; gives back what they decode to."""
    heads, codes = places(rows, blocks, HEAD_BYTES, CODE_BYTES)
    inside = rows < blocks
    c0, y0 = _quantized(out + heads, 0, inside, x0)
    c1, y1 = _quantized(out + heads, 1, inside, x1)
    c2, y2 = _quantized(out + heads, 2, inside, x2)
    c3, y3 = _quantized(out + heads, 3, inside, x3)
    tl.store(_at(out, codes, 0), ((c0 & 15) | (c2 << 4)).to(tl.uint8), mask=inside[:, None])
    tl.store(_at(out, codes, 1), ((c1 & 15) | (c3 << 4)).to(tl.uint8), mask=inside[:, None])
    return y0, y1, y2, y3


@triton.jit
def decode_tile(enc, rows, blocks):
    """The tile's numbers, quarter by quarter, and of each block whether any is NaN."""
    heads, codes = places(rows, blocks, HEAD_BYTES, CODE_BYTES)
    inside = rows < blocks
    first = tl.load(_at(enc, codes, 0), mask=inside[:, None], other=0).to(tl.int32)
    second = tl.load(_at(enc, codes, 1), mask=inside[:, None], other=0).to(tl.int32)
    y0, bad0 = _values(first, _head(enc + heads, 0, inside))
    y1, bad1 = _values(second, _head(enc + heads, 1, inside))
    y2, bad2 = _values(first >> 4, _head(enc + heads, 2, inside))
    y3, bad3 = _values(second >> 4, _head(enc + heads, 3, inside))
    return y0, y1, y2, y3, bad0 | bad1 | bad2 | bad3


@triton.jit
def _quantized(heads, number: tl.constexpr, inside, x):
    """Codes of one quarter, whose scale is stored, and what they stand for."""
    absmax, refused, empty = unit_state(tl.max(magnitudes(x), axis=1))
    scale = to_bf16(tl.div_rn(absmax, CODE_MAX))
    codes = tl.where(empty[:, None], 0, rounded(x * tl.div_rn(1.0, from_bf16(scale))[:, None]))
    head = tl.where(refused, NAN_BITS_BF16, tl.where(empty, 0, scale))
    tl.store((heads + 2 * number).to(tl.pointer_type(tl.int16)), head.to(tl.int16), mask=inside)
    values, _ = _values(codes, head)
    return codes, values


@triton.jit
def _head(heads, number: tl.constexpr, inside):
    pointers = (heads + 2 * number).to(tl.pointer_type(tl.int16))
    return tl.load(pointers, mask=inside, other=0).to(tl.int32) & 0xFFFF


@triton.jit
def _at(enc, codes, number: tl.constexpr):
    return enc + codes[:, None] + (tl.arange(0, QUARTER) + number * QUARTER)[None, :]


@triton.jit
def _values(codes, head):
    bad = (head & 0x7FFF) >= REFUSED_BITS_SCALE
    signed = ((codes & 15) ^ 8) - 8
    return or_nan(signed.to(tl.float32) * from_bf16(head)[:, None], bad[:, None]), bad
