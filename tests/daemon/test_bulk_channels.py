"""Channels between hosts on loopback: what is sent arrives, whoever dials, and what an abort and a close leave.

SPEC D5.
"""

import gc
import os
import threading

import pytest

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.errors import BulkClosed
from intellectd.daemon.bulk.frames import Header, Kind
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.limits import (
    CHANNEL_STALL_S,
    CONTROL_BYTES_MAX,
    CONTROLS_QUEUED_MAX,
    DIAL_PATIENCE_S,
    FRAME_BYTES_MAX,
    STREAMS_MAX,
    WIRES_MAX,
)
from intellectd.daemon.bulk.pace import Pace
from intellectd.daemon.bulk.streams import Streams
from tests.daemon.channel_hosts import STALL_S, WAIT_S, Host, Piece, eventually, hosts, piece, takes_more


def want_wires(host: Host, peer: str, count: int) -> None:
    """The decision's own tests are elsewhere: here it has been made."""
    host.channels._channel(peer).meter._streams = Streams(wires=count)


@pytest.mark.parametrize("sealed", [True, False])
def test_chunks_and_controls_arrive_as_they_were_sent_both_ways(sealed: bool) -> None:
    sizes = [0, 1, 24, 65536, 2**20, FRAME_BYTES_MAX]
    with hosts("a", "b", sealed=sealed) as (a, b):
        channels = [a.channels.need("b", STALL_S), b.channels.need("a", STALL_S)]
        payloads = [os.urandom(size) for size in sizes]
        for channel in channels:
            channel.tell(Header(Kind.GO, flag=7, transfer=2**64 - 1), b"off we go")
            for chunk, payload in enumerate(payloads):
                channel.send(piece(payload, chunk))
        for host, peer in ((a, "b"), (b, "a")):
            assert host.diary.next("found") == ("found", peer)
            header = Header(Kind.GO, flag=7, transfer=2**64 - 1, length=9)
            assert host.diary.next("control") == ("control", peer, header, b"off we go")
            host.diary.await_chunks(len(sizes))
            assert [host.diary.chunks[chunk] for chunk in range(len(sizes))] == payloads
            assert host.diary.progress >= 2 * 2**20 // (2**20 + 2**16)  # at the least once for each large one


def test_only_the_lower_id_dials_at_once_and_one_wire_stands() -> None:
    with hosts("a", "b") as (a, b):
        b.channels.need("a", STALL_S)
        a.channels.need("b", STALL_S)
        a.diary.next("found"), b.diary.next("found")
        assert [wire.dialled for wire in a.channels._channel("b").wires] == [True]
        assert b.wires("a") == 1


def test_the_higher_id_dials_where_the_lower_one_does_not() -> None:
    with hosts("a", "b") as (a, b):
        began = now_s()
        b.channels.need("a", STALL_S)
        assert b.diary.next("found", "lost") == ("found", "a")
        assert now_s() - began >= DIAL_PATIENCE_S
        assert a.diary.next("found") == ("found", "b")  # who needs nobody is told as well


def test_both_may_dial_at_once_and_all_that_is_sent_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosts("a", "b") as (a, b):
        monkeypatch.setattr(b.channels._channel("a"), "_patience_s", lambda: 0.0)  # both dial in the same moment
        channels = a.channels.need("b", STALL_S), b.channels.need("a", STALL_S)
        for chunk in range(16):
            channels[0].send(piece(bytes([chunk]) * 1000, chunk))
            channels[1].send(piece(bytes([chunk]) * 1000, chunk))
        for host in (a, b):
            host.diary.await_chunks(16)
            assert host.diary.chunks == {chunk: bytes([chunk]) * 1000 for chunk in range(16)}
        eventually(lambda: not a.channels._dialling and not b.channels._dialling)
        eventually(lambda: a.wires("b") == b.wires("a"))
        a.channels.release("b"), b.channels.release("a")
        eventually(lambda: a.wires("b") == b.wires("a") == 1)  # the lower id takes back what was too many
        assert not [word for word in (*a.diary.words.queue, *b.diary.words.queue) if word[0] == "lost"]


def test_a_peer_without_an_address_is_never_dialled_but_may_dial() -> None:
    with hosts("a", "b") as (a, b):
        a.know(b=Endpoint("", b.identity.certificate))
        channel = a.channels.need("b", STALL_S)
        channel.send(piece(b"waits for a wire"))
        assert a.channels._dialling == {} and a.diary.words.empty()
        b.channels.need("a", STALL_S)
        b.diary.await_chunks(1)
        assert b.diary.chunks == {0: b"waits for a wire"}


def test_a_peer_that_becomes_known_is_dialled_then() -> None:
    with hosts("a", "b") as (a, b):
        a.know()
        a.channels.need("b", STALL_S)
        assert a.diary.next("lost") == ("lost", "b", "no endpoint of it is known here", False)
        a.know(b)
        assert a.diary.next("found") == ("found", "b")


