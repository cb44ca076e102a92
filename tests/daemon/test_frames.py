"""Frames of the local sockets: round trips, and total on hostile bytes."""

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon import frames

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(5)
        right.settimeout(5)
        yield left, right


def test_a_frame_arrives_as_it_was_sent(pair: Pair) -> None:
    message = {"op": "status", "version": 1, "bytes": b"\x00\xff", "list": [1, -2, 0.5, None], "text": "Ωé"}
    frames.send_frame(pair[0], message)
    assert frames.recv_frame(pair[1]) == message


def test_a_frame_may_arrive_byte_by_byte(pair: Pair) -> None:
    for byte in frames.encode_frame({"op": "runs"}):
        pair[0].send(bytes([byte]))
    assert frames.recv_frame(pair[1]) == {"op": "runs"}


def test_the_end_between_two_frames_is_told_from_one_inside(pair: Pair) -> None:
    frames.send_frame(pair[0], {"op": "runs"})
    pair[0].send(struct.pack(">I", 100) + b"only a part")
    pair[0].close()
    assert frames.recv_frame(pair[1]) == {"op": "runs"}
    with pytest.raises(frames.FrameError, match="after 11 of 100 bytes"):
        frames.recv_frame(pair[1])
    with pytest.raises(frames.FrameClosed):
        frames.recv_frame(pair[1])


@pytest.mark.parametrize("length", [0, frames.FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_claimed_length_is_checked_before_anything_is_read(length: int, pair: Pair) -> None:
    pair[0].send(struct.pack(">I", length))
    with pytest.raises(frames.FrameError, match=f"claims {length} bytes"):
        frames.recv_frame(pair[1])


def test_the_largest_frame_passes_and_one_byte_more_does_not() -> None:
    overhead = len(frames.encode_frame({"a": b"x" * 70_000})) - frames.LENGTH_BYTES - 70_000
    body = b"x" * (frames.FRAME_BYTES_MAX - overhead)
    encoded = frames.encode_frame({"a": body})
    assert frames.decode_length(encoded[:4]) == frames.FRAME_BYTES_MAX
    assert frames.decode_body(encoded[4:]) == {"a": body}
    with pytest.raises(frames.FrameError, match="over the limit"):
        frames.encode_frame({"a": body + b"x"})


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",  # a byte that msgpack never uses
        b"\x93\x01\x02\x03",  # an array
        b"\x81\x01\x02",  # a key that is no text
        b"\x81\xc0\x01",  # a nil key
        b"\x81\x91\x01\x02",  # an unhashable key
        b"\x81\xa1\xff\x01",  # a key that is not UTF-8
        b"\xdf\xff\xff\xff\xff",  # a map of four billion entries
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\x81\xa1a" + b"\x91" * 100_000,  # nested beyond any stack
        b"\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp beyond the calendar
        b"\x80\x80",  # two messages
        b"",
    ],
)
def test_hostile_bodies_are_frame_errors(body: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_body(body)


@given(st.binary(max_size=200))
def test_decoding_is_total(body: bytes) -> None:
    try:
        message = frames.decode_body(body)
    except frames.FrameError:
        return
    assert all(isinstance(key, str) for key in message)


@given(st.dictionaries(st.text(max_size=8), st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=20) | st.text()))
def test_what_is_encoded_decodes_to_itself(message: dict[str, object]) -> None:
    encoded = frames.encode_frame(message)
    assert frames.decode_length(encoded[:4]) == len(encoded) - 4
    assert frames.decode_body(encoded[4:]) == message


@pytest.mark.parametrize("value", [{1, 2}, 2**70, object()])
def test_what_has_no_msgpack_form_is_refused_at_the_sender(value: object) -> None:
    with pytest.raises(frames.FrameError, match="cannot be put in a frame"):
        frames.encode_frame({"value": value})
