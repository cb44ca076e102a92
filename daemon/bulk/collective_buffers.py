"""The memory of one collective: the job's two buffers, and the sums in fp32 of those chunks that are gathered here.

Owns the kernels' calls on them, and who is inside: after `release` nothing here refers to the job's memory, and no
thread is in it. The first partial sum is made in the frame that it leaves in; one that came waits in the chunk's own
place in `out`, so a ring needs no memory besides its buffers. That is safe because the result that will overwrite it is
computed from it: it cannot arrive before the partial sum has left.
"""

import threading
from types import TracebackType

import torch

from intellectd.daemon.bulk.collective_plan import CollectivePlan
from intellectd.daemon.bulk.errors import Stopped, WireError
from intellectd.daemon.bulk.limits import GATHERED_MAX
from intellectd.daemon.bulk.schedules.chunks import Chunk
from intellectd.daemon.bulk.schedules.program import Content
from intellectd.kernels import ops
from intellectd.kernels.codec import FP32
from intellectd.kernels.hops import Hops


class Inside:
    """`with inside:` around each use of the memory. Raises Stopped once it was closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._count = 0
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._closed:
                raise Stopped
            self._count += 1

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _where: TracebackType | None) -> None:
        with self._lock:
            self._count -= 1
            if self._closed:
                self._changed.notify_all()

    def close(self) -> None:
        """Nobody enters any more; returns when all have left, which is one kernel's call on one chunk at most."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._count)


class Buffers:
    def __init__(self, plan: CollectivePlan, own: memoryview, out: memoryview) -> None:
        self._plan = plan
        self._own, self._out = ops.as_bytes(own), ops.as_bytes(out)
        self._own_bytes, self._out_bytes = own.cast("B"), out.cast("B")
        reencodes, mine = plan.codec.may_reencode, plan.weights[plan.me]
        self._hops = Hops(plan.codec, self._own, self._out, mine, plan.divisor) if reencodes else None
        self.inside = Inside()
        self._spare: list[torch.Tensor] = []  # sums that are not in use

    def payload(self, chunk: Chunk, content: Content, room: memoryview) -> memoryview:
        """What a frame is filled with: `room` itself, or of the job's memory. START can be asked for again: it is made
        of this host's delta alone."""
        match content:
            case Content.START:
                if not self._summing.start(chunk.start, chunk.stop, room):
                    raise self._not_finite(chunk)
                return room
            case Content.OWN:
                return self._own_bytes[chunk.part_start : chunk.part_stop]
        return self.place(chunk)

    def place(self, chunk: Chunk) -> memoryview:
        return self._out_bytes[chunk.start : chunk.stop]

    def alone(self, chunk: Chunk) -> None:
        """out <- own, weighted and divided: the result, where nobody else takes part."""
        plan = self._plan
        if not plan.codec.may_reencode:
            total = self.new_sum(chunk)
            self.gather(chunk, total, plan.me, None)
            return self.finish(chunk, total)
        if not ops.ring_hop(plan.codec, None, self._part(chunk), plan.weights[plan.me], plan.divisor, self._at(chunk)):
            raise self._not_finite(chunk)

    def add(self, chunk: Chunk, final: bool) -> None:
        """out <- out + own, weighted, and divided where it is the owner's turn."""
        if self._summing.add(chunk.start, chunk.stop, final):
            return
        if not self._summing.start(chunk.start, chunk.stop, memoryview(bytearray(chunk.size))):
            raise self._not_finite(chunk)  # or too large by its weight
        raise WireError(f"the partial sum it sent in chunk {chunk.index} is not finite")

    def merge(self, chunk: Chunk, incoming: memoryview, final: bool) -> None:
        """out <- incoming + out, and divided where it is the owner's turn."""
        plan, out = self._plan, self._at(chunk)
        divisor = plan.divisor if final else None
        if not ops.ring_hop(plan.codec, ops.as_bytes(incoming), out, 1.0, divisor, out):
            raise WireError(f"the row's sum it sent in chunk {chunk.index} is not finite")

    def check(self, chunk: Chunk) -> None:
        """A result that is not finite is not passed on: whoever first lets one through is the suspect."""
        whole = (chunk.start, chunk.stop)
        finite = self._hops.finite(*whole) if self._hops else ops.finite(self._plan.result, self._at(chunk))
        if not finite:
            raise WireError(f"the result it sent in chunk {chunk.index} is not finite")

    # ---- gathering

    def new_sum(self, chunk: Chunk) -> torch.Tensor:
        for place, spare in enumerate(self._spare):  # not by list.remove, which compares tensors
            if spare.numel() == chunk.elements:
                return self._spare.pop(place).zero_()
        return torch.zeros(chunk.elements)

    def gather(self, chunk: Chunk, total: torch.Tensor, member: int, part: memoryview | None) -> None:
        """total <- total + weight * dec(part); this host's own, if None. Looks at the sum: what a codec takes may be
        too large by its weight, and at the end nobody could tell whose it was."""
        plan = self._plan
        encoded = self._part(chunk) if part is None else ops.as_bytes(part)
        ops.decode_add(plan.codec, encoded, plan.weights[member], total)
        if ops.finite(FP32, total.view(torch.uint8)):
            return
        if part is None:
            raise self._not_finite(chunk)
        raise WireError(f"the part it sent of chunk {chunk.index} is not finite, or not with its weight")

    def finish(self, chunk: Chunk, total: torch.Tensor) -> None:
        if ops.encode_mean(self._plan.result, total, self._plan.divisor, self._at(chunk)) is not None:
            raise ValueError(f"the mean of chunk {chunk.index} is not finite, though its parts are")
        if len(self._spare) < GATHERED_MAX:
            self._spare.append(total)

    # ---- inside

    @property
    def _summing(self) -> Hops:
        assert self._hops is not None, "partial sums travel in a codec that may be encoded anew"
        return self._hops

    def _part(self, chunk: Chunk) -> torch.Tensor:
        return self._own[chunk.part_start : chunk.part_stop]

    def _at(self, chunk: Chunk) -> torch.Tensor:
        return self._out[chunk.start : chunk.stop]

    def _not_finite(self, chunk: Chunk) -> ValueError:
        return ValueError(f"its own delta is not finite in chunk {chunk.index}; it must not be offered to the others")

    def release(self) -> None:
        self.inside.close()
        del self._own, self._out, self._own_bytes, self._out_bytes, self._hops
        self._spare.clear()