def test_several_wires_share_the_work() -> None:
    with hosts("a", "b") as (a, b):
        want_wires(a, "b", 4)
        channel = a.channels.need("b", STALL_S)
        eventually(lambda: a.wires("b") == b.wires("a") == 4)
        b.diary.gate.clear()  # each reader holds its first chunk: the others are somebody else's
        payloads = [os.urandom(FRAME_BYTES_MAX) for _ in range(4)]
        for chunk in range(64):
            channel.send(piece(payloads[chunk % 4], chunk))
        wires = a.channels._channel("b").wires
        eventually(lambda: sum(wire.wire_bytes[0] > 2**20 for wire in wires) >= 2)
        b.diary.gate.set()
        b.diary.await_chunks(64)
        assert len(b.diary.threads) >= 1 and all(b.diary.chunks[i] == payloads[i % 4] for i in range(64))


def test_of_several_that_need_a_channel_the_most_patient_says_when_a_wire_is_lost() -> None:
    with hosts("a", "b") as (a, b):
        channel = a.channels.need("b", STALL_S)
        b.diary.next("found"), a.diary.next("found")
        (wire,) = channel.wires
        a.channels.need("b", 0.5)  # as for a word about a transfer that has ended
        a.channels.release("b")
        assert (wire._reader.stall_s, wire._writer.stall_s) == (STALL_S, STALL_S)
        a.channels.release("b")
        assert wire._reader.stall_s == CHANNEL_STALL_S
        a.channels.need("b", 0.5)
        assert wire._reader.stall_s == 0.5
        a.channels.release("b")


def test_patience_with_a_peer_lasts_until_nobody_needs_it() -> None:
    with hosts("a", "b") as (a, _b):
        channel = a.channels.need("b", 2.0)
        a.diary.next("found")
        channel.stall_after(48.0)
        assert [wire._writer.stall_s for wire in channel.wires] == [48.0]
        a.channels.release("b")
        channel.stall_after(48.0)  # too late: the transfer is over
        assert [wire._writer.stall_s for wire in channel.wires] == [CHANNEL_STALL_S]
        a.channels.need("b", 3.0)
        assert [wire._writer.stall_s for wire in channel.wires] == [3.0]
        a.channels.release("b")


def test_wires_beyond_the_wish_take_leave_without_a_loss() -> None:
    with hosts("a", "b") as (a, b):
        want_wires(a, "b", 3)
        channel = a.channels.need("b", STALL_S)
        eventually(lambda: a.wires("b") == b.wires("a") == 3)
        for chunk in range(30):
            channel.send(piece(bytes(2**18), chunk))
        want_wires(a, "b", 1)
        a.channels.release("b")  # with chunks on their way: none may be lost
        b.diary.await_chunks(30)
        eventually(lambda: a.wires("b") == b.wires("a") == 1)
        assert not [word for word in (*a.diary.words.queue, *b.diary.words.queue) if word[0] == "lost"]


def test_a_peer_cannot_open_wires_without_end() -> None:
    with hosts("a", "b") as (a, b):
        want_wires(a, "b", STREAMS_MAX + 2)
        a.channels.need("b", STALL_S)
        eventually(lambda: a.wires("b") == b.wires("a") == STREAMS_MAX and a.channels._channel("b")._backoff_s > 0)
        assert b.channels._channel("a").staying == STREAMS_MAX
        assert not [word for word in (*a.diary.words.queue, *b.diary.words.queue) if word[0] == "lost"]
    assert WIRES_MAX * 2 * FRAME_BYTES_MAX < 256 * 2**20


def test_wires_are_bounded_over_all_peers_and_those_that_nobody_needs_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with hosts("a", "b", "c") as (a, b, c):
        monkeypatch.setattr("intellectd.daemon.bulk.channels.WIRES_MAX", 1)
        a.channels.need("b", STALL_S)
        assert a.diary.next("found") == ("found", "b")
        a.channels.need("c", STALL_S)
        assert "all of which are needed" in str(a.diary.next("lost")[2])
        c.channels.need("a", STALL_S)  # nor is one accepted
        assert c.diary.next("found", "lost")[0] == "lost"
        a.channels.release("b")
        assert b.diary.next("found") == ("found", "a")
        said = {("lost", "b", "its place was needed for another peer", False), ("found", "c")}
        while said:
            said.discard(a.diary.next("lost", "found"))


