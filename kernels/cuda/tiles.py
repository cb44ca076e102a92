"""Which elements and bytes a program works on: a tile of sixteen blocks, each as four quarters of 64 elements.

A quarter has one scale of int4 and e3m0; nibbles pair a block's first two quarters with its last two; the sum of
squares adds halves onto halves: all are operations on whole quarters. A tile is also a chunk of topk.
"""

import triton
import triton.language as tl

from intellectd.kernels import codec

TILE_BLOCKS = codec.CHUNK // codec.BLOCK
BLOCK = tl.constexpr(codec.BLOCK)
BLOCKS_PER_GROUP = tl.constexpr(codec.BLOCKS_PER_GROUP)
QUARTER = tl.constexpr(codec.BLOCK // 4)
TILE = tl.constexpr(TILE_BLOCKS)


@triton.jit
def tile_rows():
    """Numbers of this program's blocks, int64: a vector may have more than 2**31 elements."""
    return tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)


@triton.jit
def quarter(rows, number: tl.constexpr):
    """Indexes of the elements in that quarter of each block."""
    return (rows * BLOCK + number * QUARTER)[:, None] + tl.arange(0, QUARTER)[None, :]


@triton.jit
def places(rows, blocks, head_bytes: tl.constexpr, code_bytes: tl.constexpr):
    """Where each block's scales and codes begin, in bytes: of a group all scales come first, then all codes.

    `blocks` is how many the vector has: its last group may be short.
    """
    group = rows // BLOCKS_PER_GROUP
    in_group = rows - group * BLOCKS_PER_GROUP
    held = tl.minimum(blocks - group * BLOCKS_PER_GROUP, BLOCKS_PER_GROUP)
    start = group * (BLOCKS_PER_GROUP * (head_bytes + code_bytes))
    return start + in_group * head_bytes, start + held * head_bytes + in_group * code_bytes


@triton.jit
def of_four(m0, m1, m2, m3):
    """Of each block, the largest of its quarters' integers."""
    return tl.max(tl.maximum(tl.maximum(m0, m1), tl.maximum(m2, m3)), axis=1)
