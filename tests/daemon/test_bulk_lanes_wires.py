"""Wires and collectives between processes of one host, whose chunks go by memory that both map. SPEC D12."""

import gc
import os
import socket
import threading
from pathlib import Path

import pytest

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.frames import Header, Kind
from intellectd.daemon.bulk.interface import ProbeJob
from intellectd.daemon.bulk.limits import FRAME_BYTES_MAX, LANE_SLOTS, PROBE_S
from intellectd.daemon.bulk.pace import Pace
from intellectd.daemon.bulk.sealed import TAG_BYTES
from tests.daemon.bulk_swarm import Case, Events, swarm, transfer_id, trust_all
from tests.daemon.channel_hosts import STALL_S, WAIT_S, Host, Piece, eventually, hosts, piece
from tests.daemon.puppet import sever_all

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")


def shares(host: Host, peer: str) -> list[bool]:
    return [wire.shares_memory for wire in host.channels._channel(peer).wires]


@pytest.mark.parametrize("sealed", [True, False])
def test_chunks_go_by_memory_and_words_by_the_connection(sealed: bool) -> None:
    with hosts("a", "b", near=True, sealed=sealed) as (a, b):
        channel = a.channels.need("b", STALL_S)
        payloads = [os.urandom(FRAME_BYTES_MAX - 1000 * n) for n in range(3 * LANE_SLOTS)]
        pieces = [piece(payload, n) for n, payload in enumerate(payloads)]
        for one in pieces:
            channel.send(one)
        channel.tell(Header(Kind.GO, transfer=5))
        b.diary.await_chunks(len(payloads))
        assert [b.diary.chunks[n] for n in range(len(payloads))] == payloads
        assert shares(a, "b") == shares(b, "a") == [True]
        (wire,) = channel.wires
        frame = sum(map(len, payloads)) + len(payloads) * (24 + (TAG_BYTES if sealed else 0))
        assert wire.wire_bytes[0] >= frame, "what went beside the connection counts as sent"
        eventually(lambda: (counted := channel.counters()) is not None and counted.acked_bytes >= frame)


def test_words_pass_while_no_slot_is_free() -> None:
    """Else who holds a chunk for others' could not say so, and would count as silent (D6)."""
    with hosts("a", "b", near=True) as (a, b):
        b.diary.gate.clear()
        channel = a.channels.need("b", STALL_S)
        pieces = [piece(bytes(FRAME_BYTES_MAX), n) for n in range(3 * LANE_SLOTS)]
        for one in pieces:
            channel.send(one)
        eventually(lambda: b.diary.at_gate == 1 and sum(one.done.is_set() for one in pieces) == LANE_SLOTS)
        (wire,) = channel.wires
        before = wire.wire_bytes[0]
        channel.tell(Header(Kind.GO, transfer=5))
        eventually(lambda: wire.wire_bytes[0] > before)
        assert not pieces[LANE_SLOTS].filled.is_set(), "its memory is not looked at before there is room"
        b.diary.gate.set()
        b.diary.await_chunks(len(pieces))


def test_what_had_no_slot_when_the_wire_broke_goes_by_the_next() -> None:
    with hosts("a", "b", near=True) as (a, b):
        b.diary.gate.clear()
        channel = a.channels.need("b", STALL_S)
        pieces = [piece(bytes([n]) * 1000, n) for n in range(LANE_SLOTS + 3)]
        for one in pieces:
            channel.send(one)
        eventually(lambda: sum(one.done.is_set() for one in pieces) == LANE_SLOTS)
        a.channels._channel("b").wires[0]._socket.shutdown(socket.SHUT_RDWR)
        a.diary.next("lost")  # from here on nothing goes by it any more
        b.diary.gate.set()
        late = {n: bytes([n]) * 1000 for n in range(LANE_SLOTS, LANE_SLOTS + 3)}
        eventually(lambda: late.items() <= b.diary.chunks.items())
        assert all(one.done.wait(WAIT_S) for one in pieces)


