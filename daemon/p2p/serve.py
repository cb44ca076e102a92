"""The peer's side of one peer: its calls and posts, over the one stream that it opened.

Owns the running of handlers: how many at once, how long, and that whatever they raise stays an answer to
the caller and a line in the log. Refuses to know what the methods do.
"""

import logging

import trio

from intellectd.daemon.net import MESSAGE_BYTES_MAX, CallHandler, PostHandler
from intellectd.daemon.p2p import wire
from intellectd.daemon.p2p.limits import (
    CALLS_IN_FLIGHT_MAX,
    HANDLER_SECONDS_MAX,
    PREAMBLE_BYTES_MAX,
    PREAMBLE_SECONDS_MAX,
)
from intellectd.daemon.p2p.streams import (
    ByteStream,
    FrameReader,
    StreamEnded,
    Transport,
    WriteStuck,
    write_whole,
)
from intellectd.daemon.p2p.versions import Versions

log = logging.getLogger("intellectd.p2p")


class Handlers:
    """What this host answers to. One table for all peers."""

    def __init__(self) -> None:
        self.calls: dict[str, CallHandler] = {}
        self.posts: list[PostHandler] = []


class Serving:
    """One inbound stream, from its preamble to its end."""

    def __init__(self, peer: str, stream: ByteStream, transport: Transport, handlers: Handlers) -> None:
        self.peer = peer
        self._stream = stream
        self._transport = transport
        self._handlers = handlers
        self._write_lock = trio.Lock()
        self._calls_running = 0

    async def run(self, versions: Versions) -> None:
        """Never raises but to be cancelled: the stream belongs to a peer, and so do its faults."""
        reader = FrameReader(self._stream)
        try:
            if await self._greet(reader, versions):
                await self._converse(reader)
        except (wire.BadFrame, WriteStuck) as error:
            self._transport.hang_up(self.peer, str(error))
        except StreamEnded as error:
            log.debug("the stream of %s ended: %s", self.peer, error)
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await self._stream.reset()

    async def _greet(self, reader: FrameReader, versions: Versions) -> bool:
        reason = "no compatible preamble in time"
        with trio.move_on_after(PREAMBLE_SECONDS_MAX):
            theirs = wire.decode_preamble(await reader.next(PREAMBLE_BYTES_MAX))
            await write_whole(self._stream, wire.encode_preamble(versions.ours))
            if versions.compare(self.peer, theirs) is None:
                return True
            reason = ""
            # Ours is on its way, so that the dialler can tell its user the versions; then it hangs up.
            await self._stream.finish()
            await reader.next(PREAMBLE_BYTES_MAX)
        self._transport.hang_up(self.peer, reason)
        return False

    async def _converse(self, reader: FrameReader) -> None:
        ending: Exception | None = None
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    frame = wire.decode(await reader.next(wire.FRAME_BYTES_MAX))
                    await self._on_frame(frame, nursery)
            except (StreamEnded, wire.BadFrame, WriteStuck) as error:
                ending = error
            nursery.cancel_scope.cancel()  # nobody is left to read the answers still being made
        if ending is not None:
            raise ending

    async def _on_frame(self, frame: wire.Frame, nursery: trio.Nursery) -> None:
        if frame.kind == wire.POST:
            self._deliver(frame.body)
        elif frame.kind != wire.CALL:
            raise wire.BadFrame("an answer came on the stream of the peer's own calls")
        elif frame.method == wire.PING:
            await self._answer(wire.encode(wire.Frame(wire.ANSWER, frame.id, "", b"")))
        elif self._calls_running >= CALLS_IN_FLIGHT_MAX:
            busy = f"busy: {self._calls_running} calls of yours are in progress"
            await self._answer(wire.encode_error(frame.id, busy))
        else:
            self._calls_running += 1
            nursery.start_soon(self._serve_call, frame)

    def _deliver(self, body: bytes) -> None:
        for handler in self._handlers.posts:
            try:
                handler(self.peer, body)
            except Exception:
                log.exception("the handler of posts failed on one of %d bytes from %s", len(body), self.peer)

    async def _serve_call(self, frame: wire.Frame) -> None:
        try:
            await self._answer(await self._outcome(frame))
        except (StreamEnded, WriteStuck) as error:
            # The reader of this stream sees its end too; a stuck one it does not.
            if isinstance(error, WriteStuck):
                self._transport.hang_up(self.peer, str(error))
        finally:
            self._calls_running -= 1

    async def _outcome(self, frame: wire.Frame) -> bytes:
        handler = self._handlers.calls.get(frame.method)
        if handler is None:
            return wire.encode_error(frame.id, f"no method {frame.method!r} here")
        try:
            with trio.move_on_after(HANDLER_SECONDS_MAX):
                return _encode_answer(frame, await handler(self.peer, frame.body))
            raise TimeoutError(f"took more than {HANDLER_SECONDS_MAX:g} s")
        except Exception as error:
            log.exception("the handler of %r failed for %s", frame.method, self.peer)
            return wire.encode_error(frame.id, f"{frame.method}: {str(error) or type(error).__name__}")

    async def _answer(self, data: bytes) -> None:
        async with self._write_lock:
            await write_whole(self._stream, data)


def _encode_answer(frame: wire.Frame, body: bytes) -> bytes:
    if len(body) > MESSAGE_BYTES_MAX:
        raise ValueError(f"the answer has {len(body)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    return wire.encode(wire.Frame(wire.ANSWER, frame.id, "", bytes(body)))
