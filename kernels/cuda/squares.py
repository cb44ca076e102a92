"""Sums of squares in fp64 in the reference's one order: halves onto halves in a block, then block after block.

Written out instead of `tl.sum`, whose order is the compiler's.
"""

import triton
import triton.language as tl

from intellectd.kernels.cuda.tiles import BLOCKS_PER_GROUP, tile_rows

_GROUPS = tl.constexpr(32)  # a program's; each is a chain of 64 dependent additions
GROUPS_A_PROGRAM = 32


@triton.jit
def halves_onto_halves(values, levels: tl.constexpr):
    """Of rows of 2**levels numbers: the second half added onto the first, until one is left."""
    for _ in tl.static_range(levels):
        pairs = tl.permute(tl.reshape(values, [values.shape[0], 2, values.shape[1] // 2]), [0, 2, 1])
        first, second = tl.split(pairs)
        values = first + second
    return tl.reshape(values, [values.shape[0]])


@triton.jit
def store_block_sums(sums, blocks, d0, d1, d2, d3):
    """Of a tile's blocks, fp64. Products of two fp32 are exact in fp64."""
    rows = tile_rows()
    first, second = _square(d0) + _square(d2), _square(d1) + _square(d3)
    tl.store(sums + rows, halves_onto_halves(first + second, 6), mask=rows < blocks)


@triton.jit
def _square(x):
    wide = x.to(tl.float64)
    return wide * wide


@triton.jit(do_not_specialize=["blocks"])
def group_sums(sums, out, blocks):
    """Block after block within each group."""
    group = tl.program_id(0).to(tl.int64) * _GROUPS + tl.arange(0, _GROUPS)
    total = tl.zeros([_GROUPS], tl.float64)
    for number in range(BLOCKS_PER_GROUP):
        row = group * BLOCKS_PER_GROUP + number
        total += tl.load(sums + row, mask=row < blocks, other=0.0)
    tl.store(out + group, total, mask=group * BLOCKS_PER_GROUP < blocks)
