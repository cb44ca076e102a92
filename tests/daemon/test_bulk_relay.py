"""Two members that nobody can dial, and a third where they meet. SPEC D11."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

from intellectd.daemon.bulk.bell import Stop
from intellectd.daemon.bulk.crew import Crew
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.errors import LinkLost, LinkSilent, WireError
from intellectd.daemon.bulk.interface import Endpoint
from intellectd.daemon.bulk.limits import CLOSE_S, RELAY_BUFFER_BYTES, RELAYS_MAX, RELAYS_PER_PEER_MAX
from intellectd.daemon.bulk.meeting import relays_of
from intellectd.daemon.bulk.relay import Pipes, Relay, _Pipe
from intellectd.daemon.bulk.wire import (
    Header,
    Kind,
    Refusal,
    RelayRequest,
    decode_header,
    decode_request,
    encode_request,
)
from tests.daemon.bulk_swarm import Case, trust_all
from tests.daemon.channel_hosts import WAIT_S, eventually

MEMBERS = ("a", "b", "r")
OPEN, HIDDEN = Endpoint("127.0.0.1:1", b""), Endpoint("", b"")


@contextmanager
def two_hidden() -> Iterator[dict[str, Engine]]:
    """a and b have no address; r has one."""
    engines = {peer: Engine(peer, "127.0.0.1:0", "" if peer == "r" else None) for peer in MEMBERS}
    try:
        trust_all(engines)
        yield engines
    finally:
        for engine in engines.values():
            engine.close()


def exchanged(engines: dict[str, Engine], name: str, schedule: str = "direct") -> Case:
    case = Case(MEMBERS, elements=16384 * 60, name=name, schedule=schedule)
    running = [case.start(engines[peer], peer) for peer in MEMBERS]
    for events in running:
        events.done()
    assert len({bytes(out) for out in case.outs}) == 1
    return case


@pytest.mark.parametrize("schedule", ["direct", "ring"])
def test_who_cannot_be_dialled_meets_at_a_relay_and_the_result_is_that_of_any_collective(schedule: str) -> None:
    with two_hidden() as engines:
        case = exchanged(engines, "hidden", schedule)
        pairs, passed = engines["r"].relayed()
        assert pairs == 1 and passed > len(case.outs[0]) / 3  # at least a slice of it
        assert [engine.relayed() for peer, engine in engines.items() if peer != "r"] == [(0, 0)] * 2
        exchanged(engines, "again", schedule)  # over the channel that stands
        assert engines["r"].relayed()[0] == 1
    with two_hidden() as engines:
        for peer, engine in engines.items():
            engine.trust(
                {p: Endpoint(e.endpoint.address, e.endpoint.certificate) for p, e in engines.items() if p != peer}
            )
        other = exchanged(engines, "open", schedule)
        assert other.outs == case.outs


class Liar(Pipes):
    """Of the first pair that it joins every byte is another one."""

    lies = True

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        if Liar.lies:
            Liar.lies = False
            self._pipes = tuple(LyingPipe(pipe.source, pipe.to) for pipe in self._pipes)  # type: ignore[assignment]


class LyingPipe(_Pipe):
    def read(self) -> int:
        at = self._stop
        count = super().read()
        for place in range(at, at + count):
            self._buffer[place] ^= 0xFF
        return count


def test_a_relay_that_changes_bytes_costs_time_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Liar, "lies", True)
    monkeypatch.setattr("intellectd.daemon.bulk.relay.Pipes", Liar)
    with two_hidden() as engines:
        table, seen = engines["a"]._collectives, list[str]()
        lost = table.on_lost

        def on_lost(peer: str, why: str, refused: bool) -> None:
            seen.append(why)
            lost(peer, why, refused)

        monkeypatch.setattr(table, "on_lost", on_lost)
        exchanged(engines, "lied")
        assert seen and not Liar.lies
        assert all(why.endswith("(through r)") for why in seen)
        assert engines["a"]._channels.offences() == {}


class Visitor:
    """A link, as far as a relay uses it."""

    def __init__(self, peer: str) -> None:
        self.peer, self.heard, self.is_closed = peer, list[Header](), False
        self._here, self.there = socket.socketpair()
        self.there.settimeout(WAIT_S)

    def hand_over(self, _stop: Stop | None, _deadline: float) -> None: ...

    def write_all(self, data: memoryview, _stall_s: float) -> None:
        self.heard.append(decode_header(bytes(data)))

    def detach(self) -> socket.socket:
        self._here.setblocking(False)
        return self._here

    def close(self) -> None:
        self.is_closed = True


def visits(relay: Relay, peer: str, to: str) -> Visitor:
    visitor = Visitor(peer)
    relay.accept(visitor, RelayRequest(to))  # type: ignore[arg-type]
    return visitor


@contextmanager
def relaying() -> Iterator[Relay]:
    crew = Crew()
    relay = Relay(crew, lambda peer: peer != "stranger")
    try:
        yield relay
    finally:
        relay.close()
        assert crew.join(CLOSE_S) == []


def test_who_waits_for_a_stranger_or_itself_or_beyond_the_room_is_refused() -> None:
    with relaying() as relay:
        for peer, to, why in (("a", "stranger", Refusal.UNKNOWN_PEER), ("a", "a", Refusal.UNKNOWN_PEER)):
            visitor = visits(relay, peer, to)
            assert visitor.is_closed and visitor.heard == [Header(Kind.REFUSED, flag=why)]
        waiting = [visits(relay, "a", f"to{number}") for number in range(RELAYS_PER_PEER_MAX)]
        assert not any(visitor.is_closed for visitor in waiting)
        late = visits(relay, "a", "another")
        assert late.is_closed and late.heard == [Header(Kind.REFUSED, flag=Refusal.BUSY)]
        again = visits(relay, "a", "to0")
        assert waiting[0].is_closed and not again.is_closed
        others = [visits(relay, f"peer{number}", "b") for number in range(RELAYS_MAX)]
        assert sum(visitor.is_closed for visitor in others) == RELAYS_PER_PEER_MAX


def test_the_lower_id_begins_and_their_bytes_are_counted() -> None:
    with relaying() as relay:
        b = visits(relay, "b", "a")
        assert b.heard == []
        a = visits(relay, "a", "b")
        assert [a.heard, b.heard] == [[Header(Kind.GO, flag=0)], [Header(Kind.GO, flag=1)]]
        assert relay.pairs() == [("b", "a")]
        a.there.sendall(b"to b")
        assert b.there.recv(9) == b"to b"
        b.there.sendall(b"to a!")
        assert a.there.recv(9) == b"to a!"
        eventually(lambda: relay.passed_bytes == 9)
        a.there.close()
        assert b.there.recv(9) == b""
        b.there.close()
        eventually(lambda: relay.pairs() == [])


def test_who_asks_anew_has_lost_what_joined_it_and_the_other_hears_it_at_once() -> None:
    """Its way to the relay died without a word; and two that ask over and over have no more room than one wire's."""
    with relaying() as relay:
        b, a = visits(relay, "b", "a"), visits(relay, "a", "b")
        assert relay.pairs() == [("b", "a")]
        for _again in range(RELAYS_MAX):
            waits = visits(relay, "a", "b")
            assert b.there.recv(9) == a.there.recv(9) == b"" and relay.pairs() == []
            a, b = waits, visits(relay, "b", "a")
            assert relay.pairs() == [("a", "b")] and not a.is_closed and not b.is_closed
        d, c = visits(relay, "d", "c"), visits(relay, "c", "d")
        assert relay.pairs() == [("a", "b"), ("d", "c")] and not c.is_closed and not d.is_closed


