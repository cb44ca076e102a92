"""Whose bytes go next, of all that are served: equal shares for the peers that want some, within one rate for all.

Owns the order (FairQueue, pure) and its sharing between threads (Turns). Refuses to know what is sent, and does not
slow anybody where no rate is known: then TCP shares the line, and the bounds are on connections and unsent bytes.
"""

import threading
from collections import deque
from collections.abc import Callable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.limits import PACE_BURST_S, SERVE_BURST_BYTES, SERVE_GRAIN_MIN, SERVE_GRAIN_S, TURN_LOOK_S


class FairQueue:
    """Start-time fair queueing (Goyal, Vin, Cheng 1996): whoever has had least goes next, and who comes later begins
    where the others are. One peer's several connections take turns within its share."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[int]] = {}  # tickets by peer
        self._had: dict[str, float] = {}  # bytes, counted from where the peer came in
        self._now = 0.0  # what whoever went last had had
        self._tickets = 0

    def ask(self, peer: str) -> int:
        """A ticket."""
        self._tickets += 1
        if peer not in self._waiting:
            self._waiting[peer] = deque()
            self._had[peer] = max(self._had.get(peer, 0.0), self._now)
        self._waiting[peer].append(self._tickets)
        return self._tickets

    def head(self) -> int | None:
        """The ticket whose turn it is."""
        peer = self._next()
        return self._waiting[peer][0] if peer is not None else None

    def go(self, count: int) -> None:
        """The head goes with so many bytes."""
        peer = self._next()
        assert peer is not None
        self._now = self._had[peer]
        self._had[peer] += count
        self.leave(peer, self._waiting[peer][0])

    def leave(self, peer: str, ticket: int) -> None:
        self._waiting[peer].remove(ticket)
        if not self._waiting[peer]:
            del self._waiting[peer]
        # Who is not ahead of the others needs not be remembered: it would begin where they are anyway.
        self._had = {key: had for key, had in self._had.items() if key in self._waiting or had > self._now}

    def _next(self) -> str | None:
        return min(self._waiting, key=lambda peer: (self._had[peer], self._waiting[peer][0]), default=None)


class Turns:
    """`rate`: bytes/s that all may take together at this moment, None for as much as there is."""

    def __init__(self, rate: Callable[[], float | None], clock: Callable[[], float] = now_s) -> None:
        self._rate, self._clock = rate, clock
        self._changed = threading.Condition()
        self._queue = FairQueue()
        self._free_at = 0.0  # when the line has carried what was granted

    def take(self, peer: str, wanted: int, check: Callable[[], None]) -> int:
        """How many of `wanted` bytes may be sent now, at least one; waits for this peer's turn. `check` is called while
        it waits, and what that raises is raised here."""
        if self._rate() is None:
            return min(wanted, SERVE_BURST_BYTES)
        with self._changed:
            ticket = self._queue.ask(peer)
            try:
                while (wait_s := self._wait_s(ticket)) > 0:
                    self._changed.wait(min(wait_s, TURN_LOOK_S))
                    check()
            except BaseException:
                self._queue.leave(peer, ticket)
                self._changed.notify_all()
                raise
            rate = self._rate()
            count = min(wanted, _grain(rate))
            if rate is not None:
                self._free_at = max(self._clock() - PACE_BURST_S, self._free_at) + count / rate
            self._queue.go(count)
            self._changed.notify_all()
            return count

    def settle(self, check: Callable[[], None]) -> None:
        """Wait until the line has carried what was granted so far: who is served must not see its end sooner."""
        with self._changed:
            until = self._free_at
            while (wait_s := min(until, self._free_at) - self._clock()) > 0:
                self._changed.wait(min(wait_s, TURN_LOOK_S))
                check()

    def changed(self) -> None:
        """The rate is another: what was waited for at the old one is not waited for any more."""
        with self._changed:
            self._free_at = min(self._free_at, self._clock() + SERVE_GRAIN_S)
            self._changed.notify_all()

    # ---- under the lock

    def _wait_s(self, ticket: int) -> float:
        if self._queue.head() != ticket:
            return TURN_LOOK_S
        return self._free_at - self._clock() if self._rate() is not None else 0.0


def _grain(rate: float | None) -> int:
    if rate is None:
        return SERVE_BURST_BYTES
    return max(SERVE_GRAIN_MIN, min(SERVE_BURST_BYTES, int(rate * SERVE_GRAIN_S)))
