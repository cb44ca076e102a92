"""The schedule of a ring all-reduce, as arithmetic: who starts a chunk, who owns it, which hop goes where.

Owns the cutting of a vector into slices and chunks and the life of one chunk. Refuses to know sockets, threads
and numbers. Among M members, the slice owned by o starts at member o+1, gathers a part at each member on its way
right (hops 0 to M-2), is divided and encoded once by o, and is passed on unchanged (hops M-1 to 2M-3) until
everyone has it. Hop h leaves member o+1+h. All member numbers are modulo M.
"""

from dataclasses import dataclass

from intellectd.daemon.bulk.limits import CHUNK_GROUPS
from intellectd.kernels.codec import GROUP, Codec

CHUNK_ELEMENTS = CHUNK_GROUPS * GROUP


@dataclass(frozen=True, slots=True)
class Chunk:
    index: int
    owner: int
    start: int  # bytes [start, stop) of the encoded vector
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def slice_elements(elements: int, members: int, owner: int) -> tuple[int, int]:
    """Elements [first, last) of the owner's slice, cut at whole groups; with few groups some slices are empty."""
    groups = -(-elements // GROUP)
    first, last = groups * owner // members, groups * (owner + 1) // members
    return min(first * GROUP, elements), min(last * GROUP, elements)


def cut_chunks(codec: Codec, elements: int, members: int) -> tuple[Chunk, ...]:
    """All chunks, in order of position: the same list on every member, so an index names one."""
    chunks: list[Chunk] = []
    for owner in range(members):
        first, last = slice_elements(elements, members, owner)
        for position in range(first, last, CHUNK_ELEMENTS):
            start, stop = codec.byte_range(position, min(position + CHUNK_ELEMENTS, last))
            chunks.append(Chunk(len(chunks), owner, start, stop))
    return tuple(chunks)


def starter(owner: int, members: int) -> int:
    return (owner + 1) % members


def last_hop(members: int) -> int:
    return 2 * members - 3


def is_final(hop: int, members: int) -> bool:
    """Whether what travels in this hop is the result (to be kept as it is), not a partial sum."""
    return hop >= members - 1


def hops_sent(me: int, owner: int, members: int) -> tuple[int, ...]:
    """The hops in which member `me` sends the owner's chunks on, in order: its partial sum, then the result."""
    first = (me - owner - 1) % members
    return tuple(hop for hop in (first, first + members) if hop <= last_hop(members))


def hops_received(me: int, owner: int, members: int) -> tuple[int, ...]:
    """The hops in which `me` gets the owner's chunks. A starter gets only the result, an owner only the sum."""
    first = (me - owner - 2) % members
    return tuple(hop for hop in (first, first + members) if hop <= last_hop(members))
