"""The ring: bytes are what they must be, 2(M-1)/M of the vector each way, and the hops are many.

The slice owned by o starts at member o+1, gathers a part at each member on its way right (steps 0 to M-2), is divided
and encoded once by o, and is passed on unchanged (steps M-1 to 2M-3) until everyone has it. Step h leaves member
o+1+h, modulo M. Patarasu and Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
"""

from collections.abc import Iterator

from intellectd.daemon.bulk.schedules.chunks import Chunk
from intellectd.daemon.bulk.schedules.program import Action, Arrival, Content, Send


class Ring:
    parts_from_own = False

    def __init__(self, me: int, members: int, chunks: tuple[Chunk, ...]) -> None:
        self._me, self._members, self.chunks = me, members, chunks
        self._left, self._right = (me - 1) % members, (me + 1) % members

    def begin(self) -> Iterator[Send]:
        if self._members == 1:
            return
        for chunk in self.chunks:
            if chunk.owner == self._left:
                yield Send(self._right, chunk.index, 0, Content.START)

    def steps_here(self, chunk: int) -> tuple[int, ...]:
        first = (self._me - self.chunks[chunk].owner - 2) % self._members
        return tuple(step for step in (first, first + self._members) if step <= 2 * self._members - 3)

    def arrival(self, chunk: int, step: int) -> Arrival | None:
        members, owner = self._members, self.chunks[chunk].owner
        last = 2 * members - 3
        if not 0 <= step <= last or (owner + 2 + step) % members != self._me:
            return None
        further = (Send(self._right, chunk, step + 1),) if step < last else ()
        if step >= members - 1:
            return Arrival(self._left, Action.STORE, further)
        return Arrival(self._left, Action.FINISH if step == members - 2 else Action.ADD, further)

    def gathered(self, chunk: int) -> tuple[Send, ...]:
        return ()

    def is_result(self, step: int) -> bool:
        return step >= self._members - 1
