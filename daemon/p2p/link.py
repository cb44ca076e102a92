"""Our side of one peer: what we call and post, over one persistent stream that we opened.

Owns the calls awaiting an answer, the stream's life and the pause before a
redial. Refuses to know how a stream is made and what messages mean. The peer's calls come over its own
stream (`daemon.p2p.serve`), so two hosts that dial each other at once never compete for one.
"""

import logging
import random
from dataclasses import dataclass, field, replace

import trio

from intellectd.daemon.net import (
    CallTimeout,
    Contact,
    NetworkError,
    PeerUnreachable,
    RemoteFailure,
)
from intellectd.daemon.p2p import wire
from intellectd.daemon.p2p.limits import (
    BACKOFF_SECONDS_MAX,
    BACKOFF_SECONDS_MIN,
    BACKOFF_UNSEEN_SECONDS_MAX,
    CALLS_IN_FLIGHT_MAX,
    PING_FIRST_SECONDS,
    PING_SECONDS,
    PREAMBLE_BYTES_MAX,
    PREAMBLE_SECONDS_MAX,
)
from intellectd.daemon.p2p.outbox import POSTED, Outbox
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


@dataclass
class _Waiter:
    """Somebody waits for an answer, or for the stream to be open."""

    done: trio.Event = field(default_factory=trio.Event)
    body: bytes = b""
    error: NetworkError | None = None

    def resolve(self, body: bytes = b"", error: NetworkError | None = None) -> None:
        self.body, self.error = body, error
        self.done.set()


