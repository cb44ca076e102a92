"""Listening sockets of the local services: a unix socket and loopback TCP, opened with an operator's errors.

Owns who may replace a socket file, and an accept loop that outlives a shortage
of file descriptors. Refuses to know what is spoken over them.
"""

import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import trio

from intellectd.daemon.atomic import make_dir, storage_error
from intellectd.daemon.claims import not_listening, refuse_if_taken
from intellectd.daemon.logs import get_log, log_if_changed

SOCKET_MODE = 0o660  # the owner and the group `intellectd` may command the daemon
BACKLOG = 16  # both services answer in microseconds and close
ACCEPT_RETRY_S = 0.1  # what trio.serve_listeners waits when descriptors run out

log = get_log("listeners")


@contextlib.asynccontextmanager
async def unix_listener(path: Path) -> AsyncIterator[trio.socket.SocketType]:
    """Listens at `path`, replacing the file of a dead daemon but never a live one's; removes it at the end."""
    make_dir(path.parent)
    refuse_if_taken(path)
    # Bound under another name and renamed, so that nobody finds the path without its final mode or unserved. Always the
    # same one, so that what a crash left there goes, and another one for each path of a folder.
    temp = path.with_name(hashlib.blake2s(os.fsencode(path.name), digest_size=8).hexdigest() + "~")
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with trio.socket.from_stdlib_socket(plain) as sock:
        try:
            temp.unlink(missing_ok=True)
            _bind(plain, temp)
            temp.chmod(SOCKET_MODE)
            sock.listen(BACKLOG)
            inode = temp.stat().st_ino
            temp.rename(path)
        except OSError as error:
            raise storage_error(error, path) from error
        try:
            yield sock
        finally:
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:  # a successor's socket may lie there by now
                    path.unlink()


def _bind(sock: socket.socket, path: Path) -> None:
    """By way of its folder's descriptor, so that the path may be longer than a socket's. Not by trio's `bind`, whose
    thread takes longer than the call."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@contextlib.asynccontextmanager
async def tcp_listener(host: str, port: int, what: str) -> AsyncIterator[trio.socket.SocketType]:
    """`what` names the service and its setting in the error."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_STREAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await sock.bind((host, port))
            sock.listen(BACKLOG)
        except OSError as error:
            raise not_listening(f"cannot listen on {host}:{port} for {what}", port, error) from error
        yield sock


async def accept_each(
    listener: trio.socket.SocketType, handle: Callable[[trio.socket.SocketType], Awaitable[None]]
) -> None:
    """Runs `handle` in a task for each connection, until cancelled. `handle` closes it and does not raise."""
    async with trio.open_nursery() as nursery:
        await accept_into(nursery, listener, handle)


async def accept_into(
    nursery: trio.Nursery,
    listener: trio.socket.SocketType,
    handle: Callable[[trio.socket.SocketType], Awaitable[None]],
) -> None:
    """The same, in tasks that may outlive the listener."""
    while True:
        try:
            sock, _ = await listener.accept()
        except OSError as error:
            # Out of descriptors or memory, or the client is gone already: neither ends the daemon.
            log_if_changed(log.warning, "accept", "cannot accept a connection", reason=error.strerror)
            await trio.sleep(ACCEPT_RETRY_S)
        else:
            nursery.start_soon(handle, sock)
