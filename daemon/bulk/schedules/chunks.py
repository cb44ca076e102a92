"""Cutting a vector: into a slice for each owner, and those into chunks, which travel each by itself.

Owns positions in the encoded vectors. Refuses to know who sends what.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.daemon.bulk.limits import CHUNK_GROUPS
from intellectd.kernels.codec import GROUP, Codec, update_codec

CHUNK_ELEMENTS = CHUNK_GROUPS * GROUP


@dataclass(slots=True)
class Chunk:
    """Nobody changes one. (Not frozen, as that takes three times as long to make: a large model has 100,000, which
    whoever starts a collective makes in its event loop.)"""

    index: int
    owner: int  # a member's number
    elements: int
    start: int  # bytes [start, stop) of the encoded mean
    stop: int
    part_start: int  # likewise of an encoded delta: elsewhere only where its codec is another
    part_stop: int

    @property
    def size(self) -> int:
        """Of the result, and of a sum on its way."""
        return self.stop - self.start

    @property
    def part_size(self) -> int:
        """Of a delta's part as it was encoded."""
        return self.part_stop - self.part_start


def equal_shares(members: int) -> tuple[int, ...]:
    return (1,) * members


def slice_elements(elements: int, shares: Sequence[int], owner: int) -> tuple[int, int]:
    """Elements [first, last) of the owner's slice, in proportion to its share, cut at whole groups; with few groups
    some slices are empty."""
    groups, whole = -(-elements // GROUP), sum(shares)
    before = sum(shares[:owner])
    first, last = groups * before // whole, groups * (before + shares[owner]) // whole
    return min(first * GROUP, elements), min(last * GROUP, elements)


def cut_slices(codec: Codec, elements: int, shares: Sequence[int]) -> tuple[Chunk, ...]:
    """Each owner's whole slice as one chunk; who has none is left out."""
    slices: list[Chunk] = []
    result = update_codec(codec)
    for owner in range(len(shares)):
        first, last = slice_elements(elements, shares, owner)
        if first < last:
            whole, part = result.byte_range(first, last), codec.byte_range(first, last)
            slices.append(Chunk(len(slices), owner, last - first, *whole, *part))
    return tuple(slices)


def cut_chunks(codec: Codec, elements: int, shares: Sequence[int]) -> tuple[Chunk, ...]:
    """All chunks, in order of position: the same list on every member, so an index names one."""
    chunks: list[Chunk] = []
    # Slices start at whole groups, which are encoded each by itself: so all chunks but a slice's last are alike.
    size, part_size = update_codec(codec).encoded_bytes(CHUNK_ELEMENTS), codec.encoded_bytes(CHUNK_ELEMENTS)
    for slice_ in cut_slices(codec, elements, shares):
        owner, left, start, part_start = slice_.owner, slice_.elements, slice_.start, slice_.part_start
        while left > CHUNK_ELEMENTS:
            chunks.append(
                Chunk(len(chunks), owner, CHUNK_ELEMENTS, start, start + size, part_start, part_start + part_size)
            )
            left, start, part_start = left - CHUNK_ELEMENTS, start + size, part_start + part_size
        chunks.append(Chunk(len(chunks), owner, left, start, slice_.stop, part_start, slice_.part_stop))
    return tuple(chunks)
