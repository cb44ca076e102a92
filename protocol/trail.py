"""Where another line of history may have parted from ours: points of our own, whole enough to check what follows.

Owns the newest TRAIL_HEADS heads, those at which a branch begins, and genesis. Refuses to know rivals.
"""

from intellectd.protocol import limits
from intellectd.protocol.entries import Head


class Trail:
    def __init__(self, genesis: Head) -> None:
        self._heads = [genesis]

    def add(self, head: Head) -> None:
        self._heads.append(head)
        old = len(self._heads) - limits.TRAIL_HEADS
        # Beyond the newest, only the point before a branch stays: a rival that knows no branch parted there at latest.
        if old > 0 and self._heads[old].generation == self._heads[old + 1].generation:
            del self._heads[old]

    def cut(self, head: Head) -> None:
        """What came after `head` is no longer ours."""
        self._heads = [h for h in self._heads if h.round <= head.round]

    def back(self, steps: int) -> Head:
        """So many points before the newest, genesis at the latest."""
        return self._heads[max(0, len(self._heads) - 1 - steps)]

    def __len__(self) -> int:
        return len(self._heads)
