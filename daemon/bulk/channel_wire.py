"""A wire: one connection between two peers under its own keys, with a thread that reads and one that writes.

Owns the connection's life from the key exchange to its end: a clean one (each side says BYE when it has no more to
say) or a break. Refuses to know how many wires a channel has, and who dials.
"""

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from intellectd.daemon.bulk.bell import Bell, Stop, now_s
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.errors import BulkError, LinkLost, LinkSilent, Stopped, WireError
from intellectd.daemon.bulk.frame_reader import FrameReader
from intellectd.daemon.bulk.frame_writer import FrameWriter
from intellectd.daemon.bulk.frames import Handler, Header, Kind
from intellectd.daemon.bulk.lanes import Lanes
from intellectd.daemon.bulk.limits import FILLED_AFTER_S, FILLING_BYTES_MAX, KEEPALIVE_S, SILENT_S
from intellectd.daemon.bulk.outbox import FULL, Control, Outbox
from intellectd.daemon.bulk.pace import Pace
from intellectd.daemon.bulk.sealed import AesGcm, Cipher, Clear, WireKeys
from intellectd.daemon.bulk.sockets import give_up_after, segment_bytes, unsent_at_most
from intellectd.daemon.bulk.tcp_info import TcpCounters, congestion_control, read_counters

_OWN = (Kind.PING, Kind.PONG, Kind.BYE)


class Hub(Protocol):
    """What a wire wants of its channel."""

    outbox: Outbox
    handler: Handler

    def is_idle(self) -> bool:
        """Nobody has needed the channel for long."""
        ...

    def is_closing(self) -> bool:
        """Nothing that comes is of interest any more."""
        ...

    def wire_ended(self, wire: "Wire", failure: Exception | None) -> None:
        """Nothing more goes by it, and its reader has at most the chunk that it holds for the handler. None: both sides
        had said BYE, or this host ended it."""
        ...

    def wire_gone(self, wire: "Wire") -> None:
        """Neither thread of it runs any more. After `wire_ended`."""
        ...


