"""Blocks that are packed for a slow link: lossless, smaller where that pays, and bounded for who unpacks them."""

import contextlib
import struct
from collections.abc import Callable

import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from intellectd.daemon.bulk import piece_fetch
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.interface import PiecesJob, TransferDone, TransferFailed
from intellectd.daemon.bulk.limits import PACK_BLOCK_MAX
from intellectd.daemon.bulk.packing import BLOCK, block_of, pack, unpack
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    PACKED,
    GetRequest,
    Header,
    Kind,
    decode_header,
    decode_request,
    encode_header,
    encode_request,
)
from intellectd.kernels.digest import leaf_hash
from tests.daemon.bulk_swarm import Events, Outsider, read_exactly, swarm, transfer_id, trust_all

PIECE = 64 * 1024
WEIGHTS = (torch.randn(10 * PIECE // 4, generator=torch.Generator().manual_seed(1)) * 0.02).numpy().tobytes()
NOISE = torch.randint(0, 256, (PIECE,), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)).numpy().tobytes()


def unpacked(block: bytes) -> bytes:
    plain, wire = block_of(block[: BLOCK.size], PACK_BLOCK_MAX)
    assert len(block) == BLOCK.size + wire
    return unpack(memoryview(block)[BLOCK.size :], plain)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=5000), st.integers(1, 40))
def test_what_is_packed_comes_back(data: bytes, times: int) -> None:
    assert unpacked(pack(memoryview(data * times))) == data * times


def test_numbers_become_smaller_and_noise_stays_as_it_is() -> None:
    block = pack(memoryview(WEIGHTS))
    assert unpacked(block) == WEIGHTS and len(block) < 0.88 * len(WEIGHTS)
    halves = torch.frombuffer(bytearray(WEIGHTS), dtype=torch.float32).bfloat16().float().numpy().tobytes()
    assert len(pack(memoryview(halves))) < 0.45 * len(halves)  # of an import: the two low planes are zeros
    for data in (NOISE, WEIGHTS[:4001], b"abc"):
        assert pack(memoryview(data)) == BLOCK.pack(len(data), len(data)) + data


GOOD = pack(memoryview(WEIGHTS[:PIECE]))
LENGTHS = struct.unpack(">4I", GOOD[8:24])
QUARTER = PIECE // 4


def claims(count: int) -> bytes:
    """A frame of a few bytes that says so of itself."""
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(QUARTER))
    assert zstandard.get_frame_parameters(frame).content_size == QUARTER
    at = frame.index(struct.pack("<H", QUARTER - 256))
    magic = frame[: at - 1] + bytes([frame[at - 1] & 0x3F | 0xC0])  # eight bytes of content size
    return magic + struct.pack("<Q", count) + frame[at + 2 :]


def with_top_plane(frame: bytes) -> bytes:
    planes = GOOD[24 : 24 + 3 * QUARTER]
    return struct.pack(">4I", QUARTER, QUARTER, QUARTER, len(frame)) + planes + frame


@pytest.mark.parametrize(
    "block",
    [
        b"short",
        GOOD[8:-1],
        GOOD[8:] + b"x",
        struct.pack(">4I", 2**32 - 1, 1, 0, 0) + GOOD[24:],
        struct.pack(">4I", *LENGTHS[:3], 0) + GOOD[24:],
        with_top_plane(claims(2**62)),
        with_top_plane(claims(QUARTER + 1)),
        with_top_plane(claims(QUARTER - 1)),
        with_top_plane(b""),
        with_top_plane(b"\x28\xb5\x2f\xfd"),
        with_top_plane(NOISE[:100]),
        with_top_plane(zstandard.ZstdCompressor(level=1).compress(bytes(2 * QUARTER))),
        with_top_plane(zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(QUARTER))),
        with_top_plane(zstandard.ZstdCompressor(level=1).compress(bytes(QUARTER)) + b"more"),
    ],
)
def test_hostile_blocks_are_refused(block: bytes) -> None:
    with pytest.raises(WireError):
        unpack(memoryview(block), PIECE)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 1000))
def test_any_bytes_give_as_many_as_were_asked_for_or_an_error(block: bytes, plain: int) -> None:
    with contextlib.suppress(WireError):
        assert len(unpack(memoryview(block), plain)) == plain


@pytest.mark.parametrize(
    ("plain", "wire", "left"),
    [(0, 0, 9), (9, 0, 9), (9, 10, 9), (10, 10, 9), (PACK_BLOCK_MAX + 1, 5, 2**40), (2**32 - 1, 2**32 - 1, 2**40)],
)
def test_a_blocks_lengths_are_looked_at_before_it_is_read(plain: int, wire: int, left: int) -> None:
    with pytest.raises(WireError):
        block_of(BLOCK.pack(plain, wire), left)


