"""Wires to peers whose frames are wrong: each ends with its reason, nothing of it is taken, and the host goes on."""

import contextlib
import os
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intellectd.daemon.bulk.bell import Stop
from intellectd.daemon.bulk.errors import LinkLost, WireError
from intellectd.daemon.bulk.frame_reader import FrameReader
from intellectd.daemon.bulk.frame_writer import FrameWriter
from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind, encode_header
from intellectd.daemon.bulk.limits import CONTROL_BYTES_MAX, FRAME_BYTES_MAX, STREAMS_MAX
from intellectd.daemon.bulk.outbox import Control
from intellectd.daemon.bulk.sealed import TAG_BYTES, AesGcm, derive_keys
from intellectd.daemon.bulk.wire import ChannelRequest, encode_request
from tests.daemon.bulk_swarm import closed
from tests.daemon.channel_hosts import Host, Piece, eventually
from tests.daemon.channel_outsider import ChannelOutsider, RawWire, chunk, host_and_outsider

KEY = bytes(32)


def lost(host: Host) -> str:
    word = host.diary.next("lost")
    assert word[1] == "x" and word[3] is False
    return str(word[2])


def tampered(raw: bytes, place: int) -> bytes:
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]


@pytest.mark.parametrize("place", [1, 5, 9, HEADER_BYTES, HEADER_BYTES + 999, HEADER_BYTES + 1000 + TAG_BYTES - 1])
def test_a_frame_with_one_bit_changed_ends_the_wire(place: int) -> None:
    with host_and_outsider() as (a, x):
        wire = x.channel_to(a)
        wire.say(tampered(wire.frame(chunk(1000), os.urandom(1000)), place))
        assert lost(a) == "broke the protocol: a frame that does not authenticate"
        assert closed(wire.connection) and a.diary.chunks == {} and a.channels.offences() == {"x": 1}
        again = x.channel_to(a)  # the process lives, and the peer may come back
        again.say(again.frame(chunk(4, 7), b"good"))
        a.diary.await_chunks(1)
        assert a.diary.chunks == {7: b"good"}


@pytest.mark.parametrize("place", [9, HEADER_BYTES, HEADER_BYTES + 1000])
def test_what_nobody_wants_is_authenticated_too(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """With a bit of its header changed it may have become another transfer's: it would be missing without a word."""
    with host_and_outsider() as (a, x):
        monkeypatch.setattr(a.diary, "wants", lambda _peer, header: header.chunk == 7)
        wire = x.channel_to(a)
        wire.say(wire.frame(chunk(1000), os.urandom(1000)))  # unwanted, and as it was sealed: nothing happens
        wire.say(wire.frame(chunk(4, 7), b"good"))
        a.diary.await_chunks(1)
        wire.say(tampered(wire.frame(chunk(1000), os.urandom(1000)), place))
        assert lost(a) == "broke the protocol: a frame that does not authenticate"
        assert a.diary.chunks == {7: b"good"}


def test_what_the_handler_leaves_unopened_is_authenticated_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with host_and_outsider() as (a, x):
        monkeypatch.setattr(a.diary, "on_chunk", lambda *_frame: None)
        wire = x.channel_to(a)
        wire.say(wire.frame(chunk(1000), os.urandom(1000)))
        wire.say(tampered(wire.frame(chunk(1000), os.urandom(1000)), HEADER_BYTES))
        assert lost(a) == "broke the protocol: a frame that does not authenticate"


def replayed(wire: RawWire) -> list[bytes]:
    frame = wire.frame(chunk(4, 1), b"once")
    return [frame, frame]


def reordered(wire: RawWire) -> list[bytes]:
    frames = [wire.frame(chunk(4, number), b"good") for number in (1, 2, 3)]
    return [frames[0], frames[2], frames[1]]


def left_out(wire: RawWire) -> list[bytes]:
    frames = [wire.frame(chunk(4, number), b"good") for number in (1, 2, 3)]
    return [frames[0], frames[2]]


@pytest.mark.parametrize("trick", [replayed, reordered, left_out])
def test_a_frame_counts_once_and_in_its_place(trick: object) -> None:
    with host_and_outsider() as (a, x):
        wire = x.channel_to(a)
        for frame in trick(wire):  # type: ignore[operator]
            wire.say(frame)
        assert "does not authenticate" in lost(a)
        assert list(a.diary.chunks) == [1]


def test_a_frame_of_another_wire_is_worth_nothing_here() -> None:
    with host_and_outsider() as (a, x):
        first = x.channel_to(a)
        eventually(lambda: a.wires("x") == 1)
        wires = first, x.channel_to(a, wires=a.channels._channel("x").wire_ids())
        wires[1].say(wires[0].frame(chunk(4), b"good"))
        assert "does not authenticate" in lost(a)


def test_control_frames_are_authenticated_before_anybody_hears_of_them() -> None:
    with host_and_outsider() as (a, x):
        wire = x.channel_to(a)
        wire.say(tampered(wire.frame(Header(Kind.ABORT, transfer=1)), 1))
        assert "does not authenticate" in str(a.diary.next("lost", "control")[2])


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (struct.pack(">BBHIQII", 2, 0, 0, 0, 0, FRAME_BYTES_MAX + 1, 0), "CHUNK of 1114113 bytes"),
        (struct.pack(">BBHIQII", 4, 0, 0, 0, 0, 2**32 - 1, 0), "ABORT of 4294967295 bytes"),
        (struct.pack(">BBHIQII", 1, 0, 0, 0, 0, CONTROL_BYTES_MAX + 1, 0), "at most 1024"),
        (b"\x63" + bytes(23), "unknown kind 99"),
        (b"GET / HTTP/1.1\r\nHost: it\r\n", "unknown kind 71"),
        (b"\x16\x03\x03\x00\x50" + bytes(80), "unknown kind 22"),  # TLS where TLS has ended
    ],
)
def test_headers_that_mean_nothing_end_the_wire_before_a_payload_is_read(raw: bytes, words: str) -> None:
    with host_and_outsider() as (a, x):
        wire = x.channel_to(a)
        wire.say(raw)
        reason = lost(a)
        assert reason.startswith("broke the protocol: ") and words in reason


