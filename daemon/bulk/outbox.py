"""What waits to be sent to one peer, and the writers of all its wires that wait for it.

Owns the two queues (control frames go before all chunks) and the time in which any wire had a chunk in hand.
Refuses to know sockets, and what is in a chunk.
"""

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from intellectd.daemon.bulk.bell import Bell, now_s
from intellectd.daemon.bulk.frames import Header, Outgoing
from intellectd.daemon.bulk.limits import CHUNKS_QUEUED_MAX, CONTROLS_QUEUED_MAX


@dataclass(frozen=True, slots=True)
class Control:
    header: Header
    payload: bytes = b""


class Taker(Protocol):
    """A wire, as the queue sees it. Whoever changes what these say calls `Outbox.wake`."""

    busy: bool  # the outbox's own mark: a chunk is in its hands, or would be if it had room
    bell: Bell | None  # of one that may lack room

    def has_room(self) -> bool:
        """For a chunk. Raises LinkLost, WireError."""
        ...

    def own_control(self) -> Control | None:
        """Something that only this wire may send, if there is anything. Raises Stopped when the wire is to end."""
        ...

    def is_retiring(self) -> bool:
        """Whether it takes no more chunks; its last own control follows when all others are gone."""
        ...


class Full(Enum):
    """Chunks wait, and this wire has no room for any."""

    FULL = 0


FULL = Full.FULL


class Outbox:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # writers
        self._controls: OrderedDict[Control, None] = OrderedDict()
        self._chunks: deque[Outgoing] = deque()
        self._full: dict[int, Bell] = {}  # of wires that wait for room, by their descriptors: words need none
        self._busy_wires = 0
        self._busy_since = 0.0
        self._busy_s = 0.0

    def tell(self, control: Control) -> None:
        """OverflowError: the peer has taken none of the last CONTROLS_QUEUED_MAX."""
        with self._lock:
            if control in self._controls:
                return  # said again while nobody could hear it
            if len(self._controls) >= CONTROLS_QUEUED_MAX:
                raise OverflowError(f"{CONTROLS_QUEUED_MAX} control frames wait for one peer")
            self._controls[control] = None
            self._notify()

    def put_back(self, task: Control | Outgoing) -> None:
        """A wire that broke may not have brought this word over, or did not begin with this chunk."""
        with self._lock:
            if isinstance(task, Control):
                self._controls[task] = None
                self._controls.move_to_end(task, last=False)
            else:
                self._chunks.appendleft(task)
            self._notify()

    def send(self, item: Outgoing, first: bool = False) -> None:
        """OverflowError: CHUNKS_QUEUED_MAX wait already."""
        with self._lock:
            if len(self._chunks) >= CHUNKS_QUEUED_MAX:
                raise OverflowError(f"{CHUNKS_QUEUED_MAX} chunks wait for one peer")
            if first:
                self._chunks.appendleft(item)
            else:
                self._chunks.append(item)
            if self._waiting:
                self._changed.notify()

    def drop(self, transfer: int | None) -> None:
        """Forget all that is queued of a transfer, or (None) everything."""
        with self._lock:
            if transfer is None:
                self._controls.clear()
                self._chunks.clear()
                return
            for control in [control for control in self._controls if control.header.transfer == transfer]:
                del self._controls[control]
            self._drop_chunks(transfer)

    def drop_chunks(self, transfer: int) -> None:
        """Of a transfer, and nothing else."""
        with self._lock:
            self._drop_chunks(transfer)

    def _drop_chunks(self, transfer: int) -> None:
        if self._chunks:
            self._chunks = deque(item for item in self._chunks if item.header.transfer != transfer)

    def forget_chunks(self) -> None:
        with self._lock:
            self._chunks.clear()

    def wake(self) -> None:
        """Let every waiting wire look again."""
        with self._lock:
            self._changed.notify_all()
            self._ring()

    def _notify(self) -> None:
        self._changed.notify()
        self._ring()

    def _ring(self) -> None:
        for bell in self._full.values():
            bell.ring()

    def take(self, wire: Taker, timeout_s: float) -> Control | Outgoing | Full | None:
        """The next thing for this wire; None when there is nothing in time; FULL when there are chunks alone and it has
        no room: from then on its bell rings for everything else. Raises Stopped, and what `has_room` does."""
        until = 0.0
        with self._lock:
            self._waits_no_more(wire)
            while True:
                own = wire.own_control()
                if own is not None and not (wire.is_retiring() and self._controls):
                    self._rests(wire)
                    return own
                if self._controls:
                    return self._controls.popitem(last=False)[0]
                if self._chunks:  # a retiring wire has left by now
                    self._works(wire)
                    if wire.has_room():
                        return self._chunks.popleft()
                    assert wire.bell is not None
                    self._full[wire.bell.fileno()] = wire.bell
                    self._changed.notify()  # what it was woken for another has room for, perhaps
                    return FULL
                self._rests(wire)
                until = until or now_s() + timeout_s
                self._waiting += 1
                try:
                    rung = self._changed.wait(until - now_s())
                finally:
                    self._waiting -= 1
                if not rung and until <= now_s():
                    return None

    def leave(self, wire: Taker) -> None:
        """The wire has ended."""
        with self._lock:
            self._rests(wire)
            self._waits_no_more(wire)
            self._notify()  # what it was woken for is another's to take

    def _waits_no_more(self, wire: Taker) -> None:
        if wire.bell is not None and self._full.pop(wire.bell.fileno(), None) is not None:
            wire.bell.silence()

    def busy_s(self) -> float:
        """Seconds so far in which any wire had a chunk in hand."""
        with self._lock:
            running = now_s() - self._busy_since if self._busy_wires else 0.0
            return self._busy_s + running

    def _works(self, wire: Taker) -> None:
        if not wire.busy:
            wire.busy = True
            if not self._busy_wires:
                self._busy_since = now_s()
            self._busy_wires += 1

    def _rests(self, wire: Taker) -> None:
        if wire.busy:
            wire.busy = False
            self._busy_wires -= 1
            if not self._busy_wires:
                self._busy_s += now_s() - self._busy_since
