"""Sealing frames and giving them to a socket: one per wire, in the hands of its writing thread.

Owns the buffer that a frame is sealed into, so that nothing of a job's memory is in use while the socket makes it
wait. Refuses to know queues and what is in a frame.
"""

import select
import socket
from collections.abc import Callable

from intellectd.daemon.bulk.bell import Stop, now_s
from intellectd.daemon.bulk.errors import LinkLost, LinkSilent
from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind, Outgoing, encode_header
from intellectd.daemon.bulk.lanes import LaneOut
from intellectd.daemon.bulk.limits import FRAME_BYTES_MAX, ON_BYTES_EVERY
from intellectd.daemon.bulk.outbox import Control
from intellectd.daemon.bulk.pace import SharedBucket
from intellectd.daemon.bulk.sealed import TAG_BYTES, Cipher
from intellectd.daemon.bulk.sockets import bytes_under_way


class FrameWriter:
    def __init__(
        self,
        connection: socket.socket,
        stop: Stop,
        cipher: Cipher,
        pace: SharedBucket | None,
        lane: LaneOut | None = None,
    ) -> None:
        self._socket = connection
        self._stop = stop
        self._cipher = cipher
        self._pace = pace
        self._lane = lane  # by which the payloads of chunks go
        self._buffer = memoryview(bytearray(HEADER_BYTES + FRAME_BYTES_MAX + TAG_BYTES))
        self._room = self._buffer[HEADER_BYTES:]  # for the payload and its tag
        self._size = 0  # of the frame; 0: none
        self._header = b""
        self._length = 0
        self.stall_s = 0.0
        self.sent_bytes = 0
        self.paced_s = 0.0  # spent waiting for the rate limit
        self._poll = select.poll()
        self._poll.register(connection.fileno(), select.POLLOUT)
        self._poll.register(stop.fileno(), select.POLLIN)

    def write_chunk(self, item: Outgoing) -> bool:
        """Whether it was sent: not when its transfer is over. There has to be room in the lane, if there is one. Raises
        LinkLost, LinkSilent, Stopped."""
        header = item.header
        self._header, self._length, self._size = encode_header(header), header.length, 0
        self._room = self._buffer[HEADER_BYTES:] if self._lane is None else self._lane.room()
        if not item.fill(self._seal, self._room[: header.length]):
            if self._size:
                raise RuntimeError("a chunk was sealed and then withdrawn")  # its number in the sequence is used up
            return False
        if not self._size:
            raise RuntimeError("a chunk that was not sealed")
        if self._lane is None:
            self._write(self._size, self._pace, item.moved)
        else:
            beside = self._size - HEADER_BYTES
            self._lane.filled(beside)
            self._write(HEADER_BYTES, None)
            self.sent_bytes += beside
        item.sent()
        return True

    def write_filling(self, count: int) -> None:
        """A CHUNK of no transfer, which the other side drops."""
        header = Header(Kind.CHUNK, length=count)
        self._header, self._length, self._size = encode_header(header), count, 0
        self._room = self._buffer[HEADER_BYTES:]
        self._seal(memoryview(bytes(count)))
        self._write(self._size, self._pace)

    def write_control(self, control: Control) -> None:
        """Never held back by the pace, though it counts: it is little, and others wait for it."""
        self._header, self._length, self._size = encode_header(control.header), len(control.payload), 0
        if control.header.length != len(control.payload):
            raise RuntimeError(f"{control.header} with {len(control.payload)} bytes")
        self._room = self._buffer[HEADER_BYTES:]
        self._seal(memoryview(control.payload))
        self._write(self._size, None)
        if self._pace is not None:
            self._pace.take(self._size)

    def end(self) -> None:
        """Nothing follows: the peer reads the end of the stream behind the last frame."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise LinkLost(error.strerror or str(error)) from None

    def _seal(self, payload: memoryview) -> None:
        if self._size:
            raise RuntimeError("a chunk was sealed twice")
        if payload.nbytes != self._length:
            raise RuntimeError(f"{payload.nbytes} bytes for a frame of {self._length}")
        self._buffer[:HEADER_BYTES] = self._header
        size = self._length + self._cipher.tag_bytes
        self._cipher.seal(self._header, payload, self._room[:size])
        self._size = HEADER_BYTES + size

    def _write(self, size: int, pace: SharedBucket | None, moved: Callable[[], None] | None = None) -> None:
        done, told, send, left = 0, 0, self._socket.send, self._buffer[:size]
        most = size if pace is None else pace.piece_bytes
        while done < size:
            try:
                count = send(left[done : done + most])
            except BlockingIOError:
                self._wait()
                continue
            except OSError as error:
                raise LinkLost(error.strerror or str(error)) from None
            done += count
            if moved is not None and size > done >= told + ON_BYTES_EVERY:
                told = done
                moved()
            if pace is not None and (pause_s := pace.take(count)):
                self.paced_s += pause_s
                self._stop.wait(pause_s)
        self.sent_bytes += size

    def _wait(self) -> None:
        """Until there is room, of which the kernel tells when half of what it may hold unsent has gone: where many
        wires share a slow line that takes long, and bytes arrive meanwhile. Nobody is silent while they do."""
        since = now_s()
        before: int | None = None
        while True:
            ready = self._poll.poll(max(0.0, since + self.stall_s / 2 - now_s()) * 1000.0)
            self._stop.check()
            if ready:
                return
            if now_s() < since + self.stall_s / 2:  # which may have changed meanwhile
                continue
            left = bytes_under_way(self._socket)
            if before is not None and left >= before:
                raise LinkSilent(f"it took nothing for {self.stall_s:g} s")
            since, before = now_s(), left
