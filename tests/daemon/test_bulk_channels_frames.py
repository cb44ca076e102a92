"""daemon/bulk/frames.py: what is written is read back, and any other bytes give WireError."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind, decode_header, encode_header
from intellectd.daemon.bulk.limits import CONTROL_BYTES_MAX, FRAME_BYTES_MAX

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
