"""e3m0 in Triton: a sign and three bits of exponent below a quarter's largest. As reference/e3m0.py."""

import triton
import triton.language as tl

from intellectd.kernels import codec
from intellectd.kernels.cuda.bits import bits_of, float_of, magnitudes, or_nan, unit_state
from intellectd.kernels.cuda.tiles import QUARTER, places

CODE_MAX = tl.constexpr(codec.E3M0_CODE_MAX)
SCALE_MIN = tl.constexpr(codec.E3M0_SCALE_MIN)
SCALE_NAN = tl.constexpr(codec.E3M0_SCALE_NAN)
HALF_OCTAVE = tl.constexpr(0x400000)  # of the mantissa: from 1.5 up the next power of two is nearer
HEAD_BYTES = tl.constexpr(codec.SMALL_BLOCKS)
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
    tl.store(_at(out, codes, 0), (c0 | (c2 << 4)).to(tl.uint8), mask=inside[:, None])
    tl.store(_at(out, codes, 1), (c1 | (c3 << 4)).to(tl.uint8), mask=inside[:, None])
    return y0, y1, y2, y3


@triton.jit
def decode_tile(enc, rows, blocks):
    """The tile's numbers, quarter by quarter, and of each block whether any is NaN."""
    heads, codes = places(rows, blocks, HEAD_BYTES, CODE_BYTES)
    inside = rows < blocks
    first = tl.load(_at(enc, codes, 0), mask=inside[:, None], other=0).to(tl.int32)
    second = tl.load(_at(enc, codes, 1), mask=inside[:, None], other=0).to(tl.int32)
    y0, bad0 = _values(first & 15, _head(enc + heads, 0, inside))
    y1, bad1 = _values(second & 15, _head(enc + heads, 1, inside))
    y2, bad2 = _values(first >> 4, _head(enc + heads, 2, inside))
    y3, bad3 = _values(second >> 4, _head(enc + heads, 3, inside))
    return y0, y1, y2, y3, bad0 | bad1 | bad2 | bad3


@triton.jit
def _quantized(heads, number: tl.constexpr, inside, x):
    """Codes of one quarter, whose scale is stored, and what they stand for."""
    magnitude = magnitudes(x)
    absmax, refused, empty = unit_state(tl.max(magnitude, axis=1))
    scale = (bits_of(absmax) + HALF_OCTAVE) >> 23
    bottom = (scale - CODE_MAX)[:, None]  # half of the smallest value: what is nearer to zero is below it
    codes = tl.maximum(tl.minimum(((magnitude + HALF_OCTAVE) >> 23) - bottom, CODE_MAX), 1)
    codes = tl.where(x < 0, codes | 8, codes)
    codes = tl.where(((magnitude >> 23) < bottom) | empty[:, None], 0, codes)
    head = tl.where(refused, SCALE_NAN, tl.where(empty, 0, scale))
    tl.store(heads + number, head.to(tl.uint8), mask=inside)
    values, _ = _values(codes, head)
    return codes, values


@triton.jit
def _head(heads, number: tl.constexpr, inside):
    return tl.load(heads + number, mask=inside, other=0).to(tl.int32)


@triton.jit
def _at(enc, codes, number: tl.constexpr):
    return enc + codes[:, None] + (tl.arange(0, QUARTER) + number * QUARTER)[None, :]


@triton.jit
def _values(codes, head):
    exponents = (head - CODE_MAX)[:, None] + (codes & 7)
    zero = ((codes & 7) == 0) | (head < SCALE_MIN)[:, None]
    bits = tl.where(zero, 0, (exponents << 23) | ((codes & 8) << 28))
    bad = head == SCALE_NAN
    return or_nan(float_of(bits), bad[:, None]), bad
