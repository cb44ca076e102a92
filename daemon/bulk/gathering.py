"""Parts that are summed in the open, in fp32 and in the members' order, whoever's comes first.

Owns the sums of those chunks that are being gathered: those of the first GATHERED_MAX that are not finished. What
comes too early waits in its wire's thread, which holds its sender up. Refuses to know wires.
"""

import threading
from dataclasses import dataclass

import torch

from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.limits import GATHERED_MAX
from intellectd.daemon.bulk.schedules.chunks import Chunk


@dataclass
class _Sum:
    total: torch.Tensor
    next: int  # whose part is added next
    mine: bool = False  # this host's is in


class Gathering:
    def __init__(self, me: int, members: int, order: list[int], buffers: Buffers, changed: threading.Condition) -> None:
        """`order`: the chunks that are gathered here, as every member sends them; but after a loss, and on several
        wires, they come in any."""
        self._me, self._buffers, self._changed = me, buffers, changed
        self._others = [member for member in range(members) if member != me]
        self._order, self._place = order, {index: place for place, index in enumerate(order)}
        self._finished = bytearray(len(order))
        self._low = 0  # the first place that is not finished
        self._sums: dict[int, _Sum] = {}

    def is_turn(self, chunk: Chunk, member: int) -> bool:
        """May this member's part be added now? Under the lock. No other part of the chunk may before `add` is done."""
        found = self._sums.get(chunk.index)
        if found is None:
            if self.is_far(chunk):
                return False
            found = self._sums[chunk.index] = _Sum(self._buffers.new_sum(chunk), self._others[0])
        return found.next == member

    def is_far(self, chunk: Chunk) -> bool:
        """Too early, whoever's. Under the lock."""
        return self._place[chunk.index] >= self._low + GATHERED_MAX

    def near(self) -> list[int]:
        """The chunks that are not far. Under the lock."""
        return self._order[self._low : self._low + GATHERED_MAX]

    def add(self, chunk: Chunk, member: int, part: memoryview) -> bool:
        """True when it was the last, and the mean is in `out`. Raises WireError for what is not finite."""
        found, buffers, last = self._sums[chunk.index], self._buffers, member == self._others[-1]
        if self._me < member and not found.mine:
            buffers.gather(chunk, found.total, self._me, None)
            found.mine = True
        buffers.gather(chunk, found.total, member, part)
        if last:
            if not found.mine:
                buffers.gather(chunk, found.total, self._me, None)
            buffers.finish(chunk, found.total)
        with self._changed:
            if last:
                del self._sums[chunk.index]
                self._finished[self._place[chunk.index]] = 1
                unfinished = self._finished.find(0, self._low)
                self._low = unfinished if unfinished >= 0 else len(self._order)
            else:
                found.next = self._others[self._others.index(member) + 1]
            self._changed.notify_all()
        return last

    def release(self) -> None:
        """It is over, and nobody is inside."""
        with self._changed:
            self._sums.clear()