def test_who_is_given_more_time_while_it_is_waited_for_has_it() -> None:
    """As one that says that it holds chunks for others (HELD_STALLS)."""
    with hosts("a", "b", near=True) as (a, b):
        b.diary.gate.clear()
        channel = a.channels.need("b", 2.0)
        for n in range(LANE_SLOTS + 1):
            channel.send(piece(b"held", n))
        eventually(lambda: bool(channel.outbox._full))
        channel.stall_after(STALL_S)
        (wire,) = channel.wires
        eventually(lambda: wire._lanes.out.waited_s > 0.0)  # type: ignore[union-attr]
        b.diary.gate.set()
        b.diary.await_chunks(LANE_SLOTS + 1)
        assert channel.wires == [wire]


def test_a_chunk_whose_transfer_is_over_takes_no_slot() -> None:
    with hosts("a", "b", near=True) as (a, b):
        channel = a.channels.need("b", STALL_S)
        for n in range(3 * LANE_SLOTS):
            channel.send(Piece(Header(Kind.CHUNK, chunk=n, transfer=1, length=4), b"over", over=True))
            channel.send(piece(b"good", 100 + n))
        b.diary.await_chunks(3 * LANE_SLOTS)
        assert set(b.diary.chunks) == set(range(100, 100 + 3 * LANE_SLOTS))


def test_what_nobody_wants_gives_its_slot_back() -> None:
    with hosts("a", "b", near=True) as (a, b):
        b.diary.unwanted = set(range(3 * LANE_SLOTS))
        channel = a.channels.need("b", STALL_S)
        for n in range(3 * LANE_SLOTS + 1):
            channel.send(piece(b"good", n))
        b.diary.await_chunks(1)
        assert b.diary.chunks == {3 * LANE_SLOTS: b"good"}


def test_what_is_changed_in_the_memory_ends_the_wire() -> None:
    with hosts("a", "b", near=True) as (a, b):
        b.diary.gate.clear()
        channel = a.channels.need("b", STALL_S)
        channel.send(piece(b"held", 0))
        channel.send(piece(b"good", 1))
        eventually(lambda: b.diary.at_gate == 1 and not any(channel.outbox._chunks))
        (wire,) = channel.wires
        eventually(lambda: wire._lanes.out._under_way == 2)  # type: ignore[union-attr]
        wire._lanes.out._slots[1][0] ^= 1  # type: ignore[union-attr]
        b.diary.gate.set()
        assert b.diary.next("lost")[2] == "broke the protocol: a frame that does not authenticate"


@pytest.mark.parametrize(("a_near", "b_near"), [(True, False), (False, True)])
def test_who_shares_no_memory_gets_its_chunks_by_the_connection(a_near: bool, b_near: bool) -> None:
    a, b = Host("a", near=a_near), Host("b", near=b_near)
    try:
        a.know(b), b.know(a)
        a.channels.need("b", STALL_S).send(piece(b"good"))
        b.diary.await_chunks(1)
        assert shares(a, "b") == shares(b, "a") == [False]
    finally:
        a.close()
        b.close()


def test_who_keeps_to_a_rate_shares_no_memory() -> None:
    with hosts("a", "b", near=True, pace=Pace(upload_mbit=800)) as (a, b):
        a.channels.need("b", STALL_S).send(piece(b"good"))
        b.diary.await_chunks(1)
        assert shares(a, "b") == [False]


def test_nothing_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with hosts("a", "b", near=True) as (a, b):
        a.channels.need("b", STALL_S).send(piece(b"good"))
        b.diary.await_chunks(1)
        assert shares(a, "b") == [True]
        sharing = [host.channels._greeter.sharing for host in (a, b)]
    assert [one._wires for one in sharing] == [0, 0]
    assert len(os.listdir("/proc/self/fd")) == before


def mapped() -> int:
    return Path("/proc/self/maps").read_text().count("intellectd-wire")


