"""What rpc needs of a transport: streams of bytes to a peer, and a way to hang up on it.

Owns that interface and the reading of whole frames. Refuses to know whose transport it is; the libp2p
adapter and the in-memory twin each provide one.
"""

from typing import Protocol

import trio

from intellectd.daemon.p2p.limits import STREAM_CHUNK_BYTES, WRITE_SECONDS_MAX
from intellectd.daemon.p2p.wire import LENGTH_BYTES, frame_length


class StreamEnded(Exception):
    """The stream is closed, reset, or its connection is gone."""


class WriteStuck(Exception):
    """The other side has not read for longer than a healthy peer would."""


class ByteStream(Protocol):
    async def read(self) -> bytes:
        """The next bytes, at least one. Raises StreamEnded."""
        ...

    async def write(self, data: bytes) -> None:
        """Raises StreamEnded, or WriteStuck where the transport itself notices."""
        ...

    async def finish(self) -> None:
        """No more will be written; the other side sees the end after what was written."""
        ...

    async def reset(self) -> None:
        """Drop the stream in both directions. Never raises."""
        ...


class Transport(Protocol):
    async def open_stream(self, peer: str) -> ByteStream:
        """Dials when needed. Bounded in time by the transport. Raises NetworkError."""
        ...

    def hang_up(self, peer: str, reason: str) -> None:
        """Close every connection to the peer and log why; "": that was said already. Returns at once."""
        ...


class FrameReader:
    """Whole frames out of a stream, their length checked before the rest is waited for."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def next(self, bytes_max: int) -> bytes:
        """The body of the next frame. Raises StreamEnded and BadFrame."""
        await self._fill(LENGTH_BYTES)
        length = frame_length(bytes(self._buffer[:LENGTH_BYTES]), bytes_max)
        await self._fill(LENGTH_BYTES + length)
        body = bytes(self._buffer[LENGTH_BYTES : LENGTH_BYTES + length])
        del self._buffer[: LENGTH_BYTES + length]
        return body

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            self._buffer += await self._stream.read()


async def write_whole(stream: ByteStream, data: bytes) -> None:
    """Write all of it or give the stream up. Raises StreamEnded and WriteStuck.

    Shielded: a write cancelled half way tears the framing (and the encryption) of everything that shares
    the connection. The deadline keeps the shield from holding anybody up.
    """
    for start in range(0, len(data), STREAM_CHUNK_BYTES):
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_SECONDS_MAX) as scope:
            await stream.write(data[start : start + STREAM_CHUNK_BYTES])
        if scope.cancelled_caught:
            raise WriteStuck(f"nothing could be written for {WRITE_SECONDS_MAX:g} s")
