"""One ring on this host, as its two threads share it: the plan, the buffers, what was sent, who may touch what.

Owns the meeting of the receiver's and the sender's thread. Refuses to know sockets and frames.

A chunk's partial sum waits in the chunk's own place in `out`, so a ring needs no memory besides its buffers.
That is safe because the result which will overwrite it is computed from it: it cannot arrive before the partial
sum has left (`await_sent` holds a peer to that that claims otherwise).
"""

import math
import threading
from dataclasses import dataclass

from intellectd.daemon.bulk.bell import Mailbox
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.interface import RingJob
from intellectd.daemon.bulk.ring import Chunk, cut_chunks, hops_received, hops_sent, last_hop
from intellectd.daemon.bulk.transfer import Transfer
from intellectd.kernels import ops
from intellectd.kernels.codec import Codec, ring_codec


@dataclass(frozen=True)
class RingPlan:
    """What every member of a ring computes alike, seen from member number `me`."""

    members: tuple[str, ...]
    me: int
    weight: float
    divisor: float
    codec: Codec
    chunks: tuple[Chunk, ...]

    @property
    def left(self) -> str:
        return self.members[self.me - 1]

    @property
    def right(self) -> str:
        return self.members[(self.me + 1) % len(self.members)]

    def hops_received(self, chunk: Chunk) -> tuple[int, ...]:
        return hops_received(self.me, chunk.owner, len(self.members))

    def hops_sent(self, chunk: Chunk) -> tuple[int, ...]:
        return hops_sent(self.me, chunk.owner, len(self.members))

    @property
    def last_hop(self) -> int:
        return last_hop(len(self.members))

    @property
    def payload_bytes(self) -> int:
        """Both ways through this host, headers left out; what it works through, where it is alone."""
        if len(self.members) == 1:
            return sum(chunk.size for chunk in self.chunks)
        hops = ((chunk.size, len(self.hops_received(chunk)) + len(self.hops_sent(chunk))) for chunk in self.chunks)
        return sum(size * count for size, count in hops)


def plan_of(job: RingJob, peer_id: str) -> RingPlan:
    """The plan of a job, or ValueError saying which of its parts do not fit together."""
    members, weights = job.members, job.weights
    if len(set(members)) != len(members) or peer_id not in members:
        raise ValueError(f"a ring's members are distinct and include this host; got {', '.join(members)}")
    if len(weights) != len(members) or not all(math.isfinite(w) and w >= 0 for w in weights) or not sum(weights) > 0:
        raise ValueError(f"{len(members)} members need as many weights, finite and not all 0; got {weights}")
    codec = ring_codec(job.codec)
    size = codec.encoded_bytes(job.elements)
    if job.elements <= 0 or job.own.nbytes != size or job.out.nbytes != size or job.out.readonly:
        raise ValueError(
            f"{job.elements} elements of {codec.name} are {size} bytes; own has {job.own.nbytes}, "
            f"out has {job.out.nbytes} and is {'read-only' if job.out.readonly else 'writable'}"
        )
    me = members.index(peer_id)
    return RingPlan(members, me, weights[me], sum(weights), codec, cut_chunks(codec, job.elements, len(members)))


class RingBuffers:
    """The job's two buffers, as the kernels want them. After `release` nothing here refers to them."""

    def __init__(self, plan: RingPlan, own: memoryview, out: memoryview) -> None:
        self._plan = plan
        self._own = ops.as_bytes(own)
        self._out = ops.as_bytes(out)
        self._place = out.cast("B")

    def place(self, chunk: Chunk) -> memoryview:
        return self._place[chunk.start : chunk.stop]

    def start(self, chunk: Chunk) -> None:
        """out <- own, weighted: the first partial sum; the result, where this host is alone."""
        self._hop(chunk, incoming=False, final=len(self._plan.members) == 1)

    def add(self, chunk: Chunk, final: bool) -> None:
        """out <- out + own, weighted, and divided where it is the owner's turn."""
        self._hop(chunk, incoming=True, final=final)

    def check(self, chunk: Chunk) -> None:
        """A result that is not finite is not passed on: whoever first lets one through is the suspect."""
        if not ops.finite(self._plan.codec, self._out[chunk.start : chunk.stop]):
            raise WireError(f"the result it sent in chunk {chunk.index} is not finite")

    def _hop(self, chunk: Chunk, incoming: bool, final: bool) -> None:
        plan = self._plan
        own, out = self._own[chunk.start : chunk.stop], self._out[chunk.start : chunk.stop]
        divisor = plan.divisor if final else None
        if ops.ring_hop(plan.codec, out if incoming else None, own, plan.weight, divisor, out):
            return
        if not incoming or not ops.finite(plan.codec, own):
            raise ValueError(f"its own delta is not finite in chunk {chunk.index}; it must not be offered to a ring")
        raise WireError(f"the partial sum it sent in chunk {chunk.index} is not finite")

    def release(self) -> None:
        del self._own, self._out, self._place


class RingState:
    """Where the two threads meet. The receiver owns `buffers` but for chunks in `to_send`."""

    def __init__(self, plan: RingPlan, buffers: RingBuffers, transfer: Transfer) -> None:
        self.plan = plan
        self.buffers = buffers
        self.transfer = transfer
        # A chunk leaves at most twice, so the receiver never has to wait for room: it can always drain its
        # neighbour, and a ring of members that wait for each other cannot come about.
        self.to_send: Mailbox[tuple[Chunk, int]] = Mailbox(2 * len(plan.chunks))
        self.total_bytes = plan.payload_bytes
        self.received_bytes = 0  # written by the receiver
        self.sent_bytes = 0  # written by the sender
        self._sent = bytearray(len(plan.chunks))
        self._changed = threading.Condition()
        self._sender_inside = False
        self._sender_left = False

    def sender_enters(self) -> None:
        """The sender is among the buffers from now on. Once the transfer has stopped it does not get in any more."""
        with self._changed:
            self.transfer.stop.check()
            self._sender_inside = True

    def sender_leaves(self) -> None:
        """For good. To be called when nothing refers to the buffers, not even an exception's traceback."""
        with self._changed:
            self._sender_inside = False
            self._sender_left = True
            self._changed.notify_all()

    def mark_sent(self, chunk: Chunk) -> None:
        with self._changed:
            self._sent[chunk.index] = True
            self._changed.notify_all()

    def await_sent(self, chunk: Chunk) -> None:
        """Until the chunk's partial sum has left its place. A moment: the neighbour may be faster than a thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._sent[chunk.index] or self._sender_left, self.transfer.stall_s)
        self.transfer.stop.check()
        if not self._sent[chunk.index]:
            raise WireError(f"it sent a result of chunk {chunk.index} that lacks this host's part")

    def await_sender_done(self) -> None:
        """Until the sender has sent all, or failed; its own stall and deadline bound this."""
        with self._changed:
            self._changed.wait_for(lambda: self._sender_left)

    def await_sender_outside(self) -> None:
        """After a stop: until the buffers are free, which is one kernel call on one chunk at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._sender_inside)

    def thread_ends(self) -> None:
        if self.transfer.thread_ends():
            self.to_send.close()