class Link:
    def __init__(self, peer: str, transport: Transport, nursery: trio.Nursery, versions: Versions) -> None:
        self.peer = peer
        self.contact = Contact()
        self._transport = transport
        self._nursery = nursery
        self._versions = versions
        self._outbox = Outbox()
        self._answers: dict[int, _Waiter] = {}
        self._openings: list[_Waiter] = []
        self._next_id = 1
        self._turns = trio.Semaphore(CALLS_IN_FLIGHT_MAX)
        self._wake = trio.Event()  # for the writer: there is something in the outbox
        self._hurry = trio.Event()  # for the pause before a redial: do not wait
        self._running = False
        self._open = False
        self._over = trio.Event()  # renewed with each stream
        self._failures = 0
        self._understood = False  # the peer was reached, and spoke this host's version when it last was
        self._carried_over = False  # the outbox has outlived a stream already

    # -- what the app asks for

    def post(self, body: bytes) -> bool:
        return self._enqueue(POSTED, wire.encode(wire.Frame(wire.POST, 0, "", body)))

    async def call(self, method: str, body: bytes, timeout_s: float) -> bytes:
        with trio.move_on_after(timeout_s):
            async with self._turns:
                self.hurry()
                return await self._exchange(method, body)
        raise self._too_late(timeout_s)

    async def opened(self, timeout_s: float) -> None:
        """Return once the stream is up and both sides have said their version. Raises NetworkError."""
        if self._open:
            return
        waiter = _Waiter()
        self._openings.append(waiter)
        try:
            self.hurry()
            with trio.move_on_after(timeout_s):
                await waiter.done.wait()
        finally:
            if waiter in self._openings:
                self._openings.remove(waiter)
        if not waiter.done.is_set():
            raise self._too_late(timeout_s)
        if waiter.error is not None:
            raise waiter.error

    async def ended(self) -> None:
        """Return once the stream that was open is over, so that what is asked next gets a new one."""
        if self._open:
            await self._over.wait()

    def hurry(self) -> None:
        """There is a reason to try now: a call waits, an address was learned, or the peer connected to us."""
        self._hurry.set()
        self._run_if_needed()

    @property
    def idle(self) -> bool:
        """Nothing is lost when this link is forgotten."""
        return not self._running

    def close(self) -> None:
        self._drop_everything(PeerUnreachable("this host is shutting down"))

    # -- the outbox

    def _enqueue(self, call_id: int, frame: bytes) -> bool:
        if not self._outbox.push(call_id, frame):
            reason = f"{self._outbox} wait for it to read"
            self._drop_everything(PeerUnreachable(f"hung up on {self.peer}: {reason}"))
            self._transport.hang_up(self.peer, reason)
            return False
        self._wake.set()
        self._run_if_needed()
        return True

    def _drop_everything(self, error: NetworkError) -> None:
        self._outbox.clear()
        waiting = [*self._answers.values(), *self._openings]
        # Cleared here and not by those who wait: `_run` must see at once that nobody waits any more.
        self._answers.clear()
        self._openings.clear()
        for waiter in waiting:
            waiter.resolve(error=error)

    # -- calls

    async def _exchange(self, method: str, body: bytes) -> bytes:
        call_id, self._next_id = self._next_id, self._next_id + 1
        waiter = self._answers[call_id] = _Waiter()
        try:
            self._enqueue(call_id, wire.encode(wire.Frame(wire.CALL, call_id, method, body)))
            await waiter.done.wait()
        finally:
            if self._answers.pop(call_id, None) is not None:
                self._outbox.retract(call_id)
        if waiter.error is not None:
            raise waiter.error
        return waiter.body

    def _too_late(self, timeout_s: float) -> NetworkError:
        if self._open:
            return CallTimeout(f"{self.peer} is connected but did not answer within {timeout_s:g} s")
        return PeerUnreachable(f"no connection to {self.peer} within {timeout_s:g} s")

    def _on_frame(self, frame: wire.Frame) -> None:
        if frame.kind not in (wire.ANSWER, wire.ERROR):
            raise wire.BadFrame("a call or post came back on the stream of our own calls")
        waiter = self._answers.pop(frame.id, None)
        if waiter is None:
            return  # its caller gave up
        if frame.kind == wire.ANSWER:
            waiter.resolve(frame.body)
        else:
            waiter.resolve(error=RemoteFailure(frame.body.decode("utf-8", "replace")))

    # -- the stream's life

    def _run_if_needed(self) -> None:
        if not self._running and (self._outbox or self._answers or self._openings):
            self._running = True
            self._nursery.start_soon(self._run)

    async def _run(self) -> None:
        try:
            while self._outbox or self._answers or self._openings:
                await self._pause()
                await self._session()
        finally:
            self._running = False

    async def _pause(self) -> None:
        """Exponential with jitter, so that a peer that comes back is not met by everybody at once."""
        if self._failures:
            longest_s = BACKOFF_SECONDS_MAX if self._understood else BACKOFF_UNSEEN_SECONDS_MAX
            pause_s = min(longest_s, BACKOFF_SECONDS_MIN * 2 ** min(self._failures - 1, 16))
            with trio.move_on_after(pause_s * random.uniform(0.5, 1.0)):
                await self._hurry.wait()
        self._hurry = trio.Event()

    async def _session(self) -> None:
        stream: ByteStream | None = None
        try:
            stream = await self._transport.open_stream(self.peer)
            reader = await self._greet(stream)
            self._set_open()
            await self._converse(stream, reader)
        except NetworkError as error:
            self._failures += 1
            self._drop_everything(error)
        except (wire.BadFrame, WriteStuck) as error:
            self._drop_everything(PeerUnreachable(f"hung up on {self.peer}: {error}"))
            self._transport.hang_up(self.peer, str(error))
        except StreamEnded as error:
            self._lost(PeerUnreachable(f"the connection to {self.peer} ended: {error}"))
        finally:
            self._open = False
            self._over.set()
            self.contact = replace(self.contact, round_trip_s=None)
            if stream is not None:
                await _reset(stream)

    def _lost(self, error: PeerUnreachable) -> None:
        """What was not sent yet gets one more stream. What was sent may have been done: never twice."""
        if not self._open or self._carried_over:
            self._failures += 1
            self._drop_everything(error)
            return
        self._carried_over = True
        for call_id in [call_id for call_id in self._answers if not self._outbox.holds(call_id)]:
            self._answers.pop(call_id).resolve(error=error)

    def _set_open(self) -> None:
        self._open = True
        self._over = trio.Event()
        self._failures = 0
        waiting, self._openings = self._openings, []
        for waiter in waiting:
            waiter.resolve()

    async def _greet(self, stream: ByteStream) -> FrameReader:
        await write_whole(stream, wire.encode_preamble(self._versions.ours))
        reader = FrameReader(stream)
        with trio.move_on_after(PREAMBLE_SECONDS_MAX) as scope:
            theirs = wire.decode_preamble(await reader.next(PREAMBLE_BYTES_MAX))
        if scope.cancelled_caught:
            # Open for TCP only, like a frozen host's: the next attempt should not run into it again.
            self._transport.hang_up(self.peer, f"silent for {PREAMBLE_SECONDS_MAX:g} s on a new stream")
            raise PeerUnreachable(f"{self.peer} took the connection but did not say its version in time")
        self.contact = Contact(theirs.software)
        mismatch = self._versions.compare(self.peer, theirs)
        self._understood = mismatch is None
        if mismatch is not None:
            self._transport.hang_up(self.peer, "")
            raise mismatch
        return reader

    async def _converse(self, stream: ByteStream, reader: FrameReader) -> None:
        """Until the stream ends. A nursery would wrap each ending in a group, so they report instead."""
        endings: list[Exception] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, reader, nursery.cancel_scope, endings)
            nursery.start_soon(self._write, stream, nursery.cancel_scope, endings)
            nursery.start_soon(self._ping)
        if endings:
            raise endings[0]

    async def _read(self, reader: FrameReader, scope: trio.CancelScope, endings: list[Exception]) -> None:
        try:
            while True:
                self._on_frame(wire.decode(await reader.next(wire.FRAME_BYTES_MAX)))
        except (StreamEnded, wire.BadFrame) as error:
            endings.append(error)
            scope.cancel()

    async def _write(self, stream: ByteStream, scope: trio.CancelScope, endings: list[Exception]) -> None:
        try:
            while True:
                while self._outbox:
                    await write_whole(stream, self._outbox.take_batch())
                    self._carried_over = False
                self._wake = trio.Event()
                await self._wake.wait()
        except (StreamEnded, WriteStuck) as error:
            endings.append(error)
            scope.cancel()

    async def _ping(self) -> None:
        """While the stream lives: for people to look at, nothing rests on it."""
        wait_s = PING_FIRST_SECONDS
        while True:
            await trio.sleep(wait_s)
            wait_s = PING_FIRST_SECONDS if self._outbox else PING_SECONDS
            if not self._outbox:  # else what waits would be measured too
                self.contact = replace(self.contact, round_trip_s=await self._round_trip_s())

    async def _round_trip_s(self) -> float | None:
        asked_at = trio.current_time()
        with trio.move_on_after(PING_SECONDS) as scope:
            try:
                await self._exchange(wire.PING, b"")
            except RemoteFailure:
                pass  # an answer all the same, if of software that knows no ping
            except NetworkError:
                return None  # the stream is about to end
        return None if scope.cancelled_caught else trio.current_time() - asked_at


async def _reset(stream: ByteStream) -> None:
    with trio.CancelScope(shield=True), trio.move_on_after(1):
        await stream.reset()
