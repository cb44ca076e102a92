"""The fused passes in Triton, a tile a program: what each reads, computes and leaves. As reference/passes.py.

Scalars arrive as the bits of an fp32 number, so that no launcher rounds or promotes them. `first` is an int64 that
takes the smallest index of what was refused.
"""

import triton
import triton.language as tl

from intellectd.kernels.cuda import topk
from intellectd.kernels.cuda.bits import float_of, magnitudes, or_nan
from intellectd.kernels.cuda.codecs import decode_tile, encode_tile
from intellectd.kernels.cuda.squares import halves_onto_halves, store_block_sums
from intellectd.kernels.cuda.tiles import BLOCK, TILE, of_four, quarter, tile_rows

PLAIN, MEAN, DELTA, FED = range(4)  # what is encoded: x; x / number; x - y; x - y + number * error
_MEAN, _DELTA, _FED = tl.constexpr(MEAN), tl.constexpr(DELTA), tl.constexpr(FED)
_NO_INDEX = tl.constexpr(2**63 - 1)


@triton.jit
def wanted(at, inside, x, y, error, number, SOURCE: tl.constexpr):
    """What is to be encoded, and the delta in it."""
    value = tl.load(x + at, mask=inside, other=0.0)
    if SOURCE == _MEAN:
        value = tl.div_rn(value, number)
    if SOURCE >= _DELTA:
        value = value - tl.load(y + at, mask=inside, other=0.0)
    delta = value
    if SOURCE == _FED:
        value = delta + number * tl.load(error + at, mask=inside, other=0.0)
    return value, delta


@triton.jit
def note_refused(first, most, rows, x0, x1, x2, x3, REFUSED: tl.constexpr):
    """The index of a tile's first refused element; `most` is of each block the largest magnitude."""
    if tl.max(most, axis=0) >= REFUSED:
        found = _index_if(x0, quarter(rows, 0), REFUSED)
        found = tl.minimum(found, _index_if(x1, quarter(rows, 1), REFUSED))
        found = tl.minimum(found, _index_if(x2, quarter(rows, 2), REFUSED))
        found = tl.minimum(found, _index_if(x3, quarter(rows, 3), REFUSED))
        tl.atomic_min(first, found)


@triton.jit
def _index_if(x, at, REFUSED: tl.constexpr):
    return tl.min(tl.min(tl.where(magnitudes(x) >= REFUSED, at, _NO_INDEX), axis=1), axis=0)


@triton.jit(do_not_specialize=["number", "blocks"])
def encode(
    x, y, error, residual, number, out, sums, first, blocks,
    CODEC: tl.constexpr, SOURCE: tl.constexpr, REFUSED: tl.constexpr,
):  # fmt: skip
    rows = tile_rows()
    inside = (rows < blocks)[:, None]
    number = float_of(number)
    w0, d0 = wanted(quarter(rows, 0), inside, x, y, error, number, SOURCE)
    w1, d1 = wanted(quarter(rows, 1), inside, x, y, error, number, SOURCE)
    w2, d2 = wanted(quarter(rows, 2), inside, x, y, error, number, SOURCE)
    w3, d3 = wanted(quarter(rows, 3), inside, x, y, error, number, SOURCE)
    most = of_four(magnitudes(w0), magnitudes(w1), magnitudes(w2), magnitudes(w3))
    note_refused(first, most, rows, w0, w1, w2, w3, REFUSED)
    y0, y1, y2, y3 = encode_tile(CODEC, out, rows, blocks, w0, w1, w2, w3)
    if SOURCE >= _DELTA:
        store_block_sums(sums, blocks, d0, d1, d2, d3)
    if SOURCE == _FED:
        _keep(residual, most, rows, inside, w0, w1, w2, w3, y0, y1, y2, y3, REFUSED)


@triton.jit
def _keep(residual, most, rows, inside, w0, w1, w2, w3, y0, y1, y2, y3, REFUSED: tl.constexpr):
    """What the encoding lost; a block in which something was refused has lost everything."""
    bad = (most >= REFUSED)[:, None]
    tl.store(residual + quarter(rows, 0), or_nan(w0 - y0, bad), mask=inside)
    tl.store(residual + quarter(rows, 1), or_nan(w1 - y1, bad), mask=inside)
    tl.store(residual + quarter(rows, 2), or_nan(w2 - y2, bad), mask=inside)
    tl.store(residual + quarter(rows, 3), or_nan(w3 - y3, bad), mask=inside)


@triton.jit(do_not_specialize=["number", "blocks"])
def topk_select(
    x, y, error, number, picks, picked_bits, refused_chunks, sums, first, blocks,
    SOURCE: tl.constexpr, REFUSED: tl.constexpr,
):  # fmt: skip
    """The first of topk's three: choose, and note what was refused."""
    chunk = tl.program_id(0).to(tl.int64)
    local = tl.arange(0, topk.CHUNK)
    at = chunk * topk.CHUNK + local
    w, delta = wanted(at, at < blocks.to(tl.int64) * BLOCK, x, y, error, float_of(number), SOURCE)
    bad = tl.max(magnitudes(w), axis=0) >= REFUSED
    tl.store(refused_chunks + chunk, bad.to(tl.int32))
    if bad:
        tl.atomic_min(first, tl.min(tl.where(magnitudes(w) >= REFUSED, at, _NO_INDEX), axis=0))
    if SOURCE >= _DELTA:
        rows = tile_rows()
        wide = tl.reshape(delta, [TILE, BLOCK]).to(tl.float64)
        tl.store(sums + rows, halves_onto_halves(wide * wide, 8), mask=rows < blocks)
    topk.select(w, chunk, blocks, bad, picks, picked_bits)


