"""Accepting connections: a bounded number of strangers, each with a thread until it has said what it wants.

Owns the listening socket and every connection until it is dispatched. Refuses to know what channels and objects are.
"""

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.errors import BulkError, DeadlinePassed, LinkLost, LinkSilent, Stopped, WireError
from intellectd.daemon.bulk.limits import (
    ACCEPT_PAUSE_S,
    CONNECTIONS_MAX,
    HANDSHAKE_S,
    HANDSHAKES_MAX,
    REQUEST_S,
)
from intellectd.daemon.bulk.link import Link
from intellectd.daemon.bulk.pace import UNLIMITED, Pace
from intellectd.daemon.bulk.sockets import tune
from intellectd.daemon.bulk.trust import TrustTable
from intellectd.daemon.bulk.wire import REQUEST_PREFIX, Request, decode_request, request_length

Dispatch = Callable[[Link, Request], None]  # takes the link over, whatever happens


class Listener:
    def __init__(
        self,
        listening: socket.socket,
        trust: TrustTable,
        crew: Crew,
        dispatch: Dispatch,
        pace: Pace = UNLIMITED,
    ) -> None:
        self._pace = pace
        self._listening = listening
        self._trust = trust
        self._crew = crew
        self._dispatch = dispatch
        self._stop = Stop()
        self._lock = threading.Lock()
        self._connections: dict[Stop, None] = {}  # all that have a thread, oldest first
        self._strangers: dict[Stop, None] = {}  # those of them that have not said what they want

    def run(self) -> None:
        """The accepting thread."""
        try:
            with contextlib.suppress(Stopped):
                while True:
                    self._await_connection()
                    self._accept()
        finally:
            self._listening.close()
            with self._lock:
                self._stop.close()

    def close(self) -> None:
        with self._lock:
            self._stop.set()
            for stop in self._connections:
                stop.set()

    def _await_connection(self) -> None:
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        poll.register(self._stop.fileno(), select.POLLIN)
        poll.poll()
        self._stop.check()

    def _accept(self) -> None:
        try:
            connection, _address = self._listening.accept()
        except BlockingIOError:
            return  # it was reset before it was accepted
        except OSError:
            self._stop.wait(ACCEPT_PAUSE_S)
            return
        try:
            stop = self._admit()
        except OSError:  # the last file went to the connection, and none is left for its stop
            connection.close()
            self._stop.wait(ACCEPT_PAUSE_S)
            return
        if stop is None:
            connection.close()
            return
        try:
            self._crew.start("bulk-accepted", lambda: self._converse(connection, stop))
        except (BulkError, RuntimeError):  # closing, or the system has no thread left: not this thread's end
            connection.close()
            self._gone(stop)

    def _admit(self) -> Stop | None:
        """Make room for one more. Who is slow to say what it wants goes first: an honest peer needs a second."""
        with self._lock:
            if len(self._connections) >= CONNECTIONS_MAX or self._stop.is_set:
                return None
            if len(self._strangers) >= HANDSHAKES_MAX:
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                oldest.set()
            stop = Stop()
            self._connections[stop] = self._strangers[stop] = None
            return stop

    def _gone(self, stop: Stop) -> None:
        with self._lock:
            self._strangers.pop(stop, None)
            self._connections.pop(stop, None)
            stop.close()

    def _converse(self, connection: socket.socket, stop: Stop) -> None:
        try:
            link = self._secured(connection, stop)
            if link is None:
                return
            try:
                request = self._introduced(link)
            except BaseException:
                link.close()
                raise
            with self._lock:
                self._strangers.pop(stop, None)
            self._dispatch(link, request)
        except (LinkLost, LinkSilent, DeadlinePassed, WireError, Stopped):
            pass  # a stranger's mistakes are not worth a word; a peer's own side notices
        finally:
            self._gone(stop)

    def hear(self, connection: socket.socket, peer: str, stop: Stop) -> None:
        """A peer to which a relay has led, as if it had connected here. Raises what a link does."""
        link = self._secured(connection, stop)
        if link is None:
            raise LinkLost("no TLS handshake")
        try:
            request = self._introduced(link)
            if link.peer != peer:
                raise WireError(f"it is {link.peer}")
        except BaseException:
            link.close()
            raise
        self._dispatch(link, request)

    def _secured(self, connection: socket.socket, stop: Stop) -> Link | None:
        try:
            connection.setblocking(False)
            tune(connection)
            context = self._trust.context(server_side=True)
            tls = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        except (OSError, ssl.SSLError):
            connection.close()
            return None
        return Link(tls, stop, self._pace)

    def _introduced(self, link: Link) -> Request:
        """Who it is and what it wants, or an exception."""
        link.handshake(now_s() + HANDSHAKE_S)
        peer = self._trust.peer_of(link.certificate())
        if peer is None:
            raise LinkLost("its certificate is not pinned (any more)")
        link.peer = peer
        link.limit(now_s() + REQUEST_S)
        length = request_length(link.read_bytes(REQUEST_PREFIX.size, REQUEST_S))
        request = decode_request(link.read_bytes(length, REQUEST_S))
        link.limit(None)
        return request
