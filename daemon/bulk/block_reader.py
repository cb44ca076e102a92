"""An object's bytes out of the blocks that a donor packs them in, as if they had come as they are.

Owns what is left of the block that was read last, at most PACK_BLOCK_MAX. Refuses to know pieces.
"""

from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.packing import BLOCK, block_of, unpack


class BlockReader:
    def __init__(self, link: Link, length: int) -> None:
        self._link, self._left = link, length  # plain bytes that are not read from the link yet
        self._block = memoryview(b"")

    def read_exactly(self, into: memoryview, stall_s: float) -> None:
        """Fill `into`. Raises what a link does, and WireError."""
        while into:
            if not self._block:
                self._block = self._next(stall_s)
            count = min(len(into), len(self._block))
            into[:count] = self._block[:count]
            into, self._block = into[count:], self._block[count:]

    def _next(self, stall_s: float) -> memoryview:
        plain, wire = block_of(self._link.read_bytes(BLOCK.size, stall_s), self._left)
        self._left -= plain
        return memoryview(unpack(memoryview(self._link.read_bytes(wire, stall_s)), plain))
