"""Direct exchange: two steps whatever the number of members, each with all others at once.

Each member owns a slice, in proportion to its share. In step s every member but the owner sends its encoded part of
the slice to it, where s is that member's number; the owner sums them in fp32, in the members' order, divides once, and
sends the result to all in step M. Nothing is encoded anew on the way, so codecs under 8 bits are for this schedule.
"""

from collections.abc import Iterator
from itertools import chain, zip_longest

from intellectd.daemon.bulk.schedules.chunks import Chunk
from intellectd.daemon.bulk.schedules.program import Action, Arrival, Content, Send


class Direct:
    parts_from_own = True

    def __init__(self, me: int, members: int, chunks: tuple[Chunk, ...]) -> None:
        self._me, self._members, self.chunks = me, members, chunks

    def begin(self) -> Iterator[Send]:
        """A chunk to each owner in turn, so that none of them waits for the others' slices to be through."""
        members, me = self._members, self._me
        slices: list[list[Chunk]] = [[] for _ in range(members)]
        for chunk in self.chunks:
            slices[chunk.owner].append(chunk)
        in_turn = [slices[(me + distance) % members] for distance in range(1, members)]
        for chunk in chain.from_iterable(zip_longest(*in_turn)):
            if chunk is not None:
                yield Send(chunk.owner, chunk.index, me, Content.OWN)

    def steps_here(self, chunk: int) -> tuple[int, ...]:
        if self.chunks[chunk].owner != self._me:
            return (self._members,)
        return tuple(step for step in range(self._members) if step != self._me)

    def arrival(self, chunk: int, step: int) -> Arrival | None:
        owner = self.chunks[chunk].owner
        if owner == self._me:
            return Arrival(step, Action.GATHER) if 0 <= step < self._members and step != owner else None
        return Arrival(owner, Action.STORE) if step == self._members else None

    def gathered(self, chunk: int) -> tuple[Send, ...]:
        if self.chunks[chunk].owner != self._me:
            return ()
        return tuple(Send(to, chunk, self._members) for to in range(self._members) if to != self._me)

    def is_result(self, step: int) -> bool:
        return step == self._members