# ---- between engines


BORDERS = tuple(range(0, len(WEIGHTS) + 1, PIECE))
HASHES = tuple(leaf_hash(WEIGHTS[a : a + PIECE]) for a in BORDERS[:-1])


def job_of(into: bytearray, floats: bool) -> PiecesJob:
    view = memoryview(into)
    return PiecesJob(
        transfer_id("it"), ("d",), "it", view, BORDERS, HASHES, (), lambda _piece: None, 15.0, 60.0, floats=floats
    )


def fetched(engine: Engine, floats: bool) -> tuple[TransferDone | TransferFailed, bytearray]:
    into, events = bytearray(len(WEIGHTS)), Events()
    job = PiecesJob(
        transfer_id("it"),
        ("d",),
        "it",
        memoryview(into),
        BORDERS,
        HASHES,
        (),
        lambda _p: None,
        15.0,
        60.0,
        floats=floats,
    )
    engine.start_pieces(job, events)  # type: ignore[attr-defined]
    end = events.end()
    assert isinstance(end, TransferDone | TransferFailed)
    return end, into


@pytest.mark.parametrize(
    ("floats", "below", "share"), [(True, 1e15, (0.8, 0.92)), (True, 0.0, (1, 1.05)), (False, 1e15, (1, 1.05))]
)
def test_a_slow_donor_is_asked_to_pack(
    floats: bool, below: float, share: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piece_fetch, "PACK_BELOW", below)
    with swarm("asker", "d") as engines:
        engines["d"].serve(lambda _peer, _name: memoryview(WEIGHTS))
        end, into = fetched(engines["asker"], floats)
    assert isinstance(end, TransferDone) and into == WEIGHTS
    assert share[0] <= end.received_bytes / len(WEIGHTS) <= share[1]


def test_a_request_says_so_and_who_does_not_know_it_may_answer_as_ever() -> None:
    assert decode_request(encode_request(GetRequest("it", 1, 2, True))[2:]) == GetRequest("it", 1, 2, True)
    assert b"pack" not in encode_request(GetRequest("it", 1, 2))


def donor_says(answer: Callable[[GetRequest], bytes], floats: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a fetch ends whose only donor answers like that, to each of its requests."""
    monkeypatch.setattr(piece_fetch, "PACK_BELOW", 1e15)
    with swarm("asker") as engines, Outsider("d") as outsider:
        trust_all(engines, d=outsider.endpoint)
        events = Events()
        engines["asker"].start_pieces(job_of(bytearray(len(WEIGHTS)), floats), events)
        connection = outsider.accept(engines["asker"].endpoint)
        length = struct.unpack(">H", read_exactly(connection, 2))[0]
        request = decode_request(read_exactly(connection, length))
        assert isinstance(request, GetRequest)
        with contextlib.suppress(OSError):  # it may have heard enough before the end
            connection.sendall(answer(request))
        while True:
            event = events.inbox.get(timeout=20)
            if isinstance(event, TransferDone | TransferFailed):
                return getattr(event, "reason", "")


def test_a_donor_that_packs_unasked_or_wrong_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def header(request: GetRequest) -> bytes:
        return encode_header(Header(Kind.OBJECT, PACKED, request.length))

    said = donor_says(lambda request: header(request) + GOOD, False, monkeypatch)
    assert "OBJECT of" in said
    other = pack(memoryview(bytes(PIECE)))
    assert "is not the one that is proven" in donor_says(lambda request: header(request) + other, True, monkeypatch)
    bomb = BLOCK.pack(PIECE, 16) + struct.pack(">4I", 0, 0, 0, 0)
    assert "cannot be unpacked" in donor_says(lambda request: header(request) + bomb, True, monkeypatch)
    assert "a block of" in donor_says(lambda request: header(request) + BLOCK.pack(2**31, 2**31), True, monkeypatch)


def test_one_that_asks_for_it_gets_blocks() -> None:
    with swarm("d") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        engines["d"].serve(lambda _peer, _name: memoryview(WEIGHTS))
        connection = outsider.dial(engines["d"].endpoint, encode_request(GetRequest("it", 4, 1000, True)))
        assert decode_header(read_exactly(connection, HEADER_BYTES)) == Header(Kind.OBJECT, PACKED, 1000)
        plain, wire = block_of(read_exactly(connection, BLOCK.size), 1000)
        assert unpack(memoryview(read_exactly(connection, wire)), plain) == WEIGHTS[4:1004]
        assert decode_header(read_exactly(connection, HEADER_BYTES)).kind is Kind.END
