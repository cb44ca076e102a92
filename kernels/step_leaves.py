"""The outer step and the state's digest in one pass over memory: a leaf is hashed right after it was stepped.

Owns the walk over leaves and its threads. Refuses to know how either is done: `kernels` step, BLAKE3 hashes, both
without the GIL.
"""

from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from intellectd.kernels.codec import Codec
from intellectd.kernels.digest import LEAF_BYTES, leaf_hash
from intellectd.kernels.interface import Kernels
from intellectd.kernels.outer import OuterStep, OuterVectors

LEAF_ELEMENTS = LEAF_BYTES // 4  # whole groups of every codec


def step_leaves(
    kernels: Kernels, codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int
) -> list[bytes]:
    """Hashes of theta's leaves, then of momentum's, then of what is gathered, where they are. Arguments are checked."""

    def one_leaf(first: int) -> list[bytes]:
        last = min(first + LEAF_ELEMENTS, elements)
        start, stop = codec.byte_range(first, last)
        part = vectors.slice(first, last)
        kernels.outer_step(codec, update[start:stop], step, part)
        return [leaf_hash(vector) for vector in (part.theta, part.momentum, part.gathered) if vector is not None]

    elements = vectors.theta.numel()
    firsts = range(0, elements, LEAF_ELEMENTS)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            leaves = list(pool.map(one_leaf, firsts))
    else:
        leaves = [one_leaf(first) for first in firsts]
    return [hashed for vector in zip(*leaves, strict=True) for hashed in vector]