def test_what_the_handler_does_not_allow_ends_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_peer: str, header: Header) -> bool:
        raise WireError(f"chunk {header.chunk} is in no plan")

    with host_and_outsider() as (a, x):
        monkeypatch.setattr(a.diary, "wants", refuses)
        wire = x.channel_to(a)
        wire.say(wire.frame(chunk(1000, 5), bytes(1000))[:HEADER_BYTES])  # the payload is never waited for
        assert lost(a) == "broke the protocol: chunk 5 is in no plan"


def test_a_fault_of_this_host_costs_the_wire_and_says_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_anything: object) -> None:
        raise MemoryError("none left")

    with host_and_outsider() as (a, x):
        monkeypatch.setattr(a.diary, "on_chunk", fails)
        wire = x.channel_to(a)
        wire.say(wire.frame(chunk(4), b"good"))
        assert lost(a) == "this host failed: MemoryError: none left"
        assert a.channels.offences() == {}


def test_an_end_without_leave_is_a_loss_and_one_with_it_is_none() -> None:
    with host_and_outsider() as (a, x):
        wire = x.channel_to(a)
        wire.connection.shutdown(socket.SHUT_WR)
        assert lost(a) == "it closed the connection"
        wire = x.channel_to(a)
        wire.say(wire.frame(Header(Kind.BYE)))
        assert wire.hear()[0].kind == Kind.BYE and closed(wire.connection)
        assert a.diary.next("found", "lost")[0] == "found" and a.diary.words.qsize() <= 1


def test_pings_are_answered_and_a_flood_of_them_with_a_few() -> None:
    with host_and_outsider() as (a, x):
        wire = x.channel_to(a)
        wire.say(b"".join(wire.frame(Header(Kind.PING, transfer=number)) for number in range(10_000)))
        pongs = []
        while not pongs or pongs[-1] != 9_999:
            header, _payload = wire.hear()
            assert header.kind == Kind.PONG
            pongs.append(header.transfer)
        assert pongs == sorted(set(pongs))


@pytest.mark.parametrize("said", [b"", b"\0" * 8, bytes(range(31))], ids=["nothing", "zeros", "one too few"])
def test_who_does_not_go_through_with_the_greeting_is_hung_up_on(said: bytes) -> None:
    with host_and_outsider() as (a, x):
        tls = x.dial(a.endpoint, encode_request(ChannelRequest()) + said)
        x_plain = socket.socket(fileno=tls.detach())
        x_plain.sendall(b"no TLS record at all")
        assert closed(x_plain)
        x_plain.close()
        assert a.wires("x") == 0 and a.diary.words.empty()


def test_a_peer_that_begins_connections_without_end_leaves_room_for_others() -> None:
    with host_and_outsider() as (a, x), ChannelOutsider("y") as y:
        a.know(x=x.endpoint, y=y.endpoint)
        begun = [x.dial(a.endpoint, encode_request(ChannelRequest())) for _ in range(STREAMS_MAX)]  # and no secret
        eventually(lambda: a.channels._greeting == {"x": STREAMS_MAX})
        assert closed(x.dial(a.endpoint, encode_request(ChannelRequest())))
        wire = y.channel_to(a)
        wire.say(wire.frame(chunk(4, 7), b"good"))
        a.diary.await_chunks(1)
        for connection in begun:
            connection.close()
        eventually(lambda: a.channels._greeting == {})


