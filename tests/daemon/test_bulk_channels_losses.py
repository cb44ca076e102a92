"""Wires that break: what is said of it, and how the channel comes back. SPEC D5, D9."""

import errno
import os
import socket
import threading
from typing import Any

import pytest

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.channel import Channel
from intellectd.daemon.bulk.channel_wire import Wire
from intellectd.daemon.bulk.errors import LinkLost
from intellectd.daemon.bulk.frame_writer import FrameWriter
from intellectd.daemon.bulk.frames import HEADER_BYTES, Header, Kind
from intellectd.daemon.bulk.limits import DIAL_BACKOFF_MAX_S
from intellectd.daemon.bulk.sealed import SECRET_BYTES
from intellectd.daemon.bulk.streams import Streams
from intellectd.daemon.bulk.wire import ChannelRequest, encode_request
from tests.daemon.bulk_swarm import closed, read_exactly
from tests.daemon.channel_hosts import STALL_S, WAIT_S, Host, eventually, hosts, piece
from tests.daemon.channel_outsider import chunk, host_and_outsider


def test_a_reset_in_the_middle_of_a_chunk_is_told_and_the_peer_dialled_again() -> None:
    with host_and_outsider() as (a, x):
        channel = a.channels.need("x", STALL_S)
        wire = x.channel_from(a)
        assert a.diary.next("found", "lost") == ("found", "x")
        lost = piece(os.urandom(2**20))
        channel.send(lost)
        read_exactly(wire.connection, HEADER_BYTES + 1000)
        wire.say(wire.frame(chunk(1000), bytes(1000))[:500])  # and of its own chunk, half
        wire.reset()
        word = a.diary.next("found", "lost")
        assert word[0] == "lost" and word[3] is False
        again = x.channel_from(a)
        assert a.diary.next("found", "lost") == ("found", "x")
        channel.send(piece(b"what the handler sends then", 1))
        assert again.hear()[1] == b"what the handler sends then"
        assert a.diary.chunks == {}


def test_a_wire_whose_reader_holds_a_chunk_is_lost_at_once_and_counts_until_that_is_free() -> None:
    """What the chunk waits for may have been lost with the wire, or with its peer's process."""
    with host_and_outsider() as (a, x):
        channel = a.channels.need("x", STALL_S)
        wire = x.channel_from(a)
        a.diary.gate.clear()
        wire.say(wire.frame(chunk(1000), bytes(1000)))
        eventually(lambda: a.diary.at_gate == 1)
        wire.reset()
        channel.tell(Header(Kind.GO, transfer=5))
        assert a.diary.next("lost")[1] == "x"
        again = x.channel_from(a)
        assert again.hear()[0].kind is Kind.GO  # said again
        assert (channel.width, channel.lingering) == (1, 1)
        a.diary.gate.set()
        a.diary.await_chunks(1)
        eventually(lambda: channel.lingering == 0)
        assert channel.width == 1


def test_a_control_frame_in_the_hands_of_a_wire_that_breaks_is_said_again() -> None:
    with hosts("a", "b") as (a, b):
        channel = a.channels.need("b", STALL_S)
        a.diary.next("found"), b.diary.next("found")
        wire = channel.wires[0]
        wire._socket.shutdown(socket.SHUT_WR)  # what is written from now on fails
        channel.tell(Header(Kind.GO, transfer=5))
        assert b.diary.next("control")[2] == Header(Kind.GO, transfer=5)


def test_what_a_wire_has_not_begun_with_when_it_breaks_goes_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says nothing at first, for BBR's sake (D5), and breaks in that."""
    breaks, fills = [LinkLost("Connection reset by peer")] * 2, FrameWriter.write_filling

    def filling(writer: FrameWriter, count: int) -> None:
        if breaks:
            raise breaks.pop()
        fills(writer, count)

    monkeypatch.setattr("intellectd.daemon.bulk.channel_wire.FILLED_AFTER_S", 0.0)
    monkeypatch.setattr(Wire, "congestion", lambda _wire: "bbr")
    monkeypatch.setattr(FrameWriter, "write_filling", filling)
    with hosts("a", "b") as (a, b):
        channel = a.channels.need("b", STALL_S)
        first, second = piece(b"first", 1), piece(b"second", 2)
        channel.send(first), channel.send(second)
        b.diary.await_chunks(2)
        assert first.done.wait(WAIT_S) and second.done.wait(WAIT_S) and not breaks
        breaks.append(LinkLost("Connection reset by peer"))
        channel.tell(Header(Kind.GO, transfer=5))
        assert b.diary.next("control")[2] == Header(Kind.GO, transfer=5)
        assert not breaks


