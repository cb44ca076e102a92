"""Two peers that cannot dial each other meet here: each dials this host and names the other, and is joined with it.

Owns who waits, and the threads that pass bytes on. Refuses to know what they say: under their own TLS handshake and
keys, which begin when this host has joined them, nothing can be read or changed here that they would not notice. SPEC
D11. Bounded: RELAYS_MAX pairs, one thread and two buffers each, and as many who wait; what one side does not take is
not read from the other.
"""

import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.errors import BulkError, LinkLost, LinkSilent, Stopped, WireError
from intellectd.daemon.bulk.limits import (
    RELAY_BUFFER_BYTES,
    RELAY_WAIT_S,
    RELAYS_MAX,
    RELAYS_PER_PEER_MAX,
    REQUEST_S,
    SILENT_S,
)
from intellectd.daemon.bulk.link import FOREVER_S, Link
from intellectd.daemon.bulk.pace import UNLIMITED, Pace
from intellectd.daemon.bulk.wire import Header, Kind, Refusal, RelayRequest, encode_header

DIALS, HEARS = 0, 1  # the flag of the GO to each: who begins the handshake


@dataclass(frozen=True)
class _Waiting:
    link: Link
    until: float


class Relay:
    def __init__(self, crew: Crew, knows: Callable[[str], bool], pace: Pace = UNLIMITED) -> None:
        """`knows`: is it a peer that this host trusts?"""
        self._crew, self._knows, self._pace = crew, knows, pace
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], _Waiting] = {}  # (who waits, for whom), oldest first
        self._joined: dict[Stop, tuple[str, str]] = {}
        self._closed = False
        self.passed_bytes = 0  # on, in both directions of all pairs

    def accept(self, link: Link, request: RelayRequest) -> None:
        """In the listener's thread, which is let go at once. Takes the link over. Raises what a link does."""
        link.hand_over(None, FOREVER_S)
        why = Refusal.UNKNOWN_PEER if not self._knows(request.to) or request.to == link.peer else None
        with self._lock:
            if why is None:
                self._forget_joined({link.peer, request.to})
            other, stop = self._met(link, request.to) if why is None else (None, None)
            if why is None and other is None and not self._waits(link, request.to):
                why = Refusal.BUSY
        if why is not None:
            with link_closing(link):
                link.write_all(memoryview(encode_header(Header(Kind.REFUSED, flag=why))), REQUEST_S)
        elif other is not None and stop is not None:
            self._join(other, link, stop)

    def pairs(self) -> list[tuple[str, str]]:
        """Who is joined here now."""
        with self._lock:
            return list(self._joined.values())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
            for stop in self._joined:
                stop.set()
        for one in waiting:
            one.link.close()

    def _forget_joined(self, pair: set[str]) -> None:
        """Under the lock. A pair has one wire: who asks anew has lost it, and the other is to hear that at once."""
        for stop in [stop for stop, joined in self._joined.items() if set(joined) == pair]:
            del self._joined[stop]
            stop.set()

    def _met(self, link: Link, to: str) -> tuple[Link | None, Stop | None]:
        """Under the lock: who waits for this one, if there is room for them."""
        self._expire()
        if len(self._joined) >= RELAYS_MAX or self._closed:
            return None, None
        one = self._waiting.pop((to, link.peer), None)
        if one is None:
            return None, None
        stop = Stop()
        self._joined[stop] = to, link.peer
        return one.link, stop

    def _waits(self, link: Link, to: str) -> bool:
        """Under the lock. One that asks again has lost what it had."""
        old = self._waiting.pop((link.peer, to), None)
        if old is not None:
            old.link.close()
        mine = sum(peer == link.peer for peer, _for in self._waiting)
        full = len(self._waiting) + len(self._joined) >= RELAYS_MAX or mine >= RELAYS_PER_PEER_MAX
        if full or self._closed:
            return False
        self._waiting[link.peer, to] = _Waiting(link, now_s() + RELAY_WAIT_S)
        return True

    def _expire(self) -> None:
        now = now_s()
        for pair in [pair for pair, one in self._waiting.items() if one.until <= now]:
            self._waiting.pop(pair).link.close()

    def _join(self, one: Link, other: Link, stop: Stop) -> None:
        ends: list[socket.socket] = []
        try:
            for link in sorted((one, other), key=lambda link: link.peer):
                flag = HEARS if ends else DIALS
                link.write_all(memoryview(encode_header(Header(Kind.GO, flag=flag))), REQUEST_S)
                ends.append(link.detach())
            self._crew.start(f"bulk-relay-{one.peer[-4:]}-{other.peer[-4:]}", partial(self._pass_on, ends, stop))
        except (BulkError, LinkLost, LinkSilent, WireError, RuntimeError, OSError):  # also of who speaks out of turn
            one.close()
            other.close()
            self._parted(ends, stop)

    def _pass_on(self, ends: list[socket.socket], stop: Stop) -> None:
        try:
            Pipes(ends[0], ends[1], stop, self._pace, self._count).run()
        except (OSError, LinkLost, Stopped):
            pass  # the two notice, and begin anew
        finally:
            self._parted(ends, stop)

    def _count(self, count: int) -> None:
        with self._lock:
            self.passed_bytes += count

    def _parted(self, ends: list[socket.socket], stop: Stop) -> None:
        for end in ends:
            end.close()
        with self._lock:
            self._joined.pop(stop, None)
            stop.close()


