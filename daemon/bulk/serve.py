"""Serving objects to peers: a bounded number at once, none to a reader that has stopped reading.

Owns the answer to a GET. Refuses to know what the objects are: the provider says which bytes a name stands for.
"""

import threading

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.errors import DeadlinePassed, LinkLost, LinkSilent, Stopped, WireError
from intellectd.daemon.bulk.interface import ObjectProvider
from intellectd.daemon.bulk.limits import (
    REQUEST_S,
    RING_RATE_BYTES_MIN,
    RING_RATE_UNKNOWN,
    SERVE_BURST_BYTES,
    SERVE_IDLE_S,
    SERVE_YIELD_S_MAX,
    SERVES_MAX,
    SERVES_PER_PEER_MAX,
    TRICKLE,
)
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.pace import SharedBucket
from intellectd.daemon.bulk.wire import (
    REQUEST_PREFIX,
    GetRequest,
    Header,
    Kind,
    Refusal,
    decode_request,
    encode_header,
    request_length,
)


class CollectiveWatch:
    """Whether collectives run on this host, for those that should keep out of their way; and how fast they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self._idle = threading.Event()
        self._idle.set()
        self._bytes_per_s = RING_RATE_UNKNOWN
        self._next_s = 0.0  # when serving may go on, while one runs

    def began(self) -> None:
        with self._lock:
            self._running += 1
            self._idle.clear()

    def ended(self, sent_bytes: int = 0, seconds: float = 0.0) -> None:
        with self._lock:
            self._running -= 1
            if sent_bytes >= RING_RATE_BYTES_MIN and seconds > 0:
                self._bytes_per_s = sent_bytes / seconds
            if not self._running:
                self._idle.set()

    @property
    def runs(self) -> bool:
        return not self._idle.is_set()

    def give_way(self, count: int) -> None:
        """Before so many bytes are served: return at once when none runs, else when they are no more than a trickle
        beside it, or it has ended."""
        if not self.runs:
            return
        with self._lock:
            now = now_s()
            self._next_s = max(now, self._next_s) + count / (TRICKLE * self._bytes_per_s)
            wait_s = self._next_s - now
        self._idle.wait(min(wait_s, SERVE_YIELD_S_MAX))
        if not self.runs:
            with self._lock:
                self._next_s = 0.0


class Server:
    def __init__(self, running: CollectiveWatch, stall_s: float, share: SharedBucket | None = None) -> None:
        """`share`: what all serving together may take, beside the limit on everything."""
        self._running, self._share = running, share
        self._stall_s = stall_s
        self._provider: ObjectProvider = lambda _peer, _name: None
        self._lock = threading.Lock()
        self._serving: dict[str, int] = {}  # connections by peer

    def provide(self, provider: ObjectProvider) -> None:
        self._provider = provider

    def answer(self, link: Link, request: GetRequest) -> None:
        """Serve in this thread, one request after the other, and close the link. The provider's own errors pass."""
        try:
            if not self._enter(link.peer):
                self._refuse(link, Refusal.BUSY)
                return
            try:
                asked: GetRequest | None = request
                while asked is not None and self._serve(link, asked):
                    asked = self._next(link)
            finally:
                self._leave(link.peer)
        except (LinkLost, LinkSilent, DeadlinePassed, Stopped):
            pass  # the reader went away or fell asleep: its loss
        finally:
            link.close()

    def _next(self, link: Link) -> GetRequest | None:
        """What it asks for on the same connection. None: nothing more. Raises WireError."""
        try:
            prefix = link.read_bytes(REQUEST_PREFIX.size, SERVE_IDLE_S)
        except (LinkLost, LinkSilent):
            return None
        request = decode_request(link.read_bytes(request_length(prefix), REQUEST_S))
        if not isinstance(request, GetRequest):
            raise WireError("something else than an object on a connection that serves objects")
        return request

    def _serve(self, link: Link, request: GetRequest) -> bool:
        """False: it was refused, and that is the end."""
        found = self._provider(link.peer, request.object_name)
        if found is None:
            self._refuse(link, Refusal.UNKNOWN_OBJECT)
            return False
        data = found.cast("B")
        if request.offset + request.length > len(data):
            self._refuse(link, Refusal.BAD_RANGE)
            return False
        self._write(link, encode_header(Header(Kind.OBJECT, length=request.length)))
        for start in range(request.offset, request.offset + request.length, SERVE_BURST_BYTES):
            stop = min(start + SERVE_BURST_BYTES, request.offset + request.length)
            self._running.give_way(stop - start)
            link.write_all(data[start:stop], self._stall_s)
            link.rest(self._share, stop - start)  # before END, as for the other limits
        self._write(link, encode_header(Header(Kind.END)))
        return True

    def _refuse(self, link: Link, why: Refusal) -> None:
        self._write(link, encode_header(Header(Kind.REFUSED, flag=why)))

    def _write(self, link: Link, frame: bytes) -> None:
        link.write_all(memoryview(frame), self._stall_s)

    def _enter(self, peer: str) -> bool:
        with self._lock:
            of_peer = self._serving.get(peer, 0)
            if of_peer >= SERVES_PER_PEER_MAX or sum(self._serving.values()) >= SERVES_MAX:
                return False
            self._serving[peer] = of_peer + 1
            return True

    def _leave(self, peer: str) -> None:
        with self._lock:
            self._serving[peer] -= 1
            if not self._serving[peer]:
                del self._serving[peer]
