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
    """Hashes of theta's leaves, then of momentum's where there is one. Arguments are checked."""

    def one_leaf(first: int) -> list[bytes]:
        last = min(first + LEAF_ELEMENTS, elements)
        start, stop = codec.byte_range(first, last)
        part = vectors.slice(first, last)
        kernels.outer_step(codec, update[start:stop], step, part)
        hashes = [leaf_hash(part.theta)]
        return hashes if part.momentum is None else [*hashes, leaf_hash(part.momentum)]

    elements = vectors.theta.numel()
    firsts = range(0, elements, LEAF_ELEMENTS)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            pairs = list(pool.map(one_leaf, firsts))
    else:
        pairs = [one_leaf(first) for first in firsts]
    return [hashes[vector] for vector in range(1 if vectors.momentum is None else 2) for hashes in pairs]
