"""Cutting a vector: into a slice for each owner, and those into chunks, which travel each by itself.

Owns positions in the encoded vector. Refuses to know who sends what.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.daemon.bulk.limits import CHUNK_GROUPS
from intellectd.kernels.codec import GROUP, Codec

CHUNK_ELEMENTS = CHUNK_GROUPS * GROUP


@dataclass(frozen=True, slots=True)
class Chunk:
    index: int
    owner: int  # a member's number
    start: int  # bytes [start, stop) of the encoded vector
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def equal_shares(members: int) -> tuple[int, ...]:
    return (1,) * members


def slice_elements(elements: int, shares: Sequence[int], owner: int) -> tuple[int, int]:
    """Elements [first, last) of the owner's slice, in proportion to its share, cut at whole groups; with few groups
    some slices are empty."""
    groups, whole = -(-elements // GROUP), sum(shares)
    before = sum(shares[:owner])
    first, last = groups * before // whole, groups * (before + shares[owner]) // whole
    return min(first * GROUP, elements), min(last * GROUP, elements)


def cut_chunks(codec: Codec, elements: int, shares: Sequence[int]) -> tuple[Chunk, ...]:
    """All chunks, in order of position: the same list on every member, so an index names one."""
    chunks: list[Chunk] = []
    for owner in range(len(shares)):
        first, last = slice_elements(elements, shares, owner)
        for position in range(first, last, CHUNK_ELEMENTS):
            start, stop = codec.byte_range(position, min(position + CHUNK_ELEMENTS, last))
            chunks.append(Chunk(len(chunks), owner, start, stop))
    return tuple(chunks)
