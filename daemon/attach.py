"""The daemon's side of an attached trainer: one TrainerLink per run, frames checked, events to the application.

Owns the words of the attach protocol and whose turn it is to write the arena. Refuses to know what a round
means and what the parameters are: the application decides the answer, fills the arena, hears the events. A
trainer that sends garbage is detached with the reason; the run lives on.
"""

import contextlib
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from intellectd.daemon.attach_events import (
    Detached,
    TrainerAttached,
    TrainerDetached,
    TrainerEvaluated,
    TrainerEvent,
    TrainerInitial,
    TrainerLog,
    TrainerReady,
    read_event,
)
from intellectd.daemon.attach_request import AttachRequest
from intellectd.daemon.control import ControlError, recv_frame, send_frame
from intellectd.daemon.frames import FrameClosed, FrameError, encode_frame

# A daemon says a round, then waits; a finish may follow. More than this unread and the trainer has stopped.
OUTBOX_FRAMES_MAX = 8
# The SDK logs at most once a second; what comes faster is dropped here, so that nobody floods the daemon.
LOG_INTERVAL_S_MIN = 0.5
# After `finish` a trainer evaluates the last anchor, which takes a large model some minutes.
FINISH_S_MAX = 600.0
# To read one frame and hang up, even on a host that swaps.
DISMISS_S_MAX = 30.0


@dataclass
class _Connection:
    scope: trio.CancelScope
    outbox: trio.MemorySendChannel[Mapping[str, Any]]
    training_round: int | None  # given out, and not answered yet
    trainer_writes: bool  # the arena is the trainer's until it says initial or round_ready
    encode: object = None  # the codec in which it may hand over deltas, if it said that it can
    reason: str = "the daemon is stopping"
    logged_at_s: float = -LOG_INTERVAL_S_MIN
    finished: bool = False


