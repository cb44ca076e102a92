"""The daemon's unix socket: framed requests in, answers out, and trainers handed to whoever attaches them.

Owns the socket file, its clients and every bound on them: a client that is silent, slow, garbled or gone
costs a slot and some seconds, never the daemon. Refuses to know what an operation does.
"""

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import trio

from intellectd.daemon.errors import OperatorError
from intellectd.daemon.frames import (
    LENGTH_BYTES,
    PROTOCOL_VERSION,
    FrameClosed,
    FrameError,
    decode_body,
    decode_length,
    encode_frame,
)
from intellectd.daemon.listeners import accept_into, unix_listener
from intellectd.daemon.logs import get_log, log_if_changed
from intellectd.daemon.socket_path import check_socket_path

SCHEMA_VERSION = 1
CLIENTS_MAX = 32  # an operator's terminals and scripts; the longest idle one makes room for a new one
ATTACHED_MAX = 64  # trainers: one for each run this host may hold, and some on their way out
IDLE_S_MAX = 60.0  # between two requests of one client
LOOK_S = 30.0  # between two looks whether the socket's file is there: a trainer tries again for ten minutes
FRAME_S_MAX = 10.0  # from a frame's first byte to its last, and for a client to take an answer

Answer = Mapping[str, Any]
Handler = Callable[[dict[str, Any]], Awaitable[Answer]]
Attach = Callable[[trio.socket.SocketType, dict[str, Any]], Awaitable[None]]

log = get_log("control")


