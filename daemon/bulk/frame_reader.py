"""Frames from a socket, one after the other: one per wire, in the hands of its reading thread.

Owns the buffer a frame is received into; a payload is decrypted from there straight to its place. Refuses to know
what frames are for. A length is checked before a byte of payload is read, and nothing is allocated by it.
"""

import select
import socket
from collections.abc import Callable

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.errors import LinkLost, LinkSilent
from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind, decode_header
from intellectd.daemon.bulk.lanes import LaneIn
from intellectd.daemon.bulk.limits import FRAME_BYTES_MAX, HEARD_EVERY, SILENT_S
from intellectd.daemon.bulk.pace import SharedBucket
from intellectd.daemon.bulk.sealed import TAG_BYTES, Cipher


class FrameReader:
    """`header`, then `payload`, then one of `open_into`, `opened` and `drop`; again and again."""

    def __init__(
        self,
        connection: socket.socket,
        stop: Stop,
        cipher: Cipher,
        pace: SharedBucket | None,
        lane: LaneIn | None = None,
    ) -> None:
        self._socket = connection
        self._stop = stop
        self._cipher = cipher
        self._pace = pace
        self._lane = lane  # by which the payloads of chunks come
        # A frame, and room for the next one's header: it mostly comes with the end of this one, in one call.
        self._buffer = memoryview(bytearray(HEADER_BYTES + FRAME_BYTES_MAX + TAG_BYTES + HEADER_BYTES))
        self._have = 0
        self._size = 0  # of what the frame has in the buffer, at its start, once its payload is there
        self._length = 0
        self._beside = False  # its payload came by the lane
        self._sealed = self._buffer[:0]
        self.stall_s = 0.0
        self.heard_s = now_s()
        self.received_bytes = 0
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLIN)
        self._poll.register(stop.fileno(), select.POLLIN)

    def header(self) -> Header:
        """The next frame's, not authenticated yet. Raises WireError, LinkLost, LinkSilent, Stopped."""
        if self._have < HEADER_BYTES:
            if not self._have:
                self._receive(0, HEADER_BYTES, SILENT_S)
            self._fill(HEADER_BYTES, HEADER_BYTES, None)
        header = decode_header(self._buffer[:HEADER_BYTES])
        self._length = header.length
        self._beside = self._lane is not None and header.kind is Kind.CHUNK
        return header

    def payload(self, on_bytes: Callable[[int], None] | None = None) -> None:
        """Read the rest of the frame whose header was returned last."""
        count = self._length + self._cipher.tag_bytes
        if self._lane is not None and self._beside:
            self._sealed, self._size = self._lane.slot(count), HEADER_BYTES
            self.received_bytes += count
            if on_bytes is not None:
                on_bytes(count)
            return
        size = HEADER_BYTES + count
        self._fill(size, size + HEADER_BYTES, on_bytes)
        self._sealed, self._size = self._buffer[HEADER_BYTES:size], size

    def open_into(self, place: memoryview) -> None:
        """frames.Incoming: decrypt and authenticate. ValueError for a place of another size, or a second call."""
        if not self._size:
            raise ValueError("no frame is open: its time is over, or it was opened before")
        if place.nbytes != self._length:
            raise ValueError(f"a place of {place.nbytes} bytes for a payload of {self._length}")
        size, self._size = self._size, 0
        self._cipher.open(self._buffer[:HEADER_BYTES], self._sealed, place)
        if self._lane is not None and self._beside:
            self._lane.give_back()
        self._advance(size)

    def opened(self) -> bytes:
        """The payload of a control frame, authenticated."""
        raw = bytearray(self._length)
        self.open_into(memoryview(raw))
        return bytes(raw)

    def drop(self) -> None:
        """Pass over the frame, unless it was opened. NotAuthentic: it is not what the peer sealed. Perhaps somebody
        would have wanted that: a changed header makes a chunk another transfer's, or one that has come."""
        if self._size:
            self.open_into(self._sealed[: self._length])  # decrypted where it lies

    def _advance(self, size: int) -> None:
        left = self._have - size
        if left:
            self._buffer[:left] = self._buffer[size : self._have]
        self._have = left

    def _fill(self, size: int, most: int, on_bytes: Callable[[int], None] | None) -> None:
        have, told = self._have, self._have
        while have < size:
            self._receive(have, most, self.stall_s)
            have = self._have
            if on_bytes is not None and have - told >= HEARD_EVERY:
                on_bytes(have - told)
                told = have

    def _receive(self, have: int, most: int, patience_s: float) -> None:
        """At least one byte into the buffer, which shall not hold more than `most`."""
        if self._pace is not None:
            most = min(most, have + self._pace.piece_bytes)
        place = self._buffer[have:most]
        while True:
            self._stop.check()
            try:
                count = self._socket.recv_into(place)
                break
            except BlockingIOError:
                self._wait(patience_s)
            except OSError as error:
                raise LinkLost(error.strerror or str(error)) from None
        if not count:
            raise LinkLost("it closed the connection")
        self._have = have + count
        self.received_bytes += count
        self.heard_s = now_s()
        if self._pace is not None and (pause_s := self._pace.take(count)):
            self._stop.wait(pause_s)

    def _wait(self, patience_s: float) -> None:
        until = now_s() + patience_s
        ready = self._poll.poll(patience_s * 1000.0)
        self._stop.check()
        if not ready and now_s() >= until:
            raise LinkSilent(f"nothing came from it in {patience_s:g} s")
