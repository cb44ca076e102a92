"""Which arithmetic a codec has in Triton, chosen when a kernel is compiled. Numbers are those of `Codec.native_id`.

topk is encoded by kernels of its own (passes.py): its unit is the whole tile.
"""

import triton
import triton.language as tl

from intellectd.kernels import codec
from intellectd.kernels.cuda import e3m0, int4, int8, topk
from intellectd.kernels.cuda.tiles import quarter
from intellectd.kernels.cuda.wide import load_bf16, load_fp32, store_bf16, store_fp32

FP32 = tl.constexpr(codec.FP32.native_id)
BF16 = tl.constexpr(codec.BF16.native_id)
INT8 = tl.constexpr(codec.INT8.native_id)
INT4 = tl.constexpr(codec.INT4.native_id)
E3M0 = tl.constexpr(codec.E3M0.native_id)


@triton.jit
def encode_tile(CODEC: tl.constexpr, out, rows, blocks, x0, x1, x2, x3):
    """Four quarters of a tile into their bytes; gives back what those decode to."""
    inside = (rows < blocks)[:, None]
    if CODEC == INT8:
        y0, y1, y2, y3 = int8.encode_tile(out, rows, blocks, x0, x1, x2, x3)
    elif CODEC == INT4:
        y0, y1, y2, y3 = int4.encode_tile(out, rows, blocks, x0, x1, x2, x3)
    elif CODEC == E3M0:
        y0, y1, y2, y3 = e3m0.encode_tile(out, rows, blocks, x0, x1, x2, x3)
    elif CODEC == BF16:
        y0 = store_bf16(out, quarter(rows, 0), inside, x0)
        y1 = store_bf16(out, quarter(rows, 1), inside, x1)
        y2 = store_bf16(out, quarter(rows, 2), inside, x2)
        y3 = store_bf16(out, quarter(rows, 3), inside, x3)
    else:
        tl.static_assert(CODEC == FP32)
        y0 = store_fp32(out, quarter(rows, 0), inside, x0)
        y1 = store_fp32(out, quarter(rows, 1), inside, x1)
        y2 = store_fp32(out, quarter(rows, 2), inside, x2)
        y3 = store_fp32(out, quarter(rows, 3), inside, x3)
    return y0, y1, y2, y3


@triton.jit
def decode_tile(CODEC: tl.constexpr, enc, rows, blocks):
    """Four quarters of a tile, and of each block whether it holds what is not finite."""
    inside = (rows < blocks)[:, None]
    if CODEC == INT8:
        y0, y1, y2, y3, bad = int8.decode_tile(enc, rows, blocks)
    elif CODEC == INT4:
        y0, y1, y2, y3, bad = int4.decode_tile(enc, rows, blocks)
    elif CODEC == E3M0:
        y0, y1, y2, y3, bad = e3m0.decode_tile(enc, rows, blocks)
    elif CODEC == BF16:
        y0, b0 = load_bf16(enc, quarter(rows, 0), inside)
        y1, b1 = load_bf16(enc, quarter(rows, 1), inside)
        y2, b2 = load_bf16(enc, quarter(rows, 2), inside)
        y3, b3 = load_bf16(enc, quarter(rows, 3), inside)
        bad = tl.max((b0 | b1 | b2 | b3).to(tl.int32), axis=1) > 0
    elif CODEC == FP32:
        y0, b0 = load_fp32(enc, quarter(rows, 0), inside)
        y1, b1 = load_fp32(enc, quarter(rows, 1), inside)
        y2, b2 = load_fp32(enc, quarter(rows, 2), inside)
        y3, b3 = load_fp32(enc, quarter(rows, 3), inside)
        bad = tl.max((b0 | b1 | b2 | b3).to(tl.int32), axis=1) > 0
    else:
        y0, y1, y2, y3, bad = topk.decode_tile(enc, rows, blocks)
    return y0, y1, y2, y3, bad
