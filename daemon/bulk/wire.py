"""Bytes after the TLS handshake: one request, then frames with a fixed header.

Owns the layout and the checks of it. Refuses to know sockets, and what a transfer expects: the caller compares a
header with its plan before it reads a byte of payload. Decoding is total: any bytes give a value or WireError.

  dialler:  request   u16 length, msgpack map {"v": 1, "op": "get" | "channel" | "relay", ...}
  answers:  frame     16-byte header: kind u8, flag u8, 6 bytes of zero, length u64 (big-endian), payload
  get:      <- OBJECT(length), the bytes, END; or REFUSED(flag = why), and the connection closes
            <- to one with "pack": true it may be OBJECT(flag = 1, length), packing.py's blocks, END
            -> further requests for objects, also before the last was answered; each is answered in its turn
  relay:    <- GO(flag = who begins), or REFUSED; then TLS ends, and the bytes are the two peers' own
  channel:  -> 32 secret bytes; <- GO, 32 secret bytes, or REFUSED; then TLS ends, and frames.py's frames follow
            <- to one with "near" it may be GO(flag = 1): memory for chunks was left there (lanes.py)

A clean end is in the frames (END), never in TLS's close_notify: peers that are killed send none,
and every byte before it is authenticated anyway.
"""

import enum
import struct
from dataclasses import dataclass

import msgpack

from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.limits import OBJECT_NAME_BYTES_MAX, PEER_ID_BYTES_MAX, REQUEST_BYTES_MAX, WIRES_LISTED_MAX
from intellectd.daemon.bulk.sealed import WIRE_ID_BYTES

VERSION = 1
TRANSFER_ID_BYTES = 32
LENGTH_MAX = 2**63 - 1  # what offset and length may be: sums stay exact, and no file is longer

PACKED = 1  # the flag of an OBJECT
SHARED = 1  # of a channel's GO: memory was left at the socket that the request names
NEAR_BYTES = 16  # of such a name: nobody guesses it, and no two are alike
REQUEST_PREFIX = struct.Struct(">H")
_HEADER = struct.Struct(">BB6xQ")
HEADER_BYTES = _HEADER.size


class Kind(enum.IntEnum):
    GO = 1  # to a channel's request
    OBJECT = 5
    END = 6
    REFUSED = 7


class Refusal(enum.IntEnum):
    UNKNOWN_OBJECT = 1
    BAD_RANGE = 2
    BUSY = 3
    OTHER_MODE = 4  # one side seals its frames and the other does not
    UNKNOWN_PEER = 5  # no such peer is known to the relay


@dataclass(frozen=True)
class GetRequest:
    """`pack`: the bytes may come in packing.py's blocks, and the answer says so. Who does not know that sends them as
    they are."""

    object_name: str
    offset: int
    length: int
    pack: bool = False


@dataclass(frozen=True)
class ChannelRequest:
    """`wires`: the ids of those that stand between the two, as the dialler sees it. `sealed` is False in benchmarks.
    `near`: of a dialler on the same host the name of the socket where it takes shared memory; who does not know that
    answers as to any other."""

    wires: tuple[bytes, ...] = ()
    sealed: bool = True
    near: bytes = b""


@dataclass(frozen=True)
class RelayRequest:
    """Join me with that peer, which asks for me likewise."""

    to: str


Request = GetRequest | ChannelRequest | RelayRequest


@dataclass(frozen=True)
class Header:
    kind: Kind
    flag: int = 0
    length: int = 0


def encode_request(request: Request) -> bytes:
    match request:
        case GetRequest(object_name, offset, length, packed):
            if not 0 < len(object_name.encode()) <= OBJECT_NAME_BYTES_MAX:
                raise ValueError(f"{object_name[:64]!r}: an object's name has 1 to {OBJECT_NAME_BYTES_MAX} bytes")
            body = {"v": VERSION, "op": "get", "object": object_name, "offset": offset, "length": length}
            body |= {"pack": True} if packed else {}
        case ChannelRequest(wires, sealed, near):
            body = {"v": VERSION, "op": "channel", "wires": list(wires[:WIRES_LISTED_MAX]), "sealed": sealed}
            body |= {"near": near} if near else {}
        case RelayRequest(to):
            body = {"v": VERSION, "op": "relay", "to": to}
    raw: bytes = msgpack.packb(body)
    if len(raw) > REQUEST_BYTES_MAX:
        raise ValueError(f"a request of {len(raw)} bytes; at most {REQUEST_BYTES_MAX} are allowed")
    return REQUEST_PREFIX.pack(len(raw)) + raw


def request_length(prefix: bytes) -> int:
    (length,) = REQUEST_PREFIX.unpack(prefix)
    if not 0 < length <= REQUEST_BYTES_MAX:
        raise WireError(f"a request of {length} bytes; at most {REQUEST_BYTES_MAX} are allowed")
    return int(length)


def decode_request(raw: bytes) -> Request:
    try:
        # strict_map_key and the length of `raw` bound what this can build.
        body = msgpack.unpackb(raw, raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises a dozen kinds for hostile bytes
        raise WireError(f"a request that is no msgpack: {type(error).__name__}") from None
    match body:
        case {"v": int(version), **_others} if version != VERSION:
            raise WireError(f"bulk protocol version {version}; this host speaks {VERSION}: upgrade the older one")
        case {"v": int(), "op": "get", "object": str(name), "offset": int(offset), "length": int(length)}:
            return _checked_get(name, offset, length, body.get("pack") is True)
        case {"v": int(), "op": "channel", "wires": list(wires), "sealed": bool(sealed)}:
            return _checked_channel(wires, sealed, body.get("near", b""))
        case {"v": int(), "op": "relay", "to": str(to)} if 0 < len(to) <= PEER_ID_BYTES_MAX:
            return RelayRequest(to)
    raise WireError("a request of no known form")


def _checked_get(name: str, offset: int, length: int, packed: bool) -> GetRequest:
    # bool is an int to Python: True for an offset is harmless, it is 1.
    if not 0 <= offset <= LENGTH_MAX or not 0 <= length <= LENGTH_MAX:
        raise WireError(f"a range of {length} bytes at {offset}")
    if not 0 < len(name.encode("utf-8", "surrogatepass")) <= OBJECT_NAME_BYTES_MAX:
        raise WireError(f"an object name of {len(name)} characters")
    return GetRequest(name, int(offset), int(length), packed)


def _checked_channel(wires: list[object], sealed: bool, near: object) -> ChannelRequest:
    ids = tuple(wire for wire in wires if isinstance(wire, bytes) and len(wire) == WIRE_ID_BYTES)
    if len(ids) != len(wires) or len(ids) > WIRES_LISTED_MAX:
        raise WireError(f"a list of {len(wires)} wires, {len(ids)} of which have a wire's id")
    if not isinstance(near, bytes) or len(near) not in (0, NEAR_BYTES):
        raise WireError("a name for shared memory that is none")
    return ChannelRequest(ids, sealed, near)


def encode_header(header: Header) -> bytes:
    return _HEADER.pack(header.kind, header.flag, header.length)


def decode_header(raw: bytes) -> Header:
    kind, flag, length = _HEADER.unpack(raw)
    try:
        return Header(Kind(kind), flag, length)
    except ValueError:
        raise WireError(f"a frame of unknown kind {kind}") from None
