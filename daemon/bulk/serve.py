"""Serving objects to peers: a bounded number at once, in equal shares, none to a reader that has stopped reading.

Owns the answer to a GET. Refuses to know what the objects are: the provider says which bytes a name stands for; who is
next and who finds a place are turns.py's and readers.py's.
"""

import threading
from collections.abc import Callable

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.errors import DeadlinePassed, LinkLost, LinkSilent, Stopped, WireError
from intellectd.daemon.bulk.interface import ObjectProvider, ServedObject, served
from intellectd.daemon.bulk.limits import (
    GOODBYE_S,
    PACK_BLOCK_MAX,
    REQUEST_S,
    RING_RATE_BYTES_MIN,
    RING_RATE_UNKNOWN,
    SERVE_IDLE_S,
    SERVE_UNSENT_BYTES,
    TRICKLE,
    UNSENT_BYTES_MAX,
)
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.packing import pack
from intellectd.daemon.bulk.readers import Place, Readers
from intellectd.daemon.bulk.turns import Turns
from intellectd.daemon.bulk.wire import (
    PACKED,
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
        self._bytes_per_s = RING_RATE_UNKNOWN
        self.on_change: Callable[[], None] = lambda: None  # the first began, or the last ended

    def began(self) -> None:
        with self._lock:
            self._running += 1
        self.on_change()

    def ended(self, sent_bytes: int = 0, seconds: float = 0.0) -> None:
        with self._lock:
            self._running -= 1
            if sent_bytes >= RING_RATE_BYTES_MIN and seconds > 0:
                self._bytes_per_s = sent_bytes / seconds
        self.on_change()

    @property
    def runs(self) -> bool:
        return self._running > 0

    def trickle(self) -> float | None:
        """Bytes/s that all else may take together: no more than costs a collective nothing; None while none runs."""
        with self._lock:
            return TRICKLE * self._bytes_per_s if self._running else None


class Server:
    def __init__(self, running: CollectiveWatch, stall_s: float, bytes_per_s: float | None = None) -> None:
        """`bytes_per_s`: what all serving together may take, beside the limit on everything."""
        self._running, self._bytes_per_s = running, bytes_per_s
        self._stall_s = stall_s
        self._provider: ObjectProvider = lambda _peer, _name: None
        self._lock = threading.Lock()
        self._readers = Readers()
        self._turns = Turns(self._rate)
        running.on_change = self._turns.changed

    def provide(self, provider: ObjectProvider) -> None:
        self._provider = provider

    def answer(self, link: Link, request: GetRequest) -> None:
        """Serve in this thread, one request after the other, and close the link. The provider's own errors pass."""
        try:
            with self._lock:
                place = self._readers.enter(link.peer, now_s())
            if place is None:
                self._refuse(link, Refusal.BUSY)
                return
            try:
                self._converse(link, place, request)
            finally:
                with self._lock:
                    self._readers.leave(place)
        except (LinkLost, LinkSilent, DeadlinePassed, Stopped):
            pass  # the reader went away or fell asleep: its loss
        finally:
            link.close()

    def _converse(self, link: Link, place: Place, request: GetRequest) -> None:
        asked: GetRequest | None = request
        while asked is not None and self._serve(link, asked):
            asked = self._next(link)
            with self._lock:
                must_go = self._readers.must_go(place, now_s())
            if asked is not None and must_go:
                self._refuse(link, Refusal.BUSY)
                link.hang_up(now_s() + GOODBYE_S)  # it may have said more: closed at once, that would reset the answer
                return

    def _next(self, link: Link) -> GetRequest | None:
        """What it asks for on the same connection. None: nothing more. Raises WireError, and DeadlinePassed for one
        that drips it: a place is worth more."""
        link.limit(now_s() + SERVE_IDLE_S)
        try:
            prefix = link.read_bytes(REQUEST_PREFIX.size, SERVE_IDLE_S)
        except (LinkLost, LinkSilent):
            return None
        link.limit(now_s() + REQUEST_S)
        request = decode_request(link.read_bytes(request_length(prefix), REQUEST_S))
        link.limit(None)
        if not isinstance(request, GetRequest):
            raise WireError("something else than an object on a connection that serves objects")
        return request

    def _serve(self, link: Link, request: GetRequest) -> bool:
        """False: it was refused, and that is the end."""
        found = self._provider(link.peer, request.object_name)
        if found is None:
            self._refuse(link, Refusal.UNKNOWN_OBJECT)
            return False
        data, stop = served(found), request.offset + request.length
        if stop > data.nbytes:
            self._refuse(link, Refusal.BAD_RANGE)
            return False
        with self._lock:
            link.unsent_at_most(min(UNSENT_BYTES_MAX, SERVE_UNSENT_BYTES // len(self._readers)))
        self._write(link, encode_header(Header(Kind.OBJECT, PACKED if request.pack else 0, request.length)))
        self._send(link, data, request, stop)
        self._turns.settle(link.check)  # before END, as for the limit on everything
        self._write(link, encode_header(Header(Kind.END)))
        return True

    def _send(self, link: Link, data: ServedObject, request: GetRequest, stop: int) -> None:
        start = request.offset
        while start < stop:
            try:
                part = data.part(start, stop)  # before its turn: a slow disk holds nobody else up
            except OSError as error:
                raise LinkLost(f"what it asked for cannot be read here: {error.strerror}") from error
            part = part[:PACK_BLOCK_MAX] if request.pack else part
            start += len(part)
            part = memoryview(pack(part)) if request.pack else part
            while part:
                count = self._turns.take(link.peer, len(part), link.check)
                link.write_all(part[:count], self._stall_s)
                part = part[count:]

    def _rate(self) -> float | None:
        rates = [rate for rate in (self._bytes_per_s, self._running.trickle()) if rate is not None]
        return min(rates, default=None)

    def _refuse(self, link: Link, why: Refusal) -> None:
        self._write(link, encode_header(Header(Kind.REFUSED, flag=why)))

    def _write(self, link: Link, frame: bytes) -> None:
        link.write_all(memoryview(frame), self._stall_s)