def test_a_wire_that_breaks_beside_others_is_a_loss_and_a_find() -> None:
    with hosts("a", "b") as (a, b):
        a.channels._channel("b").meter._streams = Streams(wires=2)
        channel = a.channels.need("b", STALL_S)
        eventually(lambda: a.wires("b") == b.wires("a") == 2)
        assert a.diary.next("found", "lost")[0] == "found"
        channel.wires[0]._socket.shutdown(socket.SHUT_RDWR)
        for host in (a, b):
            assert host.diary.next("lost")[3] is False
            assert host.diary.next("found", "lost")[0] == "found"
        eventually(lambda: a.wires("b") == b.wires("a") == 2)


def test_a_peer_that_hangs_up_at_once_is_dialled_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.channel.WIRE_LIVES_S", 1e9)  # "at once", however busy the machine is
    with host_and_outsider() as (a, x):
        a.channels.need("x", STALL_S)
        began, count = now_s(), 6
        for _ in range(count):
            x.channel_from(a).reset()
            a.diary.next("lost")
        # .05, .1, .2, .4, .8: at the least what was waited, whatever the machine did meanwhile.
        assert now_s() - began >= 0.05 * (2 ** (count - 1) - 1)
        assert a.channels._channel("x")._backoff_s == DIAL_BACKOFF_MAX_S


def test_a_peer_whose_process_is_gone_is_refused_and_who_comes_later_hears_it_too() -> None:
    with hosts("a", "b") as (a, b):
        a.channels.need("b", STALL_S)
        b.channels.need("a", STALL_S)
        a.diary.next("found"), b.diary.next("found")
        b.close()
        assert a.diary.next("lost") == ("lost", "b", "it refused the connection", True)
        a.channels.need("b", STALL_S)  # a second transfer
        assert a.diary.next("lost") == ("lost", "b", "it refused the connection", True)


def test_a_peer_that_restarts_with_another_certificate_is_found_again() -> None:
    with hosts("a", "b") as (a, b):
        a.channels.need("b", STALL_S).send(piece(b"to the first", 0))
        b.diary.await_chunks(1)
        b2 = Host("b")
        try:
            b2.know(a)
            a.know(b2)  # the first still stands, but is not trusted any more
            assert a.diary.next("lost") == ("lost", "b", "its certificate is another one now", False)
            assert a.diary.next("found") == ("found", "b")
            a.channels.need("b", STALL_S).send(piece(b"to the second", 1))
            b2.diary.await_chunks(1)
            assert b2.diary.chunks == {1: b"to the second"} and b.diary.chunks == {0: b"to the first"}
        finally:
            b2.close()


def test_a_peer_that_is_no_longer_trusted_loses_its_wires() -> None:
    with hosts("a", "b") as (a, b):
        b.channels.need("a", STALL_S)
        b.diary.next("found")
        a.know()
        assert a.diary.next("lost")[2] == "it is not trusted any more"
        assert b.diary.next("lost")[0] == "lost"
        eventually(lambda: a.channels._channels == {} or a.wires("b") == 0)


