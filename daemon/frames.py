"""Frames of the local unix sockets: 4 bytes of big-endian length, then one msgpack map.

Owns the encoding and its bounds, with blocking send and receive for the CLI and the SDK; `daemon.control` has
the trio side. Refuses to know what the maps mean. Imports the standard library and msgpack alone: the CLI and
the trainer start in a fraction of a second because of that.
"""

import socket
import struct
from collections.abc import Mapping
from typing import Any

import msgpack

# The largest answer is `rounds` with some 1,000 bytes a round; a page of 1,000 rounds fits. Tensors never
# travel here.
FRAME_BYTES_MAX = 1024 * 1024
PROTOCOL_VERSION = 1
LENGTH_BYTES = 4

_LENGTH = struct.Struct(">I")


class FrameError(Exception):
    """The bytes on a local socket were no frame, or there were too few of them."""


class FrameClosed(FrameError):
    """The other side closed between two frames: the ordinary end of a conversation."""


def encode_frame(obj: Mapping[str, Any]) -> bytes:
    try:
        body: bytes = msgpack.packb(obj, use_bin_type=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"cannot be put in a frame: {error}") from error
    if len(body) > FRAME_BYTES_MAX:
        raise FrameError(f"a message of {len(body)} bytes is over the limit of {FRAME_BYTES_MAX}")
    return _LENGTH.pack(len(body)) + body


def decode_length(header: bytes) -> int:
    """The body's length, checked before anybody allocates it."""
    if len(header) != LENGTH_BYTES:
        raise FrameError(f"a frame starts with {LENGTH_BYTES} bytes of length, got {len(header)}")
    length: int = _LENGTH.unpack(header)[0]
    if not 0 < length <= FRAME_BYTES_MAX:
        raise FrameError(f"a frame claims {length} bytes, the limit is {FRAME_BYTES_MAX}")
    return length


def decode_body(body: bytes) -> dict[str, Any]:
    """Total: any bytes give a map with string keys or a FrameError."""
    try:
        obj = msgpack.unpackb(body, raw=False, strict_map_key=False)
    # msgpack raises ValueError with its kin for most bad bytes, but hostile ones also reach TypeError (an
    # unhashable key), OverflowError (a timestamp), RecursionError and UnicodeDecodeError.
    except Exception as error:
        raise FrameError(f"not a msgpack message ({type(error).__name__}: {error})") from error
    if not isinstance(obj, dict) or not all(isinstance(key, str) for key in obj):
        raise FrameError("a message must be a msgpack map with text keys")
    return obj


def send_frame(sock: socket.socket, obj: Mapping[str, Any]) -> None:
    sock.sendall(encode_frame(obj))


def recv_frame(sock: socket.socket) -> dict[str, Any]:
    """One whole frame. Honours the socket's timeout between reads; raises FrameClosed at a clean end."""
    first = sock.recv(LENGTH_BYTES)
    if not first:
        raise FrameClosed("the other side closed the connection")
    header = first + _recv_exactly(sock, LENGTH_BYTES - len(first))
    return decode_body(_recv_exactly(sock, decode_length(header)))


def _recv_exactly(sock: socket.socket, length: int) -> bytes:
    body = bytearray(length)
    view, filled = memoryview(body), 0
    while filled < length:
        count = sock.recv_into(view[filled:])
        if count == 0:
            raise FrameError(f"the connection ended after {filled} of {length} bytes")
        filled += count
    return bytes(body)
