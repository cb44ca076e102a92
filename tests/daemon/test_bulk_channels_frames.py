"""daemon/bulk/frames.py: what is written is read back, and any other bytes give WireError. SPEC D3, D4."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.bulk.bell import Stop
from intellectd.daemon.bulk.errors import LinkSilent, WireError
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


class Polled:
    """A poll on a clock of the test's, which so often finds no room until its time is over; before that, `turns`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, turns: list[Callable[[], None]]) -> None:
        self.now, self.turns = 0.0, turns
        monkeypatch.setattr("intellectd.daemon.bulk.frame_writer.now_s", lambda: self.now)

    def poll(self, timeout_ms: float) -> list[int]:
        if not self.turns:
            return [1]
        self.now += timeout_ms / 1000.0
        self.turns.pop(0)()
        return []


@contextmanager
def waiting(stall_s: float) -> Iterator[tuple[FrameWriter, socket.socket]]:
    """A writer to a socket that holds 1,000 bytes, and the other end."""
    here, there = socket.socketpair()
    writer = FrameWriter(here, Stop(), Clear(), None)
    writer.stall_s = stall_s
    for _piece in range(10):
        here.sendall(bytes(100))  # which the kernel counts until the whole piece is read
    yield writer, there
    here.close(), there.close()


def test_who_waits_for_a_socket_heeds_what_it_is_told_of_its_patience_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with waiting(10.0) as (writer, _there):

        def more() -> None:
            writer.stall_s = 240.0

        polled = Polled(monkeypatch, [more, lambda: None])
        writer._poll = polled  # type: ignore[assignment]
        writer._wait()
        assert polled.now == 120.0


def test_who_takes_a_little_now_and_then_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow line it is long until the kernel has room again."""
    with waiting(10.0) as (writer, there):

        def takes() -> None:
            read_exactly(there, 100)

        polled = Polled(monkeypatch, [lambda: None, *5 * [takes]])
        writer._poll = polled  # type: ignore[assignment]
        writer._wait()
        assert polled.now == 30.0 and polled.turns == []
        polled.turns = 9 * [lambda: None]
        with pytest.raises(LinkSilent, match="took nothing for 10 s"):
            writer._wait()
        assert polled.now == 40.0