def test_the_memory_of_a_wire_that_breaks_goes_with_it() -> None:
    """And not when the garbage collector comes by: it is 4 MiB, with a file, and counts no more."""
    gc.collect()
    gc.disable()
    try:
        with hosts("a", "b", near=True) as (a, b):
            channel = a.channels.need("b", STALL_S)
            for n in range(3):
                channel.send(piece(b"good", n))
                b.diary.await_chunks(n + 1)
                eventually(lambda: mapped() == 2)
                channel.wires[0]._socket.shutdown(socket.SHUT_RDWR)
                a.diary.next("lost")
        eventually(lambda: not mapped())
    finally:
        gc.enable()


def test_a_probe_ends_once_all_of_it_has_gone() -> None:
    """And not when it has waited in vain to hear of the last slots."""
    with swarm("a", "b", near=True) as engines:
        job = ProbeJob(transfer_id("look"), "b", 4 * 1024 * 1024, STALL_S, 60.0)
        events = Events()
        engines["a"].start_probe(job, events)
        done = events.done()
        (wire,) = engines["a"]._channels._channels["b"].wires
        assert wire.shares_memory and done.seconds < PROBE_S
        (link,) = done.links
        assert link.bytes_per_s > 0


# ---- collectives


@pytest.mark.parametrize(
    ("count", "codec", "schedule", "shape"),
    [
        (2, "fp32", "ring", ()),
        (3, "int8", "ring", ()),
        (4, "int8", "direct", ()),
        (3, "fp32", "direct", ()),
        (4, "fp32", "torus", (2,)),
    ],
)
def test_all_end_with_the_bytes_that_the_connections_would_have_brought(
    count: int, codec: str, schedule: str, shape: tuple[int, ...]
) -> None:
    members = tuple(f"peer{i}" for i in range(count))
    outs = []
    for near in (False, True):
        case = Case(members, codec, 16384 * 16 * count * 3 + 256, schedule=schedule, shape=shape)
        with swarm(*members, near=near) as engines:
            ends = [case.start(engines[member], member) for member in members]
            done = [events.done() for events in ends]
            wires = [w for e in engines.values() for c in e._channels._channels.values() for w in c.wires]
            assert any(wire.shares_memory for wire in wires) is near
        outs.append((case.outs, sum(end.sent_bytes for end in done)))
    (plain, plain_bytes), (shared, shared_bytes) = outs
    assert shared == plain and all(out == shared[0] for out in shared)
    assert shared_bytes == pytest.approx(plain_bytes, rel=0.03)


def test_connections_that_break_take_the_memory_with_them() -> None:
    members = ("a", "b", "c")
    quiet, case = (Case(members, "int8", 16384 * 16 * 30, name) for name in ("quiet", "case"))
    with swarm(*members, near=True) as engines:
        for events in [quiet.start(engines[member], member) for member in members]:
            events.done()
        running = [case.start(engines[member], member) for member in members]
        over = threading.Event()
        for member in members:
            sever_all(engines[member])
            over.wait(0.05)
        for events in running:
            events.done()
    assert case.outs == quiet.outs


def test_a_member_that_dies_is_missed_as_ever() -> None:
    members = ("a", "b")
    case = Case(members, "fp32", 16384 * 16 * 40, stall_s=2.0)
    engines = {member: Engine(member, "127.0.0.1:0", near=True) for member in members}
    try:
        trust_all(engines)
        events = case.start(engines["a"], "a")
        first = Case(members, "fp32", 16384, "first")
        for one in [first.start(engine, member) for member, engine in engines.items()]:
            one.done()
        engines["b"].close()
        assert events.failed().suspect == "b"
    finally:
        engines["a"].close()


def test_what_a_ring_within_a_host_shows_of_its_link_is_no_window() -> None:
    case = Case(("a", "b"), "fp32", 16384 * 16 * 60)
    with swarm("a", "b", near=True) as engines:
        for events in [case.start(engine, member) for member, engine in engines.items()]:
            (link,) = events.done().links
            assert link.limit in ("host", "app", "bbr") and link.bytes_per_s > 0
