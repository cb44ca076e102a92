"""Connections in memory: two ends, streams between them, and the link they run over.

Owns delivery: in order, after the link's latency, never while it is cut, with a window that makes a writer
wait as TCP's does. Refuses to know who talks; `daemon.memory_net` does.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from intellectd.daemon.p2p.streams import StreamEnded

WINDOW_BYTES = 256 * 1024  # yamux's window at the start


@dataclass
class Wire:
    """What lies between two hosts. Cut, it swallows nothing: bytes wait, like TCP's retransmissions."""

    latency_s: float = 0.0
    cut: bool = False
    changed: trio.Event = field(default_factory=trio.Event)

    def set(self, cut: bool | None = None, latency_s: float | None = None) -> None:
        self.cut = self.cut if cut is None else cut
        self.latency_s = self.latency_s if latency_s is None else latency_s
        self.changed.set()
        self.changed = trio.Event()

    async def cross(self) -> None:
        """As long as one message takes; for ever, while the wire is cut."""
        await trio.sleep(self.latency_s)
        while self.cut:
            await self.changed.wait()


class Pipe:
    """Bytes in one direction."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._queue: deque[tuple[float, bytes]] = deque()  # (when it arrives, what)
        self._queued_bytes = 0
        self._ended = ""
        self._changed = trio.Event()

    async def write(self, data: bytes) -> None:
        while self._queued_bytes >= WINDOW_BYTES and not self._ended:
            await self._changed.wait()
        if self._ended:
            raise StreamEnded(self._ended)
        self._queue.append((trio.current_time() + self._wire.latency_s, data))
        self._queued_bytes += len(data)
        self._notify()
        await trio.lowlevel.checkpoint()

    async def read(self) -> bytes:
        while not self._queue or self._wire.cut or self._queue[0][0] > trio.current_time():
            if self._ended and not self._queue:
                raise StreamEnded(self._ended)
            await self._wait()
        data = self._queue.popleft()[1]
        self._queued_bytes -= len(data)
        self._notify()
        await trio.lowlevel.checkpoint()
        return data

    def end(self, reason: str, keep_queue: bool) -> None:
        """No more will be written. A reset drops what was not read yet, a half-close does not."""
        if not keep_queue:
            self._queue.clear()
            self._queued_bytes = 0
        self._ended = self._ended or reason
        self._notify()

    async def _wait(self) -> None:
        """For bytes, for the time they arrive, or for the wire to change."""
        arrives = self._queue[0][0] if self._queue and not self._wire.cut else float("inf")
        with trio.move_on_at(arrives):
            async with trio.open_nursery() as nursery:
                for event in (self._changed, self._wire.changed):
                    nursery.start_soon(_cancel_when, event, nursery.cancel_scope)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class MemoryStream:
    """One end of a stream, as a ByteStream."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def read(self) -> bytes:
        return await self._incoming.read()

    async def write(self, data: bytes) -> None:
        await self._outgoing.write(data)

    async def finish(self) -> None:
        self._outgoing.end("end of stream", keep_queue=True)

    async def reset(self) -> None:
        self.drop("reset")

    def drop(self, reason: str) -> None:
        self._incoming.end(reason, keep_queue=False)
        self._outgoing.end(reason, keep_queue=False)


class End:
    """One host's end of a connection."""

    def __init__(self, peer: str, wire: Wire) -> None:
        self.peer = peer  # at the other end
        self.wire = wire
        self.closed = False
        self.other: End | None = None
        self.on_stream: Callable[[MemoryStream], None] = lambda stream: None
        self.on_close: Callable[[], None] = lambda: None
        self._streams: list[MemoryStream] = []

    def open_stream(self) -> MemoryStream:
        assert self.other is not None
        there, back = Pipe(self.wire), Pipe(self.wire)
        ours, theirs = MemoryStream(back, there), MemoryStream(there, back)
        self._streams.append(ours)
        self.other._streams.append(theirs)
        self.other.on_stream(theirs)
        return ours

    def close(self, reason: str) -> None:
        if not self.closed:
            self.closed = True
            for stream in self._streams:
                stream.drop(reason)
            self._streams.clear()
            self.on_close()


def connect(own: str, peer: str, wire: Wire) -> tuple[End, End]:
    here, there = End(peer, wire), End(own, wire)
    here.other, there.other = there, here
    return here, there
