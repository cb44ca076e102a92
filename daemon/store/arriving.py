"""What has come of a state that is on its way here, for others that fetch it, too (SPEC K11).

Owns that no byte is given which is not proven. Refuses to know who asks.
"""

import errno
import itertools
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from intellectd.daemon.store.incoming import Incoming, state_borders
from intellectd.daemon.store.snapshot import ELEMENT_BYTES


@dataclass(frozen=True)
class Arriving:
    """`round` as in the names of objects: 0 stands for the first parameters."""

    round: int
    incoming: Incoming
    borders: tuple[int, ...]

    @property
    def held(self) -> bytes:
        """A bit for each piece, the lowest first."""
        return np.packbits(np.frombuffer(self.incoming.flags(), dtype=np.uint8), bitorder="little").tobytes()

    @property
    def state(self) -> "ProvenPart":
        return ProvenPart(self.incoming, self.borders)


class ProvenPart:
    """As long as the whole state; what is not proven yet cannot be read (bulk/interface.py: ServedObject)."""

    def __init__(self, incoming: Incoming, borders: tuple[int, ...]) -> None:
        self._incoming, self._borders, self._data = incoming, borders, incoming.data.toreadonly()
        self.nbytes = borders[-1]

    def part(self, start: int, stop: int) -> memoryview:
        """Of [start, stop) what lies in the first piece. Raises OSError."""
        piece = bisect_right(self._borders, start) - 1
        if not self._incoming.is_proven(piece):
            raise OSError(errno.ENODATA, f"piece {piece} is not here yet")
        return self._data[start : min(stop, self._borders[piece + 1])]


def all_held(state_bytes: int) -> bytes:
    """As `Arriving.held`, of a state that is here."""
    pieces = len(list(itertools.pairwise(state_borders(state_bytes // (2 * ELEMENT_BYTES)))))
    return np.packbits(np.ones(pieces, dtype=np.uint8), bitorder="little").tobytes()