class TrainerLink:
    """One run's trainer. All methods belong to the trio thread; `on_event` must not block."""

    def __init__(self, on_event: Callable[[TrainerEvent], None]) -> None:
        self._on_event = on_event
        self._connection: _Connection | None = None

    @property
    def attached(self) -> bool:
        return self._connection is not None

    @property
    def arena_is_free(self) -> bool:
        """The application may write the arena: a trainer is attached and does not own it now."""
        return self._connection is not None and not self._connection.trainer_writes

    def refuse_second(self) -> None:
        """Raises ControlError if a trainer is attached."""
        if self._connection is not None:
            raise ControlError("trainer_attached", "another trainer is attached to this run", "end that one first")

    async def accept(
        self, sock: trio.socket.SocketType, request: AttachRequest, reply: Mapping[str, Any], arena_fd: int
    ) -> None:
        """Serve this trainer until it is gone; the descriptor stays the caller's.

        Use a fresh arena for each attachment: a trainer that was detached may still be writing to the old one.
        Raises ControlError (which the control server answers) if another trainer has the run.
        """
        self.refuse_second()
        outbox, frames = trio.open_memory_channel[Mapping[str, Any]](OUTBOX_FRAMES_MAX)
        initial = reply.get("want") == "initial"
        resumed = request.training_round if reply.get("resume") else None
        writes = initial or resumed is not None
        connection = _Connection(trio.CancelScope(), outbox, resumed, writes, reply.get("encode"))
        self._connection = connection
        try:
            with connection.scope:
                await send_with_descriptor(sock, {"ok": True, **reply}, arena_fd)
                self._on_event(TrainerAttached(request.tensors, request.pid, request.training_round))
                await self._serve(connection, sock, frames)
        finally:
            self._connection = None
            self._on_event(TrainerDetached(connection.reason))

    def start_round(
        self,
        round_number: int,
        steps: int,
        streams: Sequence[tuple[int, int]],
        *,
        tokens_total: int,
        state_round: int,
        carried_over: bool = False,
        carry: bool = False,
    ) -> None:
        """The arena holds what to start from; from here on it is the trainer's. Nothing if none is attached.

        With `carry` it holds the anchor alone, and what is carried over the trainer has itself."""
        connection = self._connection
        if connection is None:
            return
        assert not connection.trainer_writes, f"round {round_number} given while the trainer owns the arena"
        connection.training_round, connection.trainer_writes = round_number, True
        self._say(
            connection,
            {
                "op": "round",
                "round": round_number,
                "steps": steps,
                "streams": [list(stream) for stream in streams],
                "tokens_total": tokens_total,
                "state_round": state_round,
                "carried_over": carried_over,
                "carry": carry,
            },
        )

    def finish(self, reason: str, state_round: int | None) -> None:
        """The run has ended; the arena holds the anchor after `state_round`.

        None where the trainer still owns the arena: it then ends without the last anchor.
        """
        connection = self._connection
        if connection is None or connection.finished:
            return
        assert state_round is None or not connection.trainer_writes, "finish with an anchor in the trainer's arena"
        connection.finished = True
        connection.reason = f"it did not end within {FINISH_S_MAX:g} s of the finish"
        # The trainer closes when it has evaluated the last anchor.
        connection.scope.deadline = trio.current_time() + FINISH_S_MAX
        self._say(connection, {"op": "finish", "reason": reason, "state_round": state_round})

    def dismiss(self, frame: Mapping[str, Any]) -> None:
        """The last word: this trainer is to go elsewhere, or nowhere, and to hang up."""
        connection = self._connection
        if connection is not None:
            connection.reason = "it was dismissed"
            connection.scope.deadline = trio.current_time() + DISMISS_S_MAX
            self._say(connection, frame)

    def detach(self, reason: str) -> None:
        """Hang up: the SDK attaches again, and is told whether its round still counts."""
        if self._connection is not None:
            self._connection.reason = reason
            self._connection.scope.cancel()

    async def _serve(
        self,
        connection: _Connection,
        sock: trio.socket.SocketType,
        frames: trio.MemoryReceiveChannel[Mapping[str, Any]],
    ) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write_frames, connection, sock, frames)
            await self._read_frames(connection, sock)
            nursery.cancel_scope.cancel()

    async def _read_frames(self, connection: _Connection, sock: trio.socket.SocketType) -> None:
        try:
            while True:
                self._hear(connection, await recv_frame(sock))
        except FrameClosed:
            connection.reason = "it has finished" if connection.finished else "it closed the connection"
        except (FrameError, Detached) as error:
            connection.reason = f"it sent garbage: {error}"
        except OSError as error:
            connection.reason = f"its connection broke: {error}"

    def _hear(self, connection: _Connection, frame: Mapping[str, Any]) -> None:
        event = read_event(frame)
        match event:
            case TrainerInitial():
                if not connection.trainer_writes or connection.training_round is not None:
                    raise Detached("initial parameters that nobody asked for")
                connection.trainer_writes = False
            case TrainerReady(round=round_number):
                if not connection.trainer_writes or round_number != connection.training_round:
                    raise Detached(f"round_ready for round {round_number}, which it was not given")
                if event.encoded is not None and event.encoded.codec != connection.encode:
                    raise Detached(f"a delta in {event.encoded.codec}, which nobody asked for")
                connection.trainer_writes, connection.training_round = False, None
            case TrainerLog():
                now_s = trio.current_time()
                if now_s - connection.logged_at_s < LOG_INTERVAL_S_MIN:
                    return
                connection.logged_at_s = now_s
            case TrainerEvaluated():
                pass
        self._on_event(event)

    def _say(self, connection: _Connection, frame: Mapping[str, Any]) -> None:
        try:
            connection.outbox.send_nowait(frame)
        except trio.WouldBlock:
            self.detach(f"it has left {OUTBOX_FRAMES_MAX} frames unread")
        except trio.BrokenResourceError:
            pass  # the writer has ended and the reader is about to


async def send_with_descriptor(sock: trio.socket.SocketType, frame: Mapping[str, Any], descriptor: int) -> None:
    """The descriptor rides on the frame's first byte."""
    view = memoryview(encode_frame(frame))
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))]
    sent = await sock.sendmsg([view], rights)
    while sent < len(view):
        sent += await sock.send(view[sent:])


async def _write_frames(
    connection: _Connection, sock: trio.socket.SocketType, frames: trio.MemoryReceiveChannel[Mapping[str, Any]]
) -> None:
    with contextlib.suppress(OSError):  # the reader of the same socket hears of it and says why
        async for frame in frames:
            await send_frame(sock, frame)