class link_closing:
    def __init__(self, link: Link) -> None:
        self._link = link

    def __enter__(self) -> Link:
        return self._link

    def __exit__(self, *_about: object) -> None:
        self._link.close()


class _Pipe:
    """One direction: what was read and not yet written."""

    def __init__(self, source: socket.socket, to: socket.socket) -> None:
        self.source, self.to = source, to
        self._buffer = memoryview(bytearray(RELAY_BUFFER_BYTES))
        self._start = self._stop = 0
        self.ended = self.closed = False  # no more comes; and that was told

    @property
    def holds(self) -> int:
        return self._stop - self._start

    @property
    def has_room(self) -> bool:
        return not self.ended and self._stop < len(self._buffer)

    def read(self) -> int:
        try:
            count = self.source.recv_into(self._buffer[self._stop :])
        except BlockingIOError:
            return 0
        self.ended = self.ended or not count
        self._stop += count
        return count

    def write(self) -> int:
        try:
            count = self.to.send(self._buffer[self._start : self._stop]) if self.holds else 0
        except BlockingIOError:
            return 0
        self._start += count
        if not self.holds:
            self._start = self._stop = 0
            if self.ended and not self.closed:
                self.closed = True
                self.to.shutdown(socket.SHUT_WR)
        return count


class Pipes:
    """Both directions between two sockets, until both have ended, one breaks, or nothing moves for SILENT_S."""

    def __init__(
        self, one: socket.socket, other: socket.socket, stop: Stop, pace: Pace, count: Callable[[int], None]
    ) -> None:
        self._pipes = (_Pipe(one, other), _Pipe(other, one))
        self._stop, self._pace, self._count = stop, pace, count

    def run(self) -> None:
        while not all(pipe.closed for pipe in self._pipes):
            self._wait()
            for pipe in self._pipes:
                came = pipe.read() if pipe.has_room else 0
                went = pipe.write()
                self._count(went)
                self._rest(came, went)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._stop.fileno(), select.POLLIN)
        wanted: dict[int, int] = {}
        for pipe in self._pipes:
            if pipe.has_room:
                wanted[pipe.source.fileno()] = wanted.get(pipe.source.fileno(), 0) | select.POLLIN
            if pipe.holds:
                wanted[pipe.to.fileno()] = wanted.get(pipe.to.fileno(), 0) | select.POLLOUT
        for number, events in wanted.items():
            poll.register(number, events)
        ready = poll.poll(SILENT_S * 1000.0)
        self._stop.check()
        if not ready:
            raise LinkLost("nothing moved")

    def _rest(self, came: int, went: int) -> None:
        """As long as the operator's limits demand: what is passed on counts as it comes and as it goes."""
        down, up = self._pace.down, self._pace.up
        pause_s = max(down.take(came) if down and came else 0.0, up.take(went) if up and went else 0.0)
        if pause_s:
            self._stop.wait(pause_s)
