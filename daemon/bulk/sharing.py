"""How two processes of one host come to share memory for a wire. SPEC D12.

Owns the handing over: the dialler's request names a socket of this host's, the acceptor sends a file in memory and a
socket there, with a token that only those two can know. Refuses to know what the memory is for (lanes.py). Whatever
does not work leaves the wire without: chunks go by its connection then.
"""

import contextlib
import os
import secrets
import socket
import struct
import threading

from intellectd.daemon.bulk.errors import LinkLost
from intellectd.daemon.bulk.lanes import Lanes, check_memory, new_memory
from intellectd.daemon.bulk.limits import OFFERS_HEARD_MAX, SHARED_WIRES_MAX
from intellectd.daemon.bulk.sealed import TOKEN_BYTES
from intellectd.daemon.bulk.wire import NEAR_BYTES

FILES = 2  # the memory and a socket
_INT = struct.Struct("i")


class Sharing:
    """Whether this process shares memory with others of its host, and for how many wires it does."""

    def __init__(self, enabled: bool) -> None:
        self._lock = threading.Lock()
        self._enabled, self._wires = enabled, 0

    def offer(self) -> "Offer | None":
        """By who dials. None: the wire goes without."""
        if not self._enters():
            return None
        try:
            return Offer(self)
        except OSError:
            self.leave()
            return None

    def give(self, near: bytes, token: bytes) -> Lanes | None:
        """By who accepts, to the socket of that name."""
        if not self._enters():
            return None
        try:
            return self._given(near, token)
        except OSError:  # another host's name after all, no file or memory left, a sandbox that refuses
            self.leave()
            return None

    def _given(self, near: bytes, token: bytes) -> Lanes:
        with contextlib.ExitStack() as stack:
            memory = new_memory()
            stack.callback(os.close, memory)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            stack.callback(ours.close)
            with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as by:
                by.connect(_address(near))
                by.sendmsg([token], [_rights(memory, theirs.fileno())], socket.MSG_DONTWAIT)
            stack.pop_all()  # the lanes take them over
            return Lanes(memory, ours, dialled=False, on_closed=self.leave)

    def _enters(self) -> bool:
        with self._lock:
            enters = self._enabled and self._wires < SHARED_WIRES_MAX
            self._wires += enters
            return enters

    def leave(self) -> None:
        with self._lock:
            self._wires -= 1

    def fails(self) -> None:
        """It does not work here, though both ends thought so: not tried again."""
        self._enabled = False


class Offer:
    """A socket at which the acceptor leaves what is shared, before it answers. Raises OSError."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing, self.near, self._left = sharing, secrets.token_bytes(NEAR_BYTES), True
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.bind(_address(self.near))
        except BaseException:
            self._socket.close()
            raise

    def take(self, token: bytes) -> Lanes:
        """What the acceptor says to have left. Raises LinkLost, WireError."""
        for _ in range(OFFERS_HEARD_MAX):  # others of this host may have written, too
            try:
                said = self._socket.recv(TOKEN_BYTES + 1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
                if secrets.compare_digest(said, token):
                    return self._taken(self._files())
                self._socket.recv(1, socket.MSG_DONTWAIT)
            except OSError:
                break
        self._sharing.fails()
        raise LinkLost("the memory that it shares did not come")

    def _files(self) -> list[int]:
        """Of the next datagram. Only of one that is the peer's: a stranger's would be closed here, which takes this
        process's locks on it, and lasts as long as its file system likes. Raises OSError. Not by socket.recv_fds, which
        heeds no flags."""
        room, flags = socket.CMSG_LEN(FILES * _INT.size), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        _said, beside, _flags, _from = self._socket.recvmsg(TOKEN_BYTES, room, flags)
        return [
            file
            for level, kind, raw in beside
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            for (file,) in _INT.iter_unpack(raw[: len(raw) // _INT.size * _INT.size])
        ]

    def _taken(self, files: list[int]) -> Lanes:
        with contextlib.ExitStack() as stack:
            for file in files:
                stack.callback(os.close, file)
            if len(files) != FILES:  # no file left here for them
                self._sharing.fails()
                raise LinkLost("the memory that it shares did not come")
            check_memory(*files)
            try:
                words = socket.socket(fileno=files[1])
                stack.pop_all()  # the lanes take them over
                lanes = Lanes(files[0], words, dialled=True, on_closed=self._sharing.leave)
            except OSError as error:
                self._sharing.fails()
                raise LinkLost(f"the memory that it shares cannot be used: {error.strerror}") from None
            self._left = False
            return lanes

    def close(self) -> None:
        self._socket.close()
        if self._left:
            self._left = False
            self._sharing.leave()


def _rights(*files: int) -> tuple[int, int, bytes]:
    """As ancillary data (unix(7)). Not by socket.send_fds, which heeds neither flags nor address."""
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(map(_INT.pack, files))


def _address(near: bytes) -> str:
    return f"\0intellectd/{near.hex()}"  # of no file system: it is gone with its socket