@triton.jit(do_not_specialize=["blocks"])
def topk_pack(out, picks, picked_bits, refused_chunks, blocks):
    """The second: levels, indexes and values, as bytes."""
    chunk = tl.program_id(0).to(tl.int64)
    topk.pack(out, chunk, blocks, tl.load(refused_chunks + chunk) > 0, picks, picked_bits)


@triton.jit(do_not_specialize=["number", "blocks"])
def topk_residual(x, y, error, residual, number, enc, refused_chunks, blocks):
    """The third, with feedback."""
    rows = tile_rows()
    inside = (rows < blocks)[:, None]
    number = float_of(number)
    y0, y1, y2, y3, _ = topk.decode_tile(enc, rows, blocks)
    bad = tl.load(refused_chunks + tl.program_id(0)) > 0
    _keep_quarter(quarter(rows, 0), inside, x, y, error, residual, number, y0, bad)
    _keep_quarter(quarter(rows, 1), inside, x, y, error, residual, number, y1, bad)
    _keep_quarter(quarter(rows, 2), inside, x, y, error, residual, number, y2, bad)
    _keep_quarter(quarter(rows, 3), inside, x, y, error, residual, number, y3, bad)


@triton.jit
def _keep_quarter(at, inside, x, y, error, residual, number, decoded, bad):
    w, _ = wanted(at, inside, x, y, error, number, _FED)
    tl.store(residual + at, or_nan(w - decoded, bad), mask=inside)


@triton.jit(do_not_specialize=["weight", "blocks"])
def decode(enc, total, weight, blocks, CODEC: tl.constexpr, ADDS: tl.constexpr):
    """total <- dec(enc), or total + weight * dec(enc)."""
    rows = tile_rows()
    inside = (rows < blocks)[:, None]
    weight = float_of(weight)
    d0, d1, d2, d3, _ = decode_tile(CODEC, enc, rows, blocks)
    _give(total, quarter(rows, 0), inside, weight, d0, ADDS)
    _give(total, quarter(rows, 1), inside, weight, d1, ADDS)
    _give(total, quarter(rows, 2), inside, weight, d2, ADDS)
    _give(total, quarter(rows, 3), inside, weight, d3, ADDS)


@triton.jit
def _give(total, at, inside, weight, d, ADDS: tl.constexpr):
    if ADDS:
        d = tl.load(total + at, mask=inside, other=0.0) + weight * d
    tl.store(total + at, d, mask=inside)


@triton.jit(do_not_specialize=["weight", "divisor", "blocks"])
def ring_hop(
    incoming, own, out, weight, divisor, first, blocks,
    CODEC: tl.constexpr, ADDS: tl.constexpr, DIVIDES: tl.constexpr, REFUSED: tl.constexpr,
):  # fmt: skip
    rows = tile_rows()
    weight, divisor = float_of(weight), float_of(divisor)
    t0, t1, t2, t3, _ = decode_tile(CODEC, own, rows, blocks)
    t0, t1, t2, t3 = weight * t0, weight * t1, weight * t2, weight * t3
    if ADDS:
        s0, s1, s2, s3, _ = decode_tile(CODEC, incoming, rows, blocks)
        t0, t1, t2, t3 = s0 + t0, s1 + t1, s2 + t2, s3 + t3
    if DIVIDES:
        t0, t1, t2, t3 = tl.div_rn(t0, divisor), tl.div_rn(t1, divisor), tl.div_rn(t2, divisor), tl.div_rn(t3, divisor)
    tl.debug_barrier()  # `out` may be the buffer read from: all threads have read before any writes
    most = of_four(magnitudes(t0), magnitudes(t1), magnitudes(t2), magnitudes(t3))
    note_refused(first, most, rows, t0, t1, t2, t3, REFUSED)
    encode_tile(CODEC, out, rows, blocks, t0, t1, t2, t3)


@triton.jit(do_not_specialize=["blocks"])
def finite(enc, first, blocks, CODEC: tl.constexpr):
    """`first` falls where a block would decode to what is not finite."""
    rows = tile_rows()
    _, _, _, _, bad = decode_tile(CODEC, enc, rows, blocks)
    if tl.max((bad & (rows < blocks)).to(tl.int32), axis=0) > 0:
        tl.atomic_min(first, tl.program_id(0).to(tl.int64))


@triton.jit(do_not_specialize=["blocks"])
def subtract_into(anchor, x, blocks):
    at = tl.program_id(0).to(tl.int64) * (TILE * BLOCK) + tl.arange(0, TILE * BLOCK)
    inside = at < blocks.to(tl.int64) * BLOCK
    tl.store(
        x + at, tl.load(anchor + at, mask=inside, other=0.0) - tl.load(x + at, mask=inside, other=0.0), mask=inside
    )
