"""topk in Triton: selecting, packing and looking up a chunk's 64 entries. As reference/topk.py.

The selection counts instead of sorting: the bits of the smallest magnitude that is sent are found by bisection, of
its equals the first are taken, and a running count gives each its place. All of it in integers, so no order of
threads shows. What was selected goes through memory (index and bits of each place) to `packed`, where a chunk is a
row of 64.
"""

import triton
import triton.language as tl

from intellectd.kernels import codec
from intellectd.kernels.cuda.bits import (
    INFINITY_BITS_BF16,
    NAN_BITS_BF16,
    ZERO_BITS,
    float_of,
    magnitudes,
    or_nan,
    to_bf16,
)
from intellectd.kernels.cuda.squares import halves_onto_halves
from intellectd.kernels.cuda.tiles import BLOCK, TILE, quarter

CHUNK = tl.constexpr(codec.CHUNK)
CHUNK_BYTES = tl.constexpr(codec.TOPK.encoded_bytes(codec.CHUNK))
LEVEL_BYTES = tl.constexpr(codec.TOPK_LEVEL_BYTES)
PER_BLOCK = tl.constexpr(codec.TOPK_PER_BLOCK)
PLACES = codec.CHUNK // codec.BLOCK * codec.TOPK_PER_BLOCK
_PLACES = tl.constexpr(PLACES)
INDEX_BYTES = tl.constexpr(codec.TOPK_PER_BLOCK * codec.TOPK_INDEX_BITS // 8)  # a block's
BITS_OF_MAGNITUDE = tl.constexpr(31)
TOP_BIT = tl.constexpr(1 << 30)


@triton.jit
def select(x, chunk, blocks, refused, picks, picked_bits):
    """Of a flat chunk: index and bits of what is sent, in rising order, to rows of 64; untouched places stay."""
    count = _chunk_blocks(chunk, blocks) * PER_BLOCK
    keys = magnitudes(x)
    keys = tl.where((keys < ZERO_BITS) | refused, 0, keys)
    threshold, bit = count * 0, count * 0 + TOP_BIT
    for _ in range(BITS_OF_MAGNITUDE):
        # becomes the largest number that at least `count` keys reach
        enough = tl.sum((keys >= (threshold | bit)).to(tl.int32), axis=0) >= count
        threshold = tl.where(enough, threshold | bit, threshold)
        bit = bit >> 1
    above = (keys > threshold).to(tl.int32)
    equal = ((keys == threshold) & (keys > 0)).to(tl.int32)
    wanted = count - tl.sum(above, axis=0)
    taken = (above == 1) | ((equal == 1) & (tl.cumsum(equal, axis=0) <= wanted))
    place = tl.cumsum(taken.to(tl.int32), axis=0) - 1
    row = chunk * _PLACES + place
    tl.store(picks + row, tl.arange(0, CHUNK), mask=taken)
    tl.store(picked_bits + row, x.to(tl.int32, bitcast=True), mask=taken)


@triton.jit
def pack(out, chunk, blocks, refused, picks, picked_bits):
    """One chunk's bytes, of what `select` left: picks are -1 where nothing was selected."""
    held = _chunk_blocks(chunk, blocks)
    picks += chunk * _PLACES
    picked_bits += chunk * _PLACES
    place = tl.arange(0, _PLACES)[None, :]
    used = tl.load(picks + place) >= 0
    many = tl.sum(used.to(tl.int32), axis=1)
    sizes = tl.where(used, _size(picked_bits, place), 0.0)
    mean = _sum(sizes) / tl.maximum(many, 1).to(tl.float64)
    big = used & (sizes >= mean[:, None])
    out += chunk * CHUNK_BYTES
    level = (out + tl.arange(0, 1)).to(tl.pointer_type(tl.int16))
    tl.store(level, _level(sizes, used & (sizes < mean[:, None]), refused))
    tl.store(level + 1, _level(sizes, big, refused))
    _pack_indexes(out + LEVEL_BYTES, held, picks, many)
    _pack_codes(out + LEVEL_BYTES + held * INDEX_BYTES, held, picked_bits, many, mean)


@triton.jit
def decode_tile(enc, rows, blocks):
    """The tile's numbers, quarter by quarter, and of each block whether it is NaN. A tile is a chunk."""
    chunk = tl.program_id(0).to(tl.int64)
    held = _chunk_blocks(chunk, blocks)
    enc += chunk * CHUNK_BYTES
    low, high = _u16(enc), _u16(enc + 2)
    bad = _bad(enc + LEVEL_BYTES, held) | (low >= INFINITY_BITS_BF16) | (high >= INFINITY_BITS_BF16)
    local = rows - chunk * TILE
    y0 = _looked_up(enc, held, quarter(local, 0).to(tl.int32), low, high, bad)
    y1 = _looked_up(enc, held, quarter(local, 1).to(tl.int32), low, high, bad)
    y2 = _looked_up(enc, held, quarter(local, 2).to(tl.int32), low, high, bad)
    y3 = _looked_up(enc, held, quarter(local, 3).to(tl.int32), low, high, bad)
    return y0, y1, y2, y3, (rows < blocks) & bad


@triton.jit
def _chunk_blocks(chunk, blocks):
    return tl.minimum(blocks - chunk * TILE, TILE).to(tl.int32)


@triton.jit
def _size(picked_bits, place):
    return magnitudes(float_of(tl.load(picked_bits + place))).to(tl.float32, bitcast=True).to(tl.float64)


@triton.jit
def _sum(values):
    return halves_onto_halves(values, 6)


@triton.jit
def _level(sizes, which, refused):
    many = tl.maximum(tl.sum(which.to(tl.int32), axis=1), 1).to(tl.float64)
    mean = _sum(tl.where(which, sizes, 0.0)) / many
    return tl.where(refused, NAN_BITS_BF16, to_bf16(mean.to(tl.float32))).to(tl.int16)


@triton.jit
def _filled(place, many):
    """Places left over repeat the last entry."""
    return tl.minimum(place, tl.maximum(many - 1, 0))


@triton.jit
def _pack_indexes(out, held, picks, many):
    """Two in three bytes."""
    pair = tl.arange(0, _PLACES // 2)
    inside = pair < held * (PER_BLOCK // 2)
    one = tl.where(many > 0, tl.load(picks + _filled(2 * pair, many)), 0)
    two = tl.where(many > 0, tl.load(picks + _filled(2 * pair + 1, many)), 0)
    tl.store(out + 3 * pair, one.to(tl.uint8), mask=inside)
    tl.store(out + 3 * pair + 1, ((one >> 8) | (two << 4)).to(tl.uint8), mask=inside)
    tl.store(out + 3 * pair + 2, (two >> 4).to(tl.uint8), mask=inside)


@triton.jit
def _pack_codes(out, held, picked_bits, many, mean):
    """Four in a byte."""
    four = tl.arange(0, _PLACES // 4)
    byte = _code(picked_bits, 4 * four, many, mean)
    byte |= _code(picked_bits, 4 * four + 1, many, mean) << 2
    byte |= _code(picked_bits, 4 * four + 2, many, mean) << 4
    byte |= _code(picked_bits, 4 * four + 3, many, mean) << 6
    tl.store(out + four, byte.to(tl.uint8), mask=four < held)


@triton.jit
def _code(picked_bits, place, many, mean):
    """Bit 0 the sign, bit 1 which level."""
    at = _filled(place, many)
    sign = (tl.load(picked_bits + at) < 0).to(tl.int32)
    return tl.where(many > 0, sign | ((_size(picked_bits, at) >= mean).to(tl.int32) << 1), 0)


@triton.jit
def _bad(entries, held):
    """Whether an index falls, lies outside, or stands twice with different codes."""
    place = tl.arange(0, _PLACES)
    inside = place < held * PER_BLOCK
    before = tl.maximum(place - 1, 0)
    index, earlier = _index(entries, place, inside), _index(entries, before, inside)
    codes = entries + held * INDEX_BYTES
    unlike = _stored_code(codes, place, inside) != _stored_code(codes, before, inside)
    wrong = (index < earlier) | ((index == earlier) & unlike) | (index >= held * BLOCK)
    return tl.sum((wrong & inside).to(tl.int32), axis=0) > 0


@triton.jit
def _looked_up(enc, held, element, low, high, bad):
    """The last entry at or before each element, by bisection: indexes rise, or the chunk is NaN anyway."""
    entries = enc + LEVEL_BYTES
    at = element * 0
    for step in tl.static_range(6):
        tried = at + (_PLACES >> (step + 1))
        inside = tried < held * PER_BLOCK
        at = tl.where(inside & (_index(entries, tried, inside) <= element), tried, at)
    inside = element < held * BLOCK
    hit = _index(entries, at, inside) == element
    code = _stored_code(entries + held * INDEX_BYTES, at, inside)
    bits = tl.where(code >= 2, high, low) << 16 | ((code & 1) << 31)
    return or_nan(float_of(tl.where(hit, bits, 0)), bad)


@triton.jit
def _index(entries, place, inside):
    """12 bits each, the first of a pair in the lower ones."""
    at = entries + 3 * (place >> 1) + (place & 1)
    one = tl.load(at, mask=inside, other=0).to(tl.int32)
    two = tl.load(at + 1, mask=inside, other=0).to(tl.int32)
    both = one | (two << 8)
    return tl.where((place & 1) == 1, both >> 4, both & 0xFFF)


@triton.jit
def _stored_code(codes, place, inside):
    return (tl.load(codes + (place >> 2), mask=inside, other=0).to(tl.int32) >> (2 * (place & 3))) & 3


@triton.jit
def _u16(enc):
    return tl.load(enc).to(tl.int32) | (tl.load(enc + 1).to(tl.int32) << 8)