def test_a_wire_that_stood_up_while_the_peer_wrote_its_list_stays_however_late_that_comes() -> None:
    """Its request waits in a line that is full; meanwhile another stood, by a dial of this host's."""
    with host_and_outsider() as (a, x):
        a.channels.need("x", STALL_S)
        old = x.channel_from(a)
        eventually(lambda: a.wires("x") == 1)
        (listed,) = a.channels._channel("x").wire_ids()
        tls = x.dial(a.endpoint)  # its list is written now
        eventually(lambda: a._listener._connections != {})
        a.channels._channel("x").meter._streams = Streams(wires=2)
        a.channels._dial_if_lacking(a.channels._channel("x"))
        young = x.channel_from(a)
        tls.sendall(encode_request(ChannelRequest((listed,))) + bytes(SECRET_BYTES))
        assert tls.recv(1)
        for wire in (old, young):
            wire.say(wire.frame(Header(Kind.GO, transfer=7)))
            assert a.diary.next("control")[2] == Header(Kind.GO, transfer=7)
        assert [word[0] for word in a.diary.words.queue if word[0] == "lost"] == []
        tls.close()


def test_a_wire_that_the_peer_has_lost_ends_when_it_dials_anew() -> None:
    with host_and_outsider() as (a, x):
        dead = x.channel_to(a)
        eventually(lambda: a.wires("x") == 1)
        (wire_id,) = a.channels._channel("x").wire_ids()
        x.channel_to(a, wires=(wire_id,))
        eventually(lambda: a.wires("x") == 2)
        x.channel_to(a, wires=(wire_id,))  # has lost the second
        assert a.diary.next("lost")[2] == "it has lost this connection"
        assert wire_id in a.channels._channel("x").wire_ids()
        dead.say(dead.frame(chunk(4), b"good"))
        a.diary.await_chunks(1)


@pytest.mark.parametrize("said", [10, HEADER_BYTES, HEADER_BYTES + 500])
def test_a_frame_that_stops_half_way_is_silence(said: int) -> None:
    with host_and_outsider() as (a, x):
        a.channels.need("x", 0.1)
        wire = x.channel_from(a)
        wire.say(wire.frame(chunk(1000), bytes(1000))[:said])
        assert a.diary.next("lost")[2] == "nothing came from it in 0.1 s"
        assert closed(wire.connection)


def test_a_peer_that_takes_nothing_is_silence() -> None:
    with host_and_outsider() as (a, x):
        channel = a.channels.need("x", 0.2)
        x.channel_from(a)
        for number in range(64):
            channel.send(piece(bytes(2**20), number))
        # The kernel's own user timeout, set to the same time, may be first to say it.
        assert a.diary.next("lost")[2] in ("it took nothing for 0.2 s", os.strerror(110))


def test_a_wire_on_which_nothing_comes_at_all_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.frame_reader.SILENT_S", 0.1)
    with host_and_outsider() as (a, x):
        wire = x.channel_to(a)
        assert a.diary.next("lost")[2] == "nothing came from it in 0.1 s"
        assert closed(wire.connection)


@pytest.mark.parametrize("short", ["a", "b"])
def test_a_host_without_a_file_to_spare_has_the_wire_as_soon_as_it_has_one(
    monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    none_left = [OSError(errno.EMFILE, "Too many open files")]

    class Wanting(Wire):
        def __init__(self, peer: str, *rest: Any, **more: Any) -> None:
            if peer != short and none_left:
                raise none_left.pop()
            super().__init__(peer, *rest, **more)

    monkeypatch.setattr("intellectd.daemon.bulk.channels.Wire", Wanting)
    with hosts("a", "b") as (a, b):
        channel = a.channels.need("b", STALL_S)
        a.diary.next("lost")
        eventually(lambda: a.wires("b") == b.wires("a") == 1)
        assert (channel._reserved, b.channels._channel("a")._reserved) == ({}, {})
        a.channels.release("b")


def test_a_channel_is_not_forgotten_while_somebody_begins_to_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    need, a = Channel.need, Host("a")

    def with_another_table(self: Channel, stall_s: float) -> None:
        meanwhile = threading.Thread(target=a.know)  # nobody: the peer is not trusted any more
        meanwhile.start()
        meanwhile.join(0.1)  # it may have to wait
        need(self, stall_s)
        threads.append(meanwhile)

    threads: list[threading.Thread] = []
    monkeypatch.setattr(Channel, "need", with_another_table)
    try:
        a.channels.need("b", STALL_S)
        a.channels.release("b")
        for thread in threads:
            thread.join()
    finally:
        a.close()
