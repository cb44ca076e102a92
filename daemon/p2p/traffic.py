"""How much goes over the streams of our rpc, told to whoever counts.

Owns the counting of bytes as they are read and written. Refuses to know what they are, and who asks.
"""

from intellectd.daemon.net import TrafficHandler
from intellectd.daemon.p2p.streams import ByteStream, Transport


class CountedStream:
    """A ByteStream over another."""

    def __init__(self, stream: ByteStream, count: TrafficHandler) -> None:
        self._stream, self._count = stream, count

    async def read(self) -> bytes:
        data = await self._stream.read()
        self._count("in", len(data))
        return data

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)
        self._count("out", len(data))

    async def finish(self) -> None:
        await self._stream.finish()

    async def reset(self) -> None:
        await self._stream.reset()


class CountedTransport:
    """A Transport over another."""

    def __init__(self, transport: Transport, count: TrafficHandler) -> None:
        self._transport, self._count = transport, count

    async def open_stream(self, peer: str) -> ByteStream:
        return CountedStream(await self._transport.open_stream(peer), self._count)

    def hang_up(self, peer: str, reason: str) -> None:
        self._transport.hang_up(peer, reason)