class Wire:
    def __init__(
        self,
        peer: str,
        hub: Hub,
        connection: socket.socket,
        keys: WireKeys,
        certificate: bytes | None,
        lanes: Lanes | None = None,
        *,
        dialled: bool,
        sealed: bool,
        pace: Pace,
    ) -> None:
        self.peer = peer
        self.wire_id = keys.wire_id
        self.certificate = certificate  # of the peer's process
        self.dialled = dialled  # by this host
        self.stood_s = now_s()
        self.busy = False  # the outbox's
        self.counted = TcpCounters()  # up to where the channel has taken account of it
        self.counted_paced_s, self.counted_handed_bytes = 0.0, 0  # likewise
        self.ping_rtt_s: float | None = None
        self._hub = hub
        self._socket = connection
        self._lanes = lanes  # chunks go by these, and the rest by the connection
        self._stop = Stop()
        self.bell = Bell() if lanes is not None else None  # the outbox's
        if lanes is not None and self.bell is not None:
            lanes.out.watch(self._stop, self.bell)
        out_key, in_key = (
            (keys.from_dialler, keys.from_acceptor) if dialled else (keys.from_acceptor, keys.from_dialler)
        )
        back, out = (lanes.back, lanes.out) if lanes is not None else (None, None)
        self._reader = FrameReader(connection, self._stop, _cipher(in_key, sealed), pace.down, back)
        self._writer = FrameWriter(connection, self._stop, _cipher(out_key, sealed), pace.up, out)
        self._lock = threading.Lock()
        self._threads = 2
        self._holds = self._told = False  # the reader is with the handler; the hub knows of the end
        self._failure: Exception | None = None
        self._retiring_s: float | None = None
        self._pinged_s = 0.0
        self._worked_s = now_s()  # when it last took something to write that was not its own
        self._pong: int | None = None  # the latest asked for: a flood of pings is answered once
        self._header = Header(Kind.CHUNK)
        self._last: TcpCounters | None = None

    @property
    def heard_s(self) -> float:
        return self._reader.heard_s

    @property
    def shares_memory(self) -> bool:
        """With the peer's process, which is on this host."""
        return self._lanes is not None

    @property
    def paced_s(self) -> float:
        """In which it waited for the operator's rate limit."""
        return self._writer.paced_s

    @property
    def handed_bytes(self) -> int:
        """Given to the socket so far."""
        return self._writer.sent_bytes

    @property
    def wire_bytes(self) -> tuple[int, int]:
        """Sent and received since the wire stands."""
        return self._writer.sent_bytes, self._reader.received_bytes

    def has_room(self) -> bool:
        return self._lanes is None or self._lanes.out.has_room()

    def start(self, crew: Crew) -> None:
        """Both threads; one that cannot be started ends the wire."""
        for name, work in (("read", self._read), ("write", self._write)):
            try:
                crew.start(f"bulk-wire-{self.peer[-8:]}-{name}", partial(self._run, work))
            except (BulkError, RuntimeError) as error:
                self.end(error)
                self._thread_ends()

    def discard(self) -> None:
        """Instead of `start`."""
        self._close()
        self._stop.close()

    def _close(self) -> None:
        self._socket.close()
        if self._lanes is not None and self.bell is not None:
            self._lanes.close()
            self.bell.close()

    def stall_after(self, stall_s: float) -> None:
        """What is begun has to move within so many seconds."""
        self._reader.stall_s = self._writer.stall_s = stall_s
        give_up_after(self._socket, stall_s)

    def unsent_at_most(self, count: int) -> None:
        """Bytes that may wait behind the congestion window. What waits there no other wire can take."""
        unsent_at_most(self._socket, count)

    def retire(self) -> None:
        """Take no more chunks; say BYE once the control frames are gone, and end when the peer has said it too."""
        if self._retiring_s is None:
            self._retiring_s = now_s()
            self._hub.outbox.wake()

    def end(self, failure: Exception | None) -> None:
        """Both threads leave at once. The first reason counts: what follows is mostly its echo."""
        with self._lock:
            self._failure = self._failure or failure
            if self._threads:  # else the stop is closed
                self._stop.set()
        self._hub.outbox.wake()

    def counters(self) -> TcpCounters | None:
        """Also after its end, when they are those at its end."""
        return self._last or self._counted_now()

    def _counted_now(self) -> TcpCounters | None:
        """What went by lanes was sent and acknowledged (of its last slots nobody hears before the next are needed), and
        a slot that was waited for is a window that was shut."""
        counters = read_counters(self._socket)
        if counters is None or self._lanes is None:
            return counters
        out = self._lanes.out
        return replace(
            counters,
            acked_bytes=counters.acked_bytes + out.filled_bytes,
            sent_bytes=counters.sent_bytes + out.filled_bytes,
            rwnd_limited_s=counters.rwnd_limited_s + out.waited_s,
        )

    def congestion(self) -> str:
        return congestion_control(self._socket)

    def own_control(self) -> Control | None:
        self._stop.check()
        pong, self._pong = self._pong, None
        if pong is not None:
            return Control(Header(Kind.PONG, transfer=pong))
        return Control(Header(Kind.BYE)) if self.is_retiring() else None

    def is_retiring(self) -> bool:
        return self._retiring_s is not None

    def _write(self) -> None:
        outbox, writer = self._hub.outbox, self._writer
        while True:
            task = outbox.take(self, KEEPALIVE_S)
            if task is None:
                if self._hub.is_idle():
                    self.retire()
                    continue
                self._pinged_s = now_s()
                task = Control(Header(Kind.PING, transfer=_token(self._pinged_s)))
            if task is FULL:
                assert self._lanes is not None
                self._lanes.out.wait(writer.stall_s)
                continue
            if not isinstance(task, Control) or task.header.kind not in _OWN:
                try:
                    self._fill_after_idleness()
                except BaseException:  # a chunk, too: nothing was tried with it, so nobody will think it lost
                    outbox.put_back(task)
                    raise
            if not isinstance(task, Control):
                writer.write_chunk(task)
                continue
            try:
                writer.write_control(task)
            except BaseException:
                if task.header.kind not in _OWN:
                    outbox.put_back(task)
                raise
            if task.header.kind is Kind.BYE:
                writer.end()
                return

    def _fill_after_idleness(self) -> None:
        """BBR that has not seen a round trip for 10 s lets the path run dry for 0.2 s to see one; but after a pause it
        takes the first packet's, unless that is alone and short, as a word is: it may have been acknowledged late."""
        now = now_s()
        idle_s, self._worked_s = now - self._worked_s, now
        if idle_s >= FILLED_AFTER_S and self._lanes is None and self.congestion() == "bbr":
            self._writer.write_filling(min(2 * segment_bytes(self._socket), FILLING_BYTES_MAX))

    def _read(self) -> None:
        reader, handler, peer = self._reader, self._hub.handler, self.peer
        while True:
            header = reader.header()
            if header.kind is not Kind.CHUNK:
                reader.payload()
                if self._heard(header, reader.opened()):
                    return
            elif not header.transfer or self._hub.is_closing() or not handler.wants(peer, header):
                reader.payload()
                reader.drop()
            else:
                self._header = header
                reader.payload(self._progress)
                self._holds = True  # perhaps for long, and perhaps for what was lost with this very wire
                self._stop.check()
                handler.on_chunk(peer, header, reader)
                self._holds = False
                reader.drop()  # what it did not open after all
            if self._retiring_s is not None and now_s() > self._retiring_s + SILENT_S:
                raise LinkSilent("it did not take leave")

    def _progress(self, count: int) -> None:
        self._hub.handler.on_bytes(self.peer, self._header, count)

    def _heard(self, header: Header, payload: bytes) -> bool:
        """Whether this was the last."""
        match header.kind:
            case Kind.PING:
                self._pong = header.transfer
                self._hub.outbox.wake()
            case Kind.PONG:
                if self._pinged_s and header.transfer == _token(self._pinged_s):
                    self.ping_rtt_s = now_s() - self._pinged_s
            case Kind.BYE:
                self.retire()
                return True
            case _ if not self._hub.is_closing():
                self._hub.handler.on_control(self.peer, header, payload)
        return False

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Stopped:
            pass  # whoever set the stop has said why
        except Exception as error:  # this host's own faults too: they cost the wire, loudly, not the process
            self.end(error)
        finally:
            self._thread_ends()

    def _thread_ends(self) -> None:
        """The hub hears of the end when both have ended; or the writer, which has nothing in its hands any more, where
        the other holds a chunk."""
        with self._lock:
            self._threads -= 1
            left, failure = self._threads, self._failure
            tells = not self._told and (not left or (self._holds and failure is not None))
            self._told = self._told or tells
            if not left:
                self._failure = None  # its traceback refers to this: a circle that would keep the lanes' memory
        if tells:
            self._hub.outbox.leave(self)
            self._last = self.counters()
        if not left:
            self._close()
            with self._lock:
                self._stop.close()
        if tells:
            self._hub.wire_ended(self, failure)
        if not left:
            self._hub.wire_gone(self)


def _cipher(key: bytes, sealed: bool) -> Cipher:
    return AesGcm(key) if sealed else Clear()


def _token(at_s: float) -> int:
    return int(at_s * 1e6)


def said_of(failure: Exception) -> str:
    """Why a wire is gone, in words for a reason."""
    match failure:
        case WireError():
            return f"broke the protocol: {failure}"
        case LinkLost() | LinkSilent():
            return str(failure)
    return f"this host failed: {type(failure).__name__}: {failure}"
