"""What the threads of one collective share: its books, under one lock, and whether it is over.

Owns counts, neighbours and the words that frames begin with. Refuses to know when a neighbour is to be blamed, and what
kernels do.
"""

import threading

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import CollectivePlan
from intellectd.daemon.bulk.errors import Failure, Stopped, WireError
from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind
from intellectd.daemon.bulk.neighbour import Neighbour
from intellectd.daemon.bulk.sealed import TAG_BYTES
from intellectd.daemon.bulk.transfer import Transfer

FRAME_OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES


class Books:
    def __init__(self, plan: CollectivePlan, buffers: Buffers, transfer: Transfer, epoch: int) -> None:
        """`epoch`: of this attempt. One transfer may be tried again, and frames of the last try may still be about."""
        self.plan, self.buffers, self.transfer, self.epoch = plan, buffers, transfer, epoch
        # The lock of everything here, by itself: it is taken for each frame, and a Condition's own `with` is Python.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # rung when what threads wait for may be so
        self.over = threading.Event()  # complete, or failed
        self.neighbours: dict[str, Neighbour] = {}
        self.by_number: dict[int, Neighbour] = {}
        self.left = bytearray(len(plan.chunks))  # this host's part of the chunk has gone to the next member
        self.resulted = bytearray(len(plan.chunks))  # its result has come, or is about to be put into its place
        self.moved_bytes = self.received_bytes = self.sent_bytes = 0
        self._came_bytes = self._most_came = self._most_went = 0  # of payload
        self._coming: dict[int, int] = {}  # bytes of the chunk that a wire's thread is reading
        self.chunk_at = now_s()  # when one came last, or some of one
        self._arrivals, self._departures = sum(plan.arrivals.values()), sum(plan.departures.values())

    def meet(self, neighbours: dict[str, Neighbour]) -> None:
        self.by_number = {neighbour.number: neighbour for neighbour in neighbours.values()}
        self.neighbours = neighbours

    def known(self, peer: str) -> Neighbour | None:
        """None before this host has begun. Raises WireError for a stranger."""
        neighbour = self.neighbours.get(peer)
        if neighbour is None and peer not in self.plan.members:
            raise WireError("it speaks of a transfer between others")
        return neighbour

    def word(self, kind: Kind, flag: int = 0, chunk: int = 0) -> Header:
        """The header of a control frame, which says of which attempt of this host it is."""
        return Header(kind, flag, self.epoch, chunk, self.plan.key)

    def fail(self, failure: Failure) -> None:
        """The first one counts. Whoever waits here leaves."""
        self.transfer.fail(failure)
        self.over.set()
        with self.changed:
            self.changed.notify_all()

    def check(self) -> None:
        if self.over.is_set():
            raise Stopped

    def stirs(self, neighbour: Neighbour, count: int) -> None:
        """So many bytes of one of its chunks have come, in the thread that reads it; without the lock."""
        now, thread = now_s(), threading.get_ident()
        self._coming[thread] = self._coming.get(thread, 0) + count
        if neighbour.stirs(count, now):
            self.chunk_at = now

    def progress_bytes(self) -> int:
        """Of payload, both ways; it only grows. Bytes that come count before their chunk is whole: on a slow line none
        may be for longer than an attempt bears with a transfer in which nothing moves. By one thread."""
        self._most_came = max(self._most_came, self._came_bytes + sum(list(self._coming.values())))
        self._most_went = max(self._most_went, self.moved_bytes - self._came_bytes)
        return min(self._most_came + self._most_went, self.plan.payload_bytes)

    # ---- counts; under the lock

    def came(self, neighbour: Neighbour, size: int) -> None:
        self._coming.pop(threading.get_ident(), None)
        self._came_bytes += size
        self.chunk_at = now_s()
        neighbour.heard(self.chunk_at)
        neighbour.nudges = 0
        neighbour.arrivals -= 1
        self._arrivals -= 1
        self.moved_bytes += size
        self.received_bytes += size + FRAME_OVERHEAD_BYTES

    def went(self, neighbour: Neighbour, size: int) -> None:
        neighbour.moved_at = now_s()
        neighbour.waiting -= 1
        neighbour.departures -= 1
        self._departures -= 1
        self.moved_bytes += size
        self.sent_bytes += size + FRAME_OVERHEAD_BYTES

    def breaks(self, neighbour: Neighbour, reason: str) -> None:
        neighbour.breaks(reason)
        self._coming.clear()  # some of it comes anew
        self.changed.notify_all()

    def goes_again(self, neighbour: Neighbour, size: int) -> None:
        """It counts when it has gone again; the bytes on the wire count twice."""
        self.moved_bytes -= size
        neighbour.waiting += 1
        neighbour.departures += 1
        self._departures += 1

    @property
    def complete(self) -> bool:
        return self._arrivals == self._departures == 0 and not any(
            neighbour.unsure for neighbour in self.neighbours.values()
        )

    @property
    def settling(self) -> bool:
        """All has come and gone; whether it is there, not all have said whose connections broke."""
        return self._arrivals == self._departures == 0