class ControlError(Exception):
    """A handler's way to say no: `code` for scripts, `message` and `hint` for people."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


async def send_frame(sock: trio.socket.SocketType, obj: Mapping[str, Any]) -> None:
    view = memoryview(encode_frame(obj))
    while view:
        view = view[await sock.send(view) :]


async def recv_frame(sock: trio.socket.SocketType, body_s_max: float = FRAME_S_MAX) -> dict[str, Any]:
    """Waits as long as it takes for a frame to begin, and `body_s_max` for the rest of it."""
    first = await sock.recv(LENGTH_BYTES)
    if not first:
        raise FrameClosed("the other side closed the connection")
    try:
        with trio.fail_after(body_s_max):
            header = first + await _recv_exactly(sock, LENGTH_BYTES - len(first))
            body = await _recv_exactly(sock, decode_length(header))
    except trio.TooSlowError:
        raise FrameError(f"a frame was not complete after {body_s_max:g} s") from None
    return decode_body(body)


async def _recv_exactly(sock: trio.socket.SocketType, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        part = await sock.recv(min(length - len(body), 65536))
        if not part:
            raise FrameError(f"the connection ended after {len(body)} of {length} bytes")
        body += part
    return bytes(body)


class ControlServer:
    """Listens at `path` from `serve` until it is cancelled."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], attach: Attach) -> None:
        self._path = check_socket_path(path)
        self._handlers = handlers
        self._attach = attach
        self._idle: dict[trio.CancelScope, None] = {}  # clients between requests, the longest idle first
        self._clients = 0
        self._attached = 0

    async def serve(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Where the path vanishes it listens there anew: a user's /run folder goes with the last login. Nobody could
        reach the daemon any more; those that are connected stay."""
        is_first = True
        async with trio.open_nursery() as clients:
            while True:
                try:
                    async with unix_listener(self._path) as listener:
                        if is_first:
                            task_status.started()
                        else:
                            log.warning("the control socket had vanished; it is there again", path=str(self._path))
                        is_first = False
                        await self._accept(listener, clients)
                except OperatorError as error:
                    if is_first:
                        raise
                    log_if_changed(log.warning, "socket", "the control socket is gone", reason=str(error))
                    await trio.sleep(LOOK_S)

    async def _accept(self, listener: trio.socket.SocketType, clients: trio.Nursery) -> None:
        """Until nobody finds the listener any more."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_into, clients, listener, self._client)
            while os.path.lexists(self._path):
                await trio.sleep(LOOK_S)
            nursery.cancel_scope.cancel()

    async def _client(self, sock: trio.socket.SocketType) -> None:
        with sock:
            try:
                if self._admit():
                    with self._slot():
                        request = await self._converse(sock)
                    if request is not None:
                        await self._hand_over(sock, request)
                else:
                    await _answer(sock, _error("busy", "too many clients at once", "try again in a minute"))
            except FrameError as error:
                with contextlib.suppress(OSError, FrameError):
                    await _answer(sock, _error("bad_frame", str(error), "is this an intellectd client?"))
            except OSError as error:
                log.debug("a client's connection broke", reason=str(error))

    def _admit(self) -> bool:
        if self._clients < CLIENTS_MAX:
            return True
        if not self._idle:
            return False
        oldest = next(iter(self._idle))
        del self._idle[oldest]
        oldest.cancel()
        return True

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        self._clients += 1
        try:
            yield
        finally:
            self._clients -= 1

    async def _converse(self, sock: trio.socket.SocketType) -> dict[str, Any] | None:
        """Answers requests until the client has had its say; returns the request that wants to attach."""
        while True:
            request = await self._next_request(sock)
            if request is None:
                return None
            if request.get("version") != PROTOCOL_VERSION:
                await _answer(sock, _version_error(request.get("version")))
            elif request.get("op") == "attach":
                return request
            else:
                answer = await self._handle_unless_gone(sock, request)
                if answer is None:
                    return None
                await _answer(sock, answer)

    async def _next_request(self, sock: trio.socket.SocketType) -> dict[str, Any] | None:
        with trio.move_on_after(IDLE_S_MAX) as idle:
            self._idle[idle] = None
            try:
                return await recv_frame(sock)
            except FrameClosed:
                return None
            finally:
                self._idle.pop(idle, None)
        return None

    async def _handle_unless_gone(self, sock: trio.socket.SocketType, request: dict[str, Any]) -> dict[str, Any] | None:
        """None when the client hung up first: nobody waits for the answer, so the work is cancelled."""
        answer: dict[str, Any] | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                gone = True  # a broken connection is gone as well
                with contextlib.suppress(OSError):
                    gone = not await sock.recv(1, socket.MSG_PEEK)
                if gone:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            answer = await self._handle(request)
            nursery.cancel_scope.cancel()
        return answer

    async def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        op = request.get("op")
        handler = self._handlers.get(op) if isinstance(op, str) else None
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            return _error("unknown_op", f"this daemon has no operation {op!r:.60}", f"it knows: {known}")
        try:
            return {"ok": True, "schema": SCHEMA_VERSION, **await handler(request)}
        except ControlError as error:
            return _error(error.code, error.message, error.hint)
        except OperatorError as error:
            return _error("failed", error.message, error.hint)
        except Exception as error:
            # A fault in one operation must not end a daemon that is in the middle of a round.
            log.failure("an operation failed", error, op=op)
            what = f"{type(error).__name__}: {error}"
            return _error("internal", f"`{op}` failed inside the daemon: {what}", "the daemon's log has more")

    async def _hand_over(self, sock: trio.socket.SocketType, request: dict[str, Any]) -> None:
        if self._attached >= ATTACHED_MAX:
            await _answer(sock, _error("busy", "too many trainers are attached", "end one of them first"))
            return
        self._attached += 1
        try:
            await self._attach(sock, request)
        except ControlError as error:
            await _answer(sock, _error(error.code, error.message, error.hint))
        except (OSError, FrameError) as error:
            log.info("a trainer's connection ended", reason=str(error))
        except Exception as error:
            log.failure("attaching a trainer failed", error)
        finally:
            self._attached -= 1


def _error(code: str, message: str, hint: str) -> dict[str, Any]:
    return {
        "ok": False,
        "schema": SCHEMA_VERSION,
        "error": {"code": code, "message": message, "hint": hint},
    }


def _version_error(version: object) -> dict[str, Any]:
    return _error(
        "version",
        f"the client speaks version {version!r:.20} of the local protocol, this daemon {PROTOCOL_VERSION}",
        "install the same version of intellectd for both, and restart the daemon",
    )


async def _answer(sock: trio.socket.SocketType, answer: Mapping[str, Any]) -> None:
    with trio.move_on_after(FRAME_S_MAX) as deadline:
        await send_frame(sock, answer)
    if deadline.cancelled_caught:
        raise FrameError(f"the client did not take its answer within {FRAME_S_MAX:g} s")