@pytest.mark.parametrize("error", [WireError("it said more"), LinkSilent("it took nothing"), LinkLost("it is gone")])
def test_who_cannot_be_joined_takes_no_room(error: Exception) -> None:
    """As one that speaks before it is joined: over and over, it would be the end of the relay."""

    class Unfit(Visitor):
        def detach(self) -> socket.socket:
            raise error

    with relaying() as relay:
        for _turn in range(RELAYS_MAX + 1):
            b, a = Unfit("b"), Visitor("a")
            relay.accept(b, RelayRequest("a"))  # type: ignore[arg-type]
            relay.accept(a, RelayRequest("b"))  # type: ignore[arg-type]
            assert a.is_closed and b.is_closed and relay.pairs() == []
        there = visits(relay, "b", "a"), visits(relay, "a", "b")  # whose connections end with them
        assert relay.pairs() == [("b", "a")] and len(there) == 2


def test_who_waited_too_long_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.relay.RELAY_WAIT_S", 0.0)
    with relaying() as relay:
        b = visits(relay, "b", "a")
        a = visits(relay, "a", "b")
        assert b.is_closed and not a.is_closed and a.heard == []


def test_the_pairs_take_those_who_can_be_dialled_in_turn() -> None:
    members = ("a", "b", "c", "d", "e")
    ends = {"a": HIDDEN, "b": OPEN, "c": HIDDEN, "d": OPEN, "e": HIDDEN}
    everybody = range(5)

    def others(me: int) -> list[int]:
        return [number for number in everybody if number != me]

    assert relays_of(members, 0, others(0), ends) == {"c": "b", "e": "b"}
    assert relays_of(members, 2, others(2), ends) == {"a": "b", "e": "b"}
    assert relays_of(members, 4, others(4), ends) == {"a": "b", "c": "b"}
    assert relays_of(members, 1, others(1), ends) == {}
    assert relays_of(("a", "c"), 0, [1], ends) == {}
    for me in everybody:
        for peer, relay in relays_of(members, me, others(me), ends).items():
            assert relays_of(members, members.index(peer), others(members.index(peer)), ends)[members[me]] == relay


@pytest.mark.parametrize("to", ["", 64 * "x" + "x", 7])
def test_a_request_names_a_peer(to: object) -> None:
    assert decode_request(encode_request(RelayRequest("b"))[2:]) == RelayRequest("b")
    with pytest.raises(WireError):
        decode_request(msgpack.packb({"v": 1, "op": "relay", "to": to}))


def test_what_one_side_does_not_take_is_not_read_from_the_other() -> None:
    (a, near), (far, b) = socket.socketpair(), socket.socketpair()
    for end in (a, near, far, b):
        end.setblocking(False)
    pipe = _Pipe(near, far)
    while sent(a, 65536):
        pass
    while pipe.read() or pipe.write():  # until b's socket is full, and the pipe too
        while sent(a, 65536):
            pass
    assert pipe.holds <= RELAY_BUFFER_BYTES and not pipe.has_room and sent(a, 1) == 0
    for end in (a, near, far, b):
        end.close()


def sent(end: socket.socket, count: int) -> int:
    try:
        return end.send(bytes(count))
    except BlockingIOError:
        return 0


def test_a_relay_that_is_gone_is_not_the_peers_end() -> None:
    with two_hidden() as engines:
        exchanged(engines, "first")
        engines["r"].close()
        eventually(lambda: engines["a"]._channels.wires().get("b") == 0)
