"""Turns to dial: so many at once, and first whoever is most likely to answer.

Owns their bound and order. An address that never answers holds its turn for as long as a dial may take, and a host that
is gone has eight of them: those from whom nothing was heard wait behind all others, the first address of each before
the second of any, and never hold all turns. Refuses to know what is done in a turn.
"""

import heapq
import itertools

import trio

Wish = tuple[bool, int, int, trio.Event]  # doubtful, which of its peer's addresses, when it came


class Turns:
    def __init__(self, at_once: int, doubtful_at_once: int) -> None:
        self._free, self._free_of_doubtful = at_once, doubtful_at_once
        self._waiting: list[Wish] = []
        self._numbers = itertools.count()

    async def begin(self, doubtful: bool, rank: int) -> None:
        """Wait for a turn; `rank`: the place of an address among those of its peer. `end` is to follow."""
        begins = trio.Event()
        wish = (doubtful, rank, next(self._numbers), begins)
        heapq.heappush(self._waiting, wish)
        self._begin_next()
        try:
            await begins.wait()
        except trio.Cancelled:
            if begins.is_set():
                self.end(doubtful)
            else:
                self._waiting.remove(wish)
                heapq.heapify(self._waiting)
            raise

    def end(self, doubtful: bool) -> None:
        self._free += 1
        self._free_of_doubtful += doubtful
        self._begin_next()

    def _begin_next(self) -> None:
        """The doubtful stand last: where the first of them may not begin, none that waits may."""
        while self._waiting and self._free and (self._free_of_doubtful or not self._waiting[0][0]):
            doubtful, _, _, begins = heapq.heappop(self._waiting)
            self._free -= 1
            self._free_of_doubtful -= doubtful
            begins.set()