@pytest.mark.parametrize("dialler", ["a", "c"])
def test_a_needed_channel_without_a_wire_goes_before_anothers_many(
    monkeypatch: pytest.MonkeyPatch, dialler: str
) -> None:
    """A ring of two neighbours leaves each with many; the next transfer has more neighbours than places are left."""
    with hosts("a", "b", "c") as (a, b, c):
        monkeypatch.setattr("intellectd.daemon.bulk.channels.WIRES_MAX", 3)
        monkeypatch.setattr("intellectd.daemon.bulk.channel.DIAL_PATIENCE_S", 0.0)
        want_wires(a, "b", 3)
        channel = a.channels.need("b", STALL_S)
        eventually(lambda: a.wires("b") == b.wires("a") == 3)
        if dialler == "c":
            a.know(b, c=Endpoint("", c.endpoint.certificate))
        a.channels.need("c", STALL_S)
        if dialler == "c":
            c.channels.need("a", STALL_S)
        eventually(lambda: a.wires("c") == c.wires("a") == 1)
        eventually(lambda: a.wires("b") == b.wires("a") == 2)
        channel.send(piece(b"still there"))
        b.diary.await_chunks(1)
        assert not [word for host in (a, b, c) for word in host.diary.words.queue if word[0] == "lost"]


def test_control_frames_go_before_all_chunks_and_what_is_dropped_is_not_sent() -> None:
    with hosts("a", "b") as (a, b):
        channel = a.channels._channel("b")  # nobody needs it yet, so no wire stands
        channel.send(piece(b"first", 0, transfer=1))
        channel.send(piece(b"of another transfer", 1, transfer=2))
        over = piece(b"its transfer is over when it is taken", 2, transfer=1)
        over.over = True
        channel.send(over)
        channel.send(piece(b"last", 3, transfer=1))
        channel.tell(Header(Kind.WAITING, transfer=1))
        channel.tell(Header(Kind.WAITING, transfer=1))  # said again while nobody hears: once is enough
        channel.tell(Header(Kind.WAITING, transfer=2))
        channel.drop(2)
        channel.tell(Header(Kind.ABORT, transfer=2), b"12D3KooWx")
        a.channels.need("b", STALL_S)
        words = [b.diary.next("found", "control", "chunk") for _ in range(5)]
        assert [word[0] for word in words] == ["found", "control", "control", "chunk", "chunk"]  # WAITING, ABORT
        assert b.diary.chunks == {0: b"first", 3: b"last"} and not over.done.is_set()


def test_queues_are_bounded_and_senseless_frames_refused() -> None:
    with hosts("a", "b") as (a, _b):
        channel = a.channels._channel("b")
        for number in range(CONTROLS_QUEUED_MAX):
            channel.tell(Header(Kind.WAITING, transfer=number))
        with pytest.raises(OverflowError):
            channel.tell(Header(Kind.WAITING, transfer=CONTROLS_QUEUED_MAX))
        with pytest.raises(ValueError, match="at most 1024"):
            channel.tell(Header(Kind.GO), bytes(CONTROL_BYTES_MAX + 1))
        for header in (Header(Kind.PING), Header(Kind.BYE), Header(Kind.CHUNK)):
            with pytest.raises(ValueError, match="no control frame"):
                channel.tell(header)
        too_long = piece(b"x")
        too_long.header = too_long.header._replace(length=FRAME_BYTES_MAX + 1)
        for no_chunk in (too_long, Piece(Header(Kind.GO), b"")):
            with pytest.raises(ValueError, match="no chunk"):
                channel.send(no_chunk)


def test_a_chunk_that_nobody_wants_is_passed_over() -> None:
    with hosts("a", "b") as (a, b):
        b.diary.unwanted = {1}
        channel = a.channels.need("b", STALL_S)
        for chunk in range(3):
            channel.send(piece(os.urandom(10_000), chunk))
        b.diary.await_chunks(2)
        assert sorted(b.diary.chunks) == [0, 2]


def test_an_abort_returns_at_once_while_a_chunk_is_half_sent_and_its_memory_is_free() -> None:
    with hosts("a", "b") as (a, b):
        b.diary.gate.clear()  # b reads no further than its first chunk
        channel = a.channels.need("b", STALL_S)
        memory = bytearray(FRAME_BYTES_MAX)
        pieces = [piece(memoryview(memory), chunk) for chunk in range(1000)]
        for one in pieces:
            channel.send(one)
        b.diary.await_chunks(0)
        # Stalled: one chunk is sealed and only half in the socket, and nothing moves.
        eventually(lambda: b.diary.at_gate == 1 and not takes_more(channel) and _stalled(pieces))
        held = [one for one in pieces if one.filled.is_set() and not one.done.is_set()]
        assert len(held) == 1
        for one in pieces:
            one.over = True
        channel.drop(1)
        for one in pieces:
            one.payload = b""
        memory.clear()  # BufferError if anything still looked at it
        channel.tell(Header(Kind.ABORT, transfer=1))
        b.diary.gate.set()
        assert b.diary.next("control")[2] == Header(Kind.ABORT, transfer=1)
        taken = sum(one.filled.is_set() for one in pieces)
        eventually(lambda: len(b.diary.chunks) == taken)
        assert set(b.diary.chunks.values()) == {bytes(FRAME_BYTES_MAX)}, "a chunk changed after it was sealed"


