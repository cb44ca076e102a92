"""One connection to the daemon's socket: attach, the arena that comes with the answer, frames both ways.

Owns the socket and the mapped arena. Refuses to know rounds, retries and models: whatever goes wrong with the
other side is LinkLost, and the session above decides what follows.
"""

import contextlib
import os
import select
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from intellectd.daemon.arena import ArenaError, arena_tensor, map_arena
from intellectd.daemon.frames import (
    LENGTH_BYTES,
    FrameError,
    decode_body,
    decode_length,
    encode_frame,
    recv_frame,
    send_frame,
)
from intellectd.daemon.sdk.errors import ModelUnsupported
from intellectd.daemon.sdk.messages import Garbled, Welcome, welcome

# A frame is small and the daemon reads all the time: one that takes longer has stopped.
FRAME_TIMEOUT_S = 30.0
# It lets go of who hangs up within a moment; a program that is through does not wait longer for one that has stopped.
LEAVE_TIMEOUT_S = 5.0
UNREAD_BYTES = 4096  # at a time, of words that nobody waits for any more


class LinkLost(Exception):
    """The daemon closed, does not answer, or sent what no daemon sends; the text says which."""


class DaemonClient:
    """`flat` is the arena: write parameters there before `round_ready`, read them there after `round`."""

    def __init__(self, sock: socket.socket, answer: Welcome, flat: torch.Tensor, descriptor: int) -> None:
        self.answer, self.flat = answer, flat
        self.descriptor = descriptor  # of the arena: other ranks of the job map it, too
        self._sock = sock

    @classmethod
    def attach(cls, path: Path, request: Mapping[str, Any], elements: int, timeout_s: float) -> "DaemonClient":
        """Raises LinkLost, or the IntellectdError that the daemon's refusal stands for."""
        try:
            hello = encode_frame(request)
        except FrameError as error:
            raise ModelUnsupported(f"the list of parameters {error}", "stack some of the parameters") from error
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(os.fspath(path))
            sock.sendall(hello)
            answer, flat, descriptor = _receive_welcome(sock, elements)
            sock.settimeout(FRAME_TIMEOUT_S)
            return cls(sock, answer, flat, descriptor)
        except (OSError, FrameError, Garbled, ArenaError) as error:
            sock.close()
            raise LinkLost(_words(error)) from error
        except BaseException:
            sock.close()
            raise

    def send(self, frame: Mapping[str, Any]) -> None:
        try:
            send_frame(self._sock, frame)
        except OSError as error:
            raise LinkLost(_words(error)) from error

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next frame, or None if none has begun within the timeout."""
        try:
            if not self._is_readable(timeout_s):
                return None
            return recv_frame(self._sock)
        except (OSError, FrameError) as error:
            raise LinkLost(_words(error)) from error

    def _is_readable(self, timeout_s: float) -> bool:
        """Not by select(2): a program with 1024 files open, as loaders of data have, gets higher descriptors."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def leave(self) -> None:
        """Close once the daemon has let go, or does not: who attaches next is then not taken for a second program."""
        until_s = time.monotonic() + LEAVE_TIMEOUT_S
        try:
            self._sock.shutdown(socket.SHUT_WR)
            while (left_s := until_s - time.monotonic()) > 0:
                self._sock.settimeout(left_s)
                if not self._sock.recv(UNREAD_BYTES):
                    break
        except OSError:
            pass  # it has gone
        finally:
            self.close()

    def close(self) -> None:
        """Of all processes that have the socket: forked meanwhile, a loader's worker would keep it open."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def _receive_welcome(sock: socket.socket, elements: int) -> tuple[Welcome, torch.Tensor, int]:
    # The descriptor rides on the first byte; MSG_WAITALL takes the whole length and nothing of the body.
    flags = socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC
    header, descriptors, _, _ = socket.recv_fds(sock, LENGTH_BYTES, 1, flags)
    with contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        if not header:
            raise Garbled("it closed the connection without an answer")
        body = _receive_exactly(sock, decode_length(header))
        answer = welcome(decode_body(body))
        if not descriptors:
            raise Garbled("an answer without the arena")
        if answer.elements != elements:
            raise Garbled(f"an arena of {answer.elements} elements for a model of {elements}")
        return answer, arena_tensor(map_arena(descriptors[0], elements)), os.dup(descriptors[0])


def _receive_exactly(sock: socket.socket, length: int) -> bytes:
    body = bytearray()
    while len(body) < length:
        piece = sock.recv(length - len(body))
        if not piece:
            raise FrameError(f"the connection ended after {len(body)} of {length} bytes")
        body += piece
    return bytes(body)


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
