"""One TLS connection in the hands of one thread: reads and writes that end when told to, or when nothing moves.

Owns the socket, its handshake and its waits. Refuses to know frames and why anything is sent. A link belongs to
one thread at a time; others reach that thread through the link's Stop.
"""

import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import Protocol

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.certificate import ALPN
from intellectd.daemon.bulk.errors import DeadlinePassed, LinkLost, LinkSilent, WireError
from intellectd.daemon.bulk.limits import PIECE_BYTES
from intellectd.daemon.bulk.pace import UNLIMITED, Pace, SharedBucket
from intellectd.daemon.bulk.sockets import bytes_under_way, is_within_host, unsent_at_most

FOREVER_S = float("inf")
_DRAIN_BYTES = 64 * 1024  # read and dropped at once while saying goodbye


class Pollable(Protocol):
    def fileno(self) -> int: ...


class Link:
    def __init__(self, connection: ssl.SSLSocket, stop: Stop, pace: Pace = UNLIMITED) -> None:
        self._socket = connection
        self._pace = pace
        self._stop: Stop | None = stop
        self._deadline = FOREVER_S
        self.peer = ""  # who it is, once known
        self.began_s = now_s()  # before a byte of the handshake
        self.sent_bytes = 0
        self.received_bytes = 0

    def hand_over(self, stop: Stop | None, deadline: float) -> None:
        """From now on another thread's: it leaves at that stop (None: at none) and that deadline."""
        self._stop, self._deadline = stop, deadline

    def limit(self, deadline: float | None) -> None:
        """All that is done until then has to be done by this time; None lifts it."""
        self._deadline = FOREVER_S if deadline is None else deadline

    def certificate(self) -> bytes | None:
        return self._socket.getpeercert(binary_form=True)

    def is_within_host(self) -> bool:
        return is_within_host(self._socket)

    def handshake(self, until: float) -> None:
        while True:
            self.check()
            try:
                self._socket.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._wait_until(until, read=True)
            except ssl.SSLWantWriteError:
                self._wait_until(until, write=True)
            except OSError as error:
                raise LinkLost(f"no TLS handshake: {_said(error)}") from None
        if self._socket.selected_alpn_protocol() != ALPN:
            raise LinkLost(f"it does not speak {ALPN}")

    def read_some(self, into: memoryview) -> int:
        """Bytes read, 0 if there are none yet."""
        self.check()
        try:
            count = self._socket.recv_into(into)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        except OSError as error:
            raise LinkLost(_said(error)) from None
        if count == 0:
            raise LinkLost("it closed the connection")
        self.received_bytes += count
        self.rest(self._pace.down, count)
        return count

    def read_exactly(self, into: memoryview, stall_s: float) -> None:
        """Fill `into`; LinkSilent when not a byte comes in stall_s."""
        done = 0
        while done < len(into):
            count = self.read_some(into[done:])
            done += count
            if count == 0 and not self.wait(stall_s, read=True):
                raise LinkSilent(f"nothing came from it in {stall_s:g} s")

    def read_bytes(self, count: int, stall_s: float) -> bytes:
        """For small things whose size was checked."""
        raw = bytearray(count)
        self.read_exactly(memoryview(raw), stall_s)
        return bytes(raw)

    def write_some(self, data: memoryview) -> int:
        """Bytes given to the socket, 0 if it is full. What it refused must be offered again, as it was."""
        self.check()
        try:
            count = self._socket.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        except OSError as error:
            raise LinkLost(_said(error)) from None
        self.sent_bytes += count
        self.rest(self._pace.up, count)
        return count

    def write_all(self, data: memoryview, stall_s: float, hear: Callable[[], None] | None = None) -> None:
        """Send `data`; LinkSilent when a piece is not taken in stall_s. `hear` is called whenever the peer spoke."""
        done, stuck_at, held = 0, 0.0, -1  # held: bytes in the kernel when it had no room for more
        while done < len(data):
            count = self.write_some(data[done : done + PIECE_BYTES])
            done += count
            if count:
                held = -1
                continue
            if held < 0:
                stuck_at, held = now_s() + stall_s, bytes_under_way(self._socket)
            if self.wait(stuck_at - now_s(), read=hear is not None, write=True):
                if hear is not None:
                    hear()
                continue
            # It tells of room when half of what it may hold has gone: on a slow line a piece has long gone by then.
            if (left := bytes_under_way(self._socket)) > held - PIECE_BYTES:
                raise LinkSilent(f"it took nothing for {stall_s:g} s")
            stuck_at, held = now_s() + stall_s, left

    def wait(self, timeout_s: float, *, read: bool = False, write: bool = False, also: Pollable | None = None) -> bool:
        """Whether the socket is ready, or `also` rang, within timeout_s."""
        self.check()
        timeout_s = max(0.0, min(timeout_s, self._deadline - now_s()))
        poll = select.poll()
        poll.register(self._socket.fileno(), read * select.POLLIN | write * select.POLLOUT)
        if self._stop is not None:
            poll.register(self._stop.fileno(), select.POLLIN)
        if also is not None:
            poll.register(also.fileno(), select.POLLIN)
        ready = poll.poll(timeout_s * 1000.0)
        self.check()
        return bool(ready)

    def rest(self, limit: SharedBucket | None, count: int) -> None:
        """As long as the operator's limit demands after so many bytes."""
        if limit is None:
            return
        until = now_s() + limit.take(count)
        while (left_s := until - now_s()) > 0:
            poll = select.poll()
            if self._stop is not None:
                poll.register(self._stop.fileno(), select.POLLIN)
            poll.poll(max(0.0, min(left_s, self._deadline - now_s())) * 1000.0)
            self.check()

    def _wait_until(self, until: float, *, read: bool = False, write: bool = False) -> None:
        if until <= now_s() or not self.wait(until - now_s(), read=read, write=write):
            raise LinkSilent("it did not finish the TLS handshake in time")

    def check(self) -> None:
        """Leave, by an exception, when told to or when the deadline has passed."""
        if self._stop is not None:
            self._stop.check()
        if now_s() > self._deadline:
            raise DeadlinePassed()

    def unsent_at_most(self, count: int) -> None:
        """Bytes that the kernel takes ahead of what the path carries."""
        unsent_at_most(self._socket, count)

    def hang_up(self, until: float) -> None:
        """Close after the peer has: closing with its bytes unread would reset what it has not read of ours."""
        self.hand_over(None, FOREVER_S)
        with contextlib.suppress(OSError):
            # From here on the TLS layer is gone (see SSLSocket.shutdown): what comes is dropped undeciphered.
            self._socket.shutdown(socket.SHUT_WR)
            while (left_s := until - now_s()) > 0 and self.wait(left_s, read=True):
                if not self._socket.recv(_DRAIN_BYTES):
                    break
        self.close()

    def hang_up_elsewhere(self) -> None:
        """From another thread: the one that has it finds it closed. The descriptor stays that thread's to close."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def detach(self) -> socket.socket:
        """The connection without TLS from here on, non-blocking. What was read is all that the peer sent under TLS;
        WireError if it sent more. The link is of no more use."""
        if self._socket.pending():
            raise WireError("it said more under TLS than it was asked")
        connection = socket.socket(fileno=self._socket.detach())
        connection.setblocking(False)
        return connection

    def close(self) -> None:
        self._socket.close()


def _said(error: OSError) -> str:
    """OpenSSL's reason without its file and line; the system's words for the rest."""
    if isinstance(error, ssl.SSLError):
        return f"TLS said {error.reason or 'nothing'}"
    return error.strerror or str(error)