def test_more_under_tls_than_the_greeting_is_refused() -> None:
    with host_and_outsider() as (a, x):
        tls = x.dial(a.endpoint, encode_request(ChannelRequest()) + bytes(32) + b"and more")
        assert closed(tls)
        assert a.diary.words.empty()


class Pair:
    """A writer and a reader on a socket pair."""

    def __init__(self) -> None:
        self.left, self.right = socket.socketpair()
        self.stop = Stop()
        for end in (self.left, self.right):
            end.setblocking(False)
        self.writer = FrameWriter(self.left, self.stop, AesGcm(KEY), None)
        self.reader = FrameReader(self.right, self.stop, AesGcm(KEY), None)
        self.reader.stall_s = self.writer.stall_s = 10.0

    def close(self) -> None:
        self.left.close(), self.right.close(), self.stop.close()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=CONTROL_BYTES_MAX)), max_size=12))
def test_frames_come_out_as_they_went_in(frames: list[tuple[bool, bytes]]) -> None:
    pair = Pair()
    for number, (is_chunk, payload) in enumerate(frames):
        header = Header(Kind.CHUNK if is_chunk else Kind.GO, chunk=number, length=len(payload))
        if is_chunk:
            assert pair.writer.write_chunk(Piece(header, payload))
        else:
            pair.writer.write_control(Control(header, payload))
    for number, (is_chunk, payload) in enumerate(frames):
        header = pair.reader.header()
        assert header == Header(Kind.CHUNK if is_chunk else Kind.GO, chunk=number, length=len(payload))
        pair.reader.payload()
        if is_chunk and number % 3 == 0:
            pair.reader.drop()
            with pytest.raises(ValueError, match="no frame is open"):
                pair.reader.open_into(memoryview(bytearray(len(payload))))
        else:
            assert pair.reader.opened() == payload
    pair.close()


@settings(max_examples=100)
@given(st.binary(max_size=3000), st.integers(0, 7), st.binary(max_size=100))
def test_any_bytes_are_a_wire_error_or_the_end(garbage: bytes, kind: int, payload: bytes) -> None:
    """With a good frame before them, and a good header in front of some."""
    pair = Pair()
    pair.writer.write_control(Control(Header(Kind.GO, length=len(payload)), payload))
    start = encode_header(Header(Kind(kind), length=0)) if kind else b""
    pair.left.sendall(start + garbage)
    pair.left.shutdown(socket.SHUT_WR)
    pair.reader.header()
    pair.reader.payload()
    assert pair.reader.opened() == payload
    with pytest.raises((WireError, LinkLost)):
        pair.reader.header()
        pair.reader.payload()
        pair.reader.opened()
    pair.close()


def test_what_fill_does_wrong_is_said_and_costs_no_number_twice() -> None:
    pair = Pair()
    wrong = Piece(chunk(5), b"four")
    with pytest.raises(RuntimeError, match="4 bytes for a frame of 5"):
        pair.writer.write_chunk(wrong)
    twice = Piece(chunk(4), b"four")
    with contextlib.suppress(RuntimeError):
        pair.writer.write_chunk(_Twice(twice))
    with pytest.raises(RuntimeError, match="sealed twice"):
        pair.writer.write_chunk(_Twice(twice))
    with pytest.raises(RuntimeError, match="not sealed"):
        pair.writer.write_chunk(_Never(twice))
    pair.close()


class _Twice(Piece):
    def __init__(self, of: Piece) -> None:
        super().__init__(of.header, of.payload)

    def fill(self, seal: object, _room: object) -> bool:
        seal(memoryview(self.payload))  # type: ignore[operator]
        seal(memoryview(self.payload))  # type: ignore[operator]
        return True


class _Never(_Twice):
    def fill(self, seal: object, _room: object) -> bool:
        return True


def test_keys_differ_for_any_other_pair_direction_and_secret() -> None:
    keys = derive_keys("a", "b", b"1" * 32, b"2" * 32)
    others = [
        derive_keys("b", "a", b"1" * 32, b"2" * 32),
        derive_keys("a", "b", b"2" * 32, b"1" * 32),
        derive_keys("ab", "", b"1" * 32, b"2" * 32),
    ]
    found = [key for one in (keys, *others) for key in (one.from_dialler, one.from_acceptor, one.wire_id)]
    assert len(set(found)) == len(found) == 12
    assert derive_keys("a", "b", b"1" * 32, b"2" * 32) == keys
