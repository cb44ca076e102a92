"""The bytes between two peers: a preamble in each direction, then frames of call, answer, error and post.

Owns their encoding and every check of bytes that come from a peer. Refuses to know streams, deadlines and
what the messages mean. A frame is 4 bytes of big-endian length and msgpack [kind, id, method, body].
"""

import struct
from dataclasses import dataclass
from importlib.metadata import version

import msgpack

from intellectd.daemon.net import MESSAGE_BYTES_MAX, WIRE_VERSION
from intellectd.daemon.p2p.limits import (
    ERROR_TEXT_BYTES_MAX,
    FRAME_OVERHEAD_BYTES_MAX,
    METHOD_CHARS_MAX,
    PREAMBLE_BYTES_MAX,
    SOFTWARE_CHARS_MAX,
)

SOFTWARE = f"intellectd/{version('intellectd')}"
CALL, ANSWER, ERROR, POST = 0, 1, 2, 3
PING = "ping"  # the method that the transport answers by itself
FRAME_BYTES_MAX = MESSAGE_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX
LENGTH_BYTES = 4
_LENGTH = struct.Struct(">I")
_ID_MAX = 2**63 - 1  # what msgpack and every language hold in a signed 64-bit integer


class BadFrame(Exception):
    """Bytes that no well-behaved peer sends; `str()` says which."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    id: int  # of the call; 0 in a post
    method: str  # "" in all but a call
    body: bytes


@dataclass(frozen=True, slots=True)
class Preamble:
    wire: int = WIRE_VERSION
    software: str = SOFTWARE


def encode(frame: Frame) -> bytes:
    body: bytes = msgpack.packb([frame.kind, frame.id, frame.method, frame.body], use_bin_type=True)
    return _LENGTH.pack(len(body)) + body


def encode_error(call_id: int, text: str) -> bytes:
    # Cut in bytes, decoded leniently at the other end: half a character is no reason to lose the rest.
    return encode(Frame(ERROR, call_id, "", text.encode("utf-8", "replace")[:ERROR_TEXT_BYTES_MAX]))


def encode_preamble(preamble: Preamble) -> bytes:
    body: bytes = msgpack.packb({"wire": preamble.wire, "software": preamble.software}, use_bin_type=True)
    return _LENGTH.pack(len(body)) + body


def frame_length(header: bytes, bytes_max: int) -> int:
    """The length a peer claims, checked before anybody makes room for it."""
    length: int = _LENGTH.unpack(header)[0]
    if not 0 < length <= bytes_max:
        raise BadFrame(f"a frame claims {length} bytes, the limit is {bytes_max}")
    return length


def decode(body: bytes) -> Frame:
    fields = _unpack(body, arrays_max=4, maps_max=0)
    if not isinstance(fields, list) or len(fields) != 4:
        raise BadFrame("a frame is not [kind, id, method, body]")
    kind, call_id, method, message = fields
    # `type(...) is int`, because True is an int too.
    if type(kind) is not int or not CALL <= kind <= POST:
        raise BadFrame(f"unknown kind of frame {str(kind)[:20]}")
    if type(call_id) is not int or not 0 <= call_id <= _ID_MAX:
        raise BadFrame("the id of a frame is no 63-bit number")
    if not isinstance(method, str) or len(method) > METHOD_CHARS_MAX:
        raise BadFrame(f"the method of a frame is no text of at most {METHOD_CHARS_MAX} characters")
    if not isinstance(message, bytes) or len(message) > MESSAGE_BYTES_MAX:
        raise BadFrame(f"the body of a frame is not at most {MESSAGE_BYTES_MAX} bytes")
    return Frame(kind, call_id, method, message)


def decode_preamble(body: bytes) -> Preamble:
    """Unknown fields are ignored, so that a later version can say more and still be told apart politely."""
    fields = _unpack(body, arrays_max=16, maps_max=16)
    wire = fields.get("wire") if isinstance(fields, dict) else None
    software = fields.get("software", "") if isinstance(fields, dict) else ""
    if type(wire) is not int or not 0 <= wire <= _ID_MAX or not isinstance(software, str):
        raise BadFrame("the first frame is no preamble with a wire version")
    # It ends up in log lines and error texts: printable, and not too much of it.
    clean = "".join(c if c.isprintable() else "?" for c in software[:SOFTWARE_CHARS_MAX])
    return Preamble(wire, clean or "unknown software")


def _unpack(body: bytes, arrays_max: int, maps_max: int) -> object:
    try:
        return msgpack.unpackb(
            body, raw=False, max_array_len=arrays_max, max_map_len=maps_max, max_ext_len=0, strict_map_key=True
        )
    # Hostile bytes reach ValueError and its kin for the most part, but also TypeError, OverflowError and
    # RecursionError.
    except Exception as error:
        raise BadFrame(f"not msgpack within bounds ({type(error).__name__}: {str(error)[:80]})") from error


assert len(encode_preamble(Preamble(software="x" * SOFTWARE_CHARS_MAX))) <= PREAMBLE_BYTES_MAX
