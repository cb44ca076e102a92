"""Frames of a channel: the fixed header, its bounds, and what the threads of a wire expect of those they serve.

Owns the layout and the checks of it. Refuses to know sockets, keys, and what a transfer expects of its chunks.
Decoding is total: any bytes give a Header or WireError.

  frame     24-byte header, then `length` bytes of payload; sealed (see sealed.py), the header is associated data
  header    kind u8, flag u8, step u16, chunk u32, transfer u64, length u32, reserved u32 = 0 (big-endian)
"""

import enum
import struct
from collections.abc import Callable
from typing import NamedTuple, Protocol

from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.limits import CONTROL_BYTES_MAX, FRAME_BYTES_MAX

_HEADER = struct.Struct(">BBHIQII")
HEADER_BYTES = _HEADER.size


class Kind(enum.IntEnum):
    GO = 1
    CHUNK = 2
    WAITING = 3
    ABORT = 4
    GONE = 5
    PING = 6  # of the wire itself: no handler sees it; `transfer` comes back in the PONG
    PONG = 7
    BYE = 8  # of the wire itself: the last frame of a direction, the authenticated end; without it, the wire broke


_KINDS = {int(kind): kind for kind in Kind}
_LENGTH_MAX = {
    Kind.GO: CONTROL_BYTES_MAX,
    Kind.CHUNK: FRAME_BYTES_MAX,
    Kind.WAITING: CONTROL_BYTES_MAX,
    Kind.ABORT: CONTROL_BYTES_MAX,
    Kind.GONE: CONTROL_BYTES_MAX,
    Kind.PING: 0,
    Kind.PONG: 0,
    Kind.BYE: 0,
}


class Header(NamedTuple):  # made for each frame: a tuple is made in a third of a dataclass's time
    """`length` counts the payload's plain bytes. `transfer` names the transfer on both ends, in 64 bits."""

    kind: Kind
    flag: int = 0
    step: int = 0
    chunk: int = 0
    transfer: int = 0
    length: int = 0


def encode_header(header: Header) -> bytes:
    """24 bytes; ValueError for a header that no peer would accept."""
    if header.length > _LENGTH_MAX[header.kind]:
        raise ValueError(f"{header.kind.name} of {header.length} bytes; at most {_LENGTH_MAX[header.kind]} are allowed")
    try:
        return _HEADER.pack(header.kind, header.flag, header.step, header.chunk, header.transfer, header.length, 0)
    except struct.error as error:
        raise ValueError(f"{header} does not fit its fields: {error}") from None


def decode_header(raw: bytes | bytearray | memoryview) -> Header:
    """The header in exactly HEADER_BYTES bytes, its length within what its kind may have; or WireError."""
    if len(raw) != HEADER_BYTES:
        raise WireError(f"a header of {len(raw)} bytes; it has {HEADER_BYTES}")
    number, flag, step, chunk, transfer, length, reserved = _HEADER.unpack(raw)
    kind = _KINDS.get(number)
    if kind is None:
        raise WireError(f"a frame of unknown kind {number}")
    if length > _LENGTH_MAX[kind]:
        raise WireError(f"{kind.name} of {length} bytes; at most {_LENGTH_MAX[kind]} are allowed")
    if reserved:
        raise WireError(f"a frame whose reserved field is {reserved}")
    return Header(kind, flag, step, chunk, transfer, length)


class Outgoing(Protocol):
    """A chunk on its way to a peer. The wire that takes it calls `fill` once, then, if that said True, `moved` now and
    then and `sent` once; a wire that breaks in between calls none of them, and says so by Handler.on_lost."""

    @property
    def header(self) -> Header:
        """Kind CHUNK; `length` = bytes of the payload."""
        ...

    def fill(self, seal: Callable[[memoryview], None], room: memoryview) -> bool:
        """In the writer's thread: call `seal(payload)` once while the payload may be read, and return True; it is
        encrypted into the wire's own buffer and no longer needed. False: the transfer is over, nothing is sent.
        `room`: the payload's place in that buffer, of its exact length. What has to be made first may be made there,
        and `seal(room)` encrypts it where it is."""
        ...

    def moved(self) -> None:
        """Some of it has been given to the socket, 64 KiB or more since the last time: many wires share a slow line."""
        ...

    def sent(self) -> None:
        """All of it has been given to the socket."""
        ...


class Incoming(Protocol):
    """A whole payload, still sealed, in the wire's own buffer; of use only until on_chunk returns."""

    def open_into(self, place: memoryview) -> None:
        """Decrypt and authenticate into `place`, which has the payload's exact length (ValueError otherwise).
        NotAuthentic: it is not what the peer sealed; `place` may then hold anything."""
        ...


class Handler(Protocol):
    """Whom the wires serve. Called in wire threads; nothing but on_chunk may block."""

    def on_control(self, peer: str, header: Header, payload: bytes) -> None:
        """GO, WAITING, ABORT or GONE, authenticated. WireError: the peer may not say this."""
        ...

    def wants(self, peer: str, header: Header) -> bool:
        """Before the payload of a CHUNK is read, its header not yet authenticated: change nothing here. False: read
        and drop it. WireError: no plan allows it."""
        ...

    def on_bytes(self, peer: str, header: Header, count: int) -> None:
        """So many bytes of this CHUNK have come since the last time, 4 KiB or more."""
        ...

    def on_chunk(self, peer: str, header: Header, incoming: Incoming) -> None:
        """The whole payload is here; the header counts only once open_into has returned. WireError: no plan allows
        it."""
        ...

    def on_lost(self, peer: str, reason: str, refused: bool) -> None:
        """A wire broke. `refused`: nobody listens at the peer's address any more, its process is gone."""
        ...

    def on_found(self, peer: str) -> None:
        """A wire stands: the channel's first, or again after a loss."""
        ...
