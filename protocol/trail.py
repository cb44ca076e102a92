"""Where another line of history may have parted from ours: points of our own, whole enough to check what follows.

Owns the newest TRAIL_HEADS heads, those at which a branch begins, genesis, and older ones ever further apart. Refuses
to know rivals.
"""

from bisect import bisect_left

from intellectd.protocol import limits
from intellectd.protocol.head import Head


class Trail:
    def __init__(self, genesis: Head) -> None:
        self._heads = [genesis]

    def add(self, head: Head) -> None:
        self._heads.append(head)
        if head.round % limits.TRAIL_HEADS == 0:
            self._thin()

    def cut(self, head: Head) -> None:
        """What came after `head` is no longer ours."""
        self._heads = [h for h in self._heads if h.round <= head.round]

    def back(self, rounds: int) -> Head:
        """The newest point that lies at least so far before our head, genesis at the latest."""
        wanted = self._heads[-1].round - rounds
        return next((h for h in reversed(self._heads) if h.round <= wanted), self._heads[0])

    def knows(self, head: Head) -> bool:
        """Is this a point of our own line?"""
        place = bisect_left(self._heads, head.round, key=lambda h: h.round)
        return place < len(self._heads) and self._heads[place].hash == head.hash

    def at(self, round_: int) -> Head | None:
        """The point after this round, if it is kept."""
        place = bisect_left(self._heads, round_, key=lambda h: h.round)
        return self._heads[place] if place < len(self._heads) and self._heads[place].round == round_ else None

    def stands(self, round_: int, hash_: bytes) -> bool:
        """Is this, by its hash, a point of our own line that is kept?"""
        head = self.at(round_)
        return head is not None and head.hash == hash_

    def _thin(self) -> None:
        """Of the old ones some stay, so that no gap is wide beside its age: who parted long ago is found near by."""
        kept, newest = self._heads[:1], self._heads[-1].round
        for head, after in zip(self._heads[1:], self._heads[2:], strict=False):
            age = newest - head.round
            # A rival that knows no branch parted at the point before it at latest.
            branches = head.generation != after.generation
            if age < limits.TRAIL_HEADS or branches or after.round - kept[-1].round > age // limits.TRAIL_GAP:
                kept.append(head)
        self._heads = [*kept, self._heads[-1]] if len(self._heads) > 1 else kept