def _stalled(pieces: list[Piece]) -> bool:
    """Whether one chunk was filled and not sent, twice in a row some time apart."""

    def held() -> list[int]:
        return [n for n, one in enumerate(pieces) if one.filled.is_set() and not one.done.is_set()]

    first = held()
    threading.Event().wait(0.05)
    return len(first) == 1 and held() == first


def test_close_leaves_no_thread_and_no_file_whatever_is_going_on() -> None:
    gc.collect()
    before, files = threading.enumerate(), len(os.listdir("/proc/self/fd"))
    with hosts("a", "b", "c") as (a, b, c):
        busy = a.channels.need("b", STALL_S)
        b.diary.next("found")
        b.diary.gate.clear()
        for chunk in range(100):
            busy.send(piece(bytes(FRAME_BYTES_MAX), chunk))
        gone = Endpoint("127.0.0.1:1", c.identity.certificate)
        a.know(b, c=gone)
        a.channels.need("c", STALL_S)
        assert a.diary.next("lost")[2] == "it refused the connection"
        a.close()
        with pytest.raises(BulkClosed):
            a.channels.need("b", STALL_S)
        b.diary.gate.set()
        eventually(lambda: b.wires("a") == 0)  # it was told, or saw the end: how much was under way decides that
    gc.collect()
    assert set(threading.enumerate()) <= set(before)  # of those before, a thread of another test may have ended
    assert len(os.listdir("/proc/self/fd")) == files


def test_close_says_what_was_queued_and_takes_leave() -> None:
    with hosts("a", "b") as (a, b):
        channel = a.channels.need("b", STALL_S)
        a.diary.next("found"), b.diary.next("found")
        for transfer in range(100):
            channel.tell(Header(Kind.GONE, transfer=transfer))
        a.close()
        assert [b.diary.next("control", "lost")[0] for _ in range(100)] == ["control"] * 100
        eventually(lambda: b.wires("a") == 0)
        assert b.diary.words.empty(), "an orderly end is no loss"


def test_what_is_sealed_and_what_is_not_do_not_mix() -> None:
    with hosts("a") as (a,):
        b = Host("b", sealed=False)
        try:
            a.know(b), b.know(a)
            a.channels.need("b", STALL_S)
            assert "seals its frames and the other does not" in str(a.diary.next("lost")[2])
        finally:
            b.close()


def test_an_idle_wire_takes_leave_and_is_dialled_again_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.channel_wire.KEEPALIVE_S", 0.01)
    with hosts("a", "b") as (a, b):
        for number in range(2):
            monkeypatch.setattr("intellectd.daemon.bulk.channel.IDLE_S", WAIT_S)
            a.channels.need("b", STALL_S).send(piece(b"x", number))
            b.diary.await_chunks(number + 1)
            a.channels.release("b")
            assert a.wires("b") == 1  # kept, pinged meanwhile
            monkeypatch.setattr("intellectd.daemon.bulk.channel.IDLE_S", 0.05)
            eventually(lambda: a.wires("b") == b.wires("a") == 0)
        assert not [word for word in (*a.diary.words.queue, *b.diary.words.queue) if word[0] == "lost"]


def test_a_link_is_measured_by_what_was_sent_over_it() -> None:
    with hosts("a", "b") as (a, b):
        assert a.channels.measured("b") is None
        channel = a.channels.need("b", STALL_S)
        for chunk in range(16):
            channel.send(piece(bytes(2**20), chunk))
        b.diary.await_chunks(16)
        a.channels.release("b")
        measure = a.channels.measured("b")
        assert measure is not None and measure.bytes_per_s is not None and measure.rtt_s is not None
        assert measure.bytes_per_s > 1e5 and 0 < measure.rtt_s < 10 and measure.streams == 1
        with pytest.raises(ValueError, match="released more often"):
            a.channels.release("b")


def test_chunks_are_held_back_by_the_limits_and_controls_are_not() -> None:
    with hosts("a", "b", pace=Pace(upload_mbit=0.5, download_mbit=0.0)) as (a, _b):
        channel = a.channels.need("b", STALL_S)
        one = piece(bytes(FRAME_BYTES_MAX), 1)
        channel.send(one)
        a.diary.next("found")
        eventually(one.filled.is_set)
        channel.drop(1)
        assert not one.done.is_set(), "1 MiB at 0.5 Mbit/s takes a quarter of a minute"
        began = now_s()
        a.close()
        assert now_s() - began < 10
