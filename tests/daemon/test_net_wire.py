"""The frames between peers: what was encoded comes back, and any bytes at all give a frame or BadFrame."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.daemon.net import MESSAGE_BYTES_MAX
from intellectd.daemon.p2p import wire
from intellectd.daemon.p2p.limits import ERROR_TEXT_BYTES_MAX
from intellectd.daemon.p2p.streams import FrameReader, StreamEnded

frames = st.builds(
    wire.Frame,
    kind=st.integers(wire.CALL, wire.POST),
    id=st.integers(0, 2**63 - 1),
    method=st.text(max_size=64),
    body=st.binary(max_size=200),
)


class Bytes:
    """A ByteStream that only reads, in pieces of a given size."""

    def __init__(self, data: bytes, piece: int) -> None:
        self.data = data
        self.piece = piece

    async def read(self) -> bytes:
        if not self.data:
            raise StreamEnded("end")
        head, self.data = self.data[: self.piece], self.data[self.piece :]
        return head

    async def write(self, data: bytes) -> None:
        raise AssertionError("nothing is written here")

    async def finish(self) -> None: ...

    async def reset(self) -> None: ...


@given(frames)
def test_a_frame_survives_the_way(frame: wire.Frame) -> None:
    encoded = wire.encode(frame)
    assert wire.frame_length(encoded[:4], wire.FRAME_BYTES_MAX) == len(encoded) - 4
    assert wire.decode(encoded[4:]) == frame


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_bad(body: bytes) -> None:
    for decode in (wire.decode, wire.decode_preamble):
        try:
            decoded = decode(body)
        except wire.BadFrame:
            continue
        assert isinstance(decoded, wire.Frame | wire.Preamble)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {},
        [],
        [wire.CALL, 1, "m"],
        [wire.CALL, 1, "m", b"", b""],
        [4, 1, "m", b""],
        [-1, 1, "m", b""],
        [True, 1, "m", b""],
        [wire.CALL, 2**63, "m", b""],
        [wire.CALL, -1, "m", b""],
        [wire.CALL, 1.5, "m", b""],
        [wire.CALL, 1, "m" * 65, b""],
        [wire.CALL, 1, b"m", b""],
        [wire.CALL, 1, "m", "text"],
        [wire.CALL, 1, "m", bytes(MESSAGE_BYTES_MAX + 1)],
        [wire.CALL, 1, "m", [[[[]]]]],
        [wire.CALL, 1, "m", {1: 2}],
    ],
)
def test_msgpack_that_is_no_frame_is_bad(fields: object) -> None:
    with pytest.raises(wire.BadFrame):
        wire.decode(msgpack.packb(fields))


def test_deep_nesting_and_huge_claims_are_bad_before_they_cost_anything() -> None:
    for body in (b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"):
        with pytest.raises(wire.BadFrame):
            wire.decode(body)
    for claim in (b"\xff\xff\xff\xff", b"\0\0\0\0", (wire.FRAME_BYTES_MAX + 1).to_bytes(4, "big")):
        with pytest.raises(wire.BadFrame, match="claims"):
            wire.frame_length(claim, wire.FRAME_BYTES_MAX)


def test_the_largest_frame_of_each_kind_passes() -> None:
    for kind in (wire.CALL, wire.ANSWER, wire.POST):
        frame = wire.Frame(kind, 2**63 - 1, "m" * 64, bytes(MESSAGE_BYTES_MAX))
        encoded = wire.encode(frame)
        assert wire.frame_length(encoded[:4], wire.FRAME_BYTES_MAX) == len(encoded) - 4
        assert wire.decode(encoded[4:]) == frame


def test_a_long_error_is_cut_and_half_a_character_does_no_harm() -> None:
    frame = wire.decode(wire.encode_error(7, "é" * ERROR_TEXT_BYTES_MAX)[4:])
    assert (frame.kind, frame.id, len(frame.body)) == (wire.ERROR, 7, ERROR_TEXT_BYTES_MAX)
    assert wire.decode(wire.encode_error(7, "\udcff")[4:]).body == b"?"  # what os.fsdecode makes of a bad name


def test_a_preamble_of_a_later_version_is_understood_and_cannot_forge_log_lines() -> None:
    later = msgpack.packb({"wire": 2, "software": "evil\n2026 INFO all is well" + "x" * 100, "extra": [1, 2]})
    preamble = wire.decode_preamble(later)
    assert preamble.wire == 2
    assert preamble.software.startswith("evil?2026")
    assert len(preamble.software) == 64
    with pytest.raises(wire.BadFrame):
        wire.decode_preamble(msgpack.packb({"wire": True}))


@given(st.lists(frames, max_size=5), st.integers(1, 50))
async def _reads_back(sent: list[wire.Frame], piece: int) -> None:
    reader = FrameReader(Bytes(b"".join(wire.encode(frame) for frame in sent), piece))
    assert [wire.decode(await reader.next(wire.FRAME_BYTES_MAX)) for _ in sent] == sent
    with pytest.raises(StreamEnded):
        await reader.next(wire.FRAME_BYTES_MAX)


test_frames_are_read_back_from_any_pieces = _reads_back
