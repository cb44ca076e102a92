"""daemon/bulk/frames.py: what is written is read back, and any other bytes give WireError. SPEC D3, D4."""

import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.bulk.bell import Stop
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.frame_writer import FrameWriter
from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind, decode_header, encode_header
from intellectd.daemon.bulk.limits import CONTROL_BYTES_MAX, FRAME_BYTES_MAX, ON_BYTES_EVERY
from intellectd.daemon.bulk.sealed import TAG_BYTES, AesGcm, Clear, derive_keys
from tests.daemon.bulk_swarm import read_exactly
from tests.daemon.channel_hosts import WAIT_S, Piece

FROM_DIALLER = "0c1835a45f5370c152c24cf3102b402e987c6628caa6c248a6f64294834596d3"
WIRE_ID = "cd9d8d4b9490cb1e"
SEALED = "7f4a7c316a690cc7d882aca43ad8d7721031de1456797a"

LENGTH_MAX = {Kind.CHUNK: FRAME_BYTES_MAX, Kind.PING: 0, Kind.PONG: 0, Kind.BYE: 0}


@st.composite
def headers(draw: st.DrawFn) -> Header:
    kind = draw(st.sampled_from(Kind))
    return Header(
        kind,
        draw(st.integers(0, 2**8 - 1)),
        draw(st.integers(0, 2**16 - 1)),
        draw(st.integers(0, 2**32 - 1)),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.integers(0, LENGTH_MAX.get(kind, CONTROL_BYTES_MAX))),
    )


@given(headers())
def test_headers_come_back(header: Header) -> None:
    raw = encode_header(header)
    assert len(raw) == HEADER_BYTES == 24
    assert decode_header(raw) == header


@given(st.binary(max_size=2 * HEADER_BYTES) | st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_bytes_are_a_header_or_a_wire_error(raw: bytes) -> None:
    try:
        header = decode_header(raw)
    except WireError:
        return
    assert encode_header(header) == raw, "two headers that mean the same"


@given(st.sampled_from(Kind), st.integers(0, 2**32 - 1))
def test_a_length_is_bounded_by_its_kind(kind: Kind, length: int) -> None:
    raw = struct.pack(">BBHIQII", kind, 0, 0, 0, 0, length, 0)
    if length <= LENGTH_MAX.get(kind, CONTROL_BYTES_MAX):
        assert decode_header(raw).length == length
    else:
        with pytest.raises(WireError, match=f"{kind.name} of {length} bytes"):
            decode_header(raw)
        with pytest.raises(ValueError, match=f"{kind.name} of {length} bytes"):
            encode_header(Header(kind, length=length))


@pytest.mark.parametrize("number", [0, 9, 255])
def test_an_unknown_kind_is_named(number: int) -> None:
    with pytest.raises(WireError, match=f"unknown kind {number}"):
        decode_header(bytes([number]) + bytes(HEADER_BYTES - 1))


def test_what_is_reserved_is_zero() -> None:
    with pytest.raises(WireError, match="reserved field is 1"):
        decode_header(encode_header(Header(Kind.GO))[:-1] + b"\1")


@pytest.mark.parametrize(
    "header", [Header(Kind.GO, flag=256), Header(Kind.GO, step=-1), Header(Kind.CHUNK, transfer=2**64)]
)
def test_what_does_not_fit_is_not_written(header: Header) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_header(header)


def test_keys_and_frames_have_the_bytes_that_the_rules_give_them() -> None:
    """SPEC D3, D4: from HMAC, and AES in ECB by openssl: another implementation can agree."""
    keys = derive_keys("12D3KooWDialler", "12D3KooWAcceptor", bytes(range(32)), bytes(range(32, 64)))
    assert keys.from_dialler.hex() == FROM_DIALLER
    assert keys.wire_id.hex() == WIRE_ID
    cipher, payload = AesGcm(keys.from_dialler), b"a chunk"
    sealed = bytearray(len(payload) + TAG_BYTES)
    cipher.seal(b"", b"", memoryview(bytearray(TAG_BYTES)))  # the first frame of the direction was another
    header = encode_header(Header(Kind.CHUNK, 1, 2, 3, 4, len(payload)))
    cipher.seal(header, payload, memoryview(sealed))
    assert header.hex() == "0201000200000003000000000000000400000007" + "00000000"
    assert sealed.hex() == SEALED


def test_a_chunk_says_on_its_way_that_it_moves() -> None:
    """Long before it is gone: nobody is silent who takes it slowly."""
    here, there = socket.socketpair()
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ON_BYTES_EVERY)  # the kernel takes twice that at once
    here.setblocking(False)
    payload, moves = bytes(2**20), list[str]()

    class Moving(Piece):
        def moved(self) -> None:
            moves.append("moved")

        def sent(self) -> None:
            moves.append("sent")

    writer = FrameWriter(here, Stop(), Clear(), None)
    writer.stall_s = WAIT_S
    drain = threading.Thread(target=read_exactly, args=(there, HEADER_BYTES + len(payload)))
    drain.start()
    assert writer.write_chunk(Moving(Header(Kind.CHUNK, transfer=1, length=len(payload)), payload))
    drain.join()
    here.close(), there.close()
    assert moves[0] == "moved" and moves[-1] == "sent"
    assert moves.count("sent") == 1 and len(moves) <= 1 + len(payload) // ON_BYTES_EVERY


def test_who_waits_for_a_socket_heeds_what_it_is_told_of_its_patience_meanwhile() -> None:
    here, there = socket.socketpair()
    writer = FrameWriter(here, Stop(), Clear(), None)  # which may wait for no time at all

    class Polled:
        def poll(self, _timeout_ms: float) -> list[int]:
            said.append(writer.stall_s)
            writer.stall_s = WAIT_S
            return [1] if len(said) > 1 else []

    said = list[float]()
    writer._poll = Polled()  # type: ignore[assignment]
    writer._wait()
    assert said == [0.0, WAIT_S]
    here.close(), there.close()
