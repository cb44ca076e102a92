"""int8 in Triton: a scale per block, absmax / 127, and its multiples, rounded half to even. As reference/int8.py."""

import triton
import triton.language as tl

from intellectd.kernels import codec
from intellectd.kernels.cuda.bits import (
    MAGNITUDE_MASK,
    NAN_BITS,
    bits_of,
    float_of,
    magnitudes,
    or_nan,
    rounded,
    unit_state,
)
from intellectd.kernels.cuda.tiles import QUARTER, of_four, places

CODE_MAX = tl.constexpr(codec.CODE_MAX)
REFUSED_BITS_SCALE = tl.constexpr(codec.REFUSED_BITS_SCALE)
HEAD_BYTES = tl.constexpr(4)
CODE_BYTES = tl.constexpr(codec.BLOCK)


@triton.jit
def encode_tile(out, rows, blocks, x0, x1, x2, x3):
    """The tile's bytes; gives back what they decode to."""
    absmax, refused, empty = unit_state(of_four(magnitudes(x0), magnitudes(x1), magnitudes(x2), magnitudes(x3)))
    scale = tl.where(empty, 0, bits_of(tl.div_rn(absmax, CODE_MAX)))
    head = tl.where(refused, NAN_BITS, scale)
    inverse = tl.div_rn(CODE_MAX, absmax)[:, None]
    heads, codes = places(rows, blocks, HEAD_BYTES, CODE_BYTES)
    tl.store((out + heads).to(tl.pointer_type(tl.int32)), head, mask=rows < blocks)
    inside = (rows < blocks)[:, None]
    y0 = _encode_quarter(out, codes, 0, inside, x0, inverse, empty, head)
    y1 = _encode_quarter(out, codes, 1, inside, x1, inverse, empty, head)
    y2 = _encode_quarter(out, codes, 2, inside, x2, inverse, empty, head)
    y3 = _encode_quarter(out, codes, 3, inside, x3, inverse, empty, head)
    return y0, y1, y2, y3


@triton.jit
def decode_tile(enc, rows, blocks):
    """The tile's numbers, quarter by quarter, and of each block whether it is NaN."""
    heads, codes = places(rows, blocks, HEAD_BYTES, CODE_BYTES)
    head = tl.load((enc + heads).to(tl.pointer_type(tl.int32)), mask=rows < blocks, other=0)
    inside = (rows < blocks)[:, None]
    y0 = _values(tl.load(_at(enc, codes, 0), mask=inside, other=0), head)
    y1 = _values(tl.load(_at(enc, codes, 1), mask=inside, other=0), head)
    y2 = _values(tl.load(_at(enc, codes, 2), mask=inside, other=0), head)
    y3 = _values(tl.load(_at(enc, codes, 3), mask=inside, other=0), head)
    return y0, y1, y2, y3, _bad(head)


@triton.jit
def _encode_quarter(out, codes, number: tl.constexpr, inside, x, inverse, empty, head):
    code = tl.where(empty[:, None], 0, rounded(x * inverse)).to(tl.int8)
    tl.store(_at(out, codes, number), code, mask=inside)
    return _values(code, head)


@triton.jit
def _at(enc, codes, number: tl.constexpr):
    place = codes[:, None] + (tl.arange(0, QUARTER) + number * QUARTER)[None, :]
    return (enc + place).to(tl.pointer_type(tl.int8))


@triton.jit
def _values(code, head):
    return or_nan(code.to(tl.float32) * float_of(head)[:, None], _bad(head)[:, None])


@triton.jit
def _bad(head):
    return (head & MAGNITUDE_MASK) >= REFUSED_BITS_SCALE
