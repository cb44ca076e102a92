"""One object from many donors (SPEC K11): each piece is checked, and a donor that fails costs only itself."""

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import msgpack
import pytest

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import DonorLost, PiecesJob, TransferDone, TransferFailed
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    REQUEST_PREFIX,
    GetRequest,
    Header,
    Kind,
    decode_header,
    encode_header,
    encode_request,
)
from intellectd.kernels.digest import leaf_hash
from tests.daemon.bulk_swarm import Events, Outsider, closed, read_exactly, swarm, transfer_id, trust_all
from tests.daemon.channel_hosts import eventually

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

PIECE = 64 * 1024  # smaller than a real one, so that there are many in little time
OBJECT = b"".join(bytes([n % 251]) * PIECE for n in range(40)) + b"the rest"
BORDERS = (*range(0, len(OBJECT), PIECE), len(OBJECT))
HASHES = tuple(leaf_hash(OBJECT[a:b]) for a, b in itertools.pairwise(BORDERS))


@dataclass
class Asker:
    donors: tuple[str, ...]
    have: tuple[int, ...] = ()
    stall_s: float = 15.0
    into: bytearray = field(default_factory=lambda: bytearray(len(OBJECT)))
    came: list[int] = field(default_factory=list)
    events: Events = field(default_factory=Events)

    def start(self, engine: Engine) -> Events:
        for piece in self.have:
            self.into[BORDERS[piece] : BORDERS[piece + 1]] = OBJECT[BORDERS[piece] : BORDERS[piece + 1]]
        job = PiecesJob(
            transfer_id("it"),
            self.donors,
            "it",
            memoryview(self.into),
            BORDERS,
            HASHES,
            self.have,
            self.came.append,
            self.stall_s,
            60.0,
        )
        engine.start_pieces(job, self.events)
        return self.events

    def end(self) -> tuple[TransferDone | TransferFailed, list[DonorLost]]:
        lost = []
        while True:
            event = self.events.inbox.get(timeout=20)
            if isinstance(event, TransferDone | TransferFailed):
                return event, lost
            if isinstance(event, DonorLost):
                lost.append(event)


@dataclass
class Donor:
    """Counts what it is asked for; `spoil` changes what it serves."""

    spoil: Callable[[bytes], bytes] = bytes
    asked: int = 0

    def serve(self, _peer: str, name: str) -> memoryview | None:
        self.asked += 1
        return memoryview(self.spoil(OBJECT)) if name == "it" else None


def test_all_donors_bring_their_part() -> None:
    donors = {name: Donor() for name in "abc"}
    asker, all_asked = Asker(tuple(donors)), threading.Barrier(len(donors), timeout=20)
    with swarm("asker", *donors) as engines:

        def serve(donor: Donor, peer: str, name: str) -> memoryview | None:
            found = donor.serve(peer, name)
            if donor.asked == 1:
                all_asked.wait()  # or two might have brought all before the third was dialled
            return found

        for name, donor in donors.items():
            engines[name].serve(partial(serve, donor))
        asker.start(engines["asker"])
        end, lost = asker.end()
    assert isinstance(end, TransferDone), end
    assert bytes(asker.into) == OBJECT and not lost
    assert sorted(asker.came) == list(range(len(HASHES)))
    assert all(donor.asked for donor in donors.values())


def test_one_donor_is_enough_and_a_connection_serves_many_ranges() -> None:
    asker, dialled = Asker(("a",)), []
    with swarm("asker", "a") as engines:
        engines["a"].serve(Donor().serve)
        accept = engines["a"]._dispatch
        engines["a"]._listener._dispatch = lambda link, request: (dialled.append(request), accept(link, request))[1]
        asker.start(engines["asker"])
        end, _lost = asker.end()
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT
    assert len(dialled) == 1


def test_what_is_here_is_not_fetched_again() -> None:
    have = tuple(range(0, len(HASHES), 2))
    asker = Asker(("a",), have)
    with swarm("asker", "a") as engines:
        engines["a"].serve(Donor().serve)
        asker.start(engines["asker"])
        end, _lost = asker.end()
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT
    assert sorted(asker.came) == [piece for piece in range(len(HASHES)) if piece not in have]
    assert end.received_bytes < 0.6 * len(OBJECT)


def test_nothing_is_missing_of_what_is_all_here() -> None:
    asker = Asker(("a",), tuple(range(len(HASHES))))
    with swarm("asker") as engines:
        asker.start(engines["asker"])
        end, _lost = asker.end()
    assert isinstance(end, TransferDone) and end.received_bytes == 0


def test_a_donor_of_garbage_is_named_and_its_pieces_come_from_elsewhere() -> None:
    bad = Donor(spoil=lambda true: bytes(len(true)))
    asker = Asker(("bad", "good"))
    with swarm("asker", "bad", "good") as engines:
        engines["bad"].serve(bad.serve)
        engines["good"].serve(Donor().serve)
        asker.start(engines["asker"])
        end, lost = asker.end()
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT
    assert [(event.peer, "not the one that is proven" in event.reason) for event in lost] in ([("bad", True)], [])
    assert lost or not bad.asked  # if it was asked at all, it was found out


def test_without_an_honest_donor_it_ends_with_what_each_did_and_what_was_right_is_kept() -> None:
    def half_right(true: bytes) -> bytes:
        return true[: len(true) // 2] + bytes(len(true) - len(true) // 2)

    asker = Asker(("bad", "none"))
    with swarm("asker", "bad", "none") as engines:
        engines["bad"].serve(Donor(half_right).serve)
        engines["none"].serve(lambda _peer, _name: None)
        asker.start(engines["asker"])
        end, _lost = asker.end()
    assert isinstance(end, TransferFailed) and end.suspect is None
    assert "bad broke the protocol" in end.reason and "none: it has no it" in end.reason
    assert asker.came and all(
        asker.into[BORDERS[p] : BORDERS[p + 1]] == OBJECT[BORDERS[p] : BORDERS[p + 1]] for p in asker.came
    )


def test_a_donor_that_vanishes_is_done_without() -> None:
    asker, gone = Asker(("a", "b")), threading.Event()
    with swarm("asker", "a", "b") as engines:
        first = Donor()

        def serve(peer: str, name: str) -> memoryview | None:
            gone.wait(20)
            return first.serve(peer, name)

        engines["a"].serve(serve)
        engines["b"].serve(Donor().serve)
        asker.start(engines["asker"])
        eventually(lambda: bool(asker.came))
        gone.set()
        engines["a"].close()
        end, lost = asker.end()
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT and not lost


def test_a_donor_that_comes_later_takes_part() -> None:
    asker, gate, late = Asker(("a",)), threading.Event(), Donor()
    with swarm("asker", "a", "late") as engines:

        def serve(_peer: str, _name: str) -> memoryview:
            gate.wait(20)
            return memoryview(OBJECT)

        engines["a"].serve(serve)
        engines["late"].serve(late.serve)
        asker.start(engines["asker"])
        engines["asker"].offer(transfer_id("it"), ("late", "a", "late"))
        engines["asker"].offer(transfer_id("another"), ("late",))
        eventually(lambda: len(asker.came) >= len(HASHES) - 1)  # all but what is asked of a
        gate.set()
        end, lost = asker.end()
        engines["asker"].offer(transfer_id("it"), ("late",))
    assert isinstance(end, TransferDone) and bytes(asker.into) == OBJECT and not lost
    assert late.asked


def test_an_abort_ends_it_and_nothing_is_touched_after() -> None:
    asker, gate = Asker(("a",)), threading.Event()
    with swarm("asker", "a") as engines:

        def serve(_peer: str, _name: str) -> memoryview:
            gate.wait(20)
            return memoryview(OBJECT)

        engines["a"].serve(serve)
        asker.start(engines["asker"])
        engines["asker"].abort(transfer_id("it"))
        end, _lost = asker.end()
        gate.set()
    assert isinstance(end, TransferFailed) and end.reason == "it was aborted here"
    assert not any(asker.into)


def test_a_job_that_does_not_fit_together_is_refused() -> None:
    with swarm("asker") as engines:
        into = memoryview(bytearray(10))
        for borders, hashes in (((0, 9), (b"",)), ((0, 10), ()), ((0, 5, 10), (b"",)), ((), ())):
            job = PiecesJob(transfer_id("it"), ("a",), "it", into, borders, hashes, (), print, 1.0, 1.0)
            with pytest.raises(ValueError, match="do not make 10 bytes"):
                engines["asker"].start_pieces(job, print)


# ---- the serving side


def asked_twice(first: GetRequest, second: bytes) -> Iterator[bytes]:
    """What a donor says to two requests sent at once, as (header, payload) and so on."""
    with swarm("donor") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        engines["donor"].serve(Donor().serve)
        connection = outsider.dial(engines["donor"].endpoint, encode_request(first) + second)
        yield read_exactly(connection, HEADER_BYTES + first.length + HEADER_BYTES)
        yield b"" if closed(connection) else b"more"


def test_ranges_asked_for_one_behind_the_other_are_answered_in_turn() -> None:
    with swarm("donor") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        engines["donor"].serve(Donor().serve)
        asks = [GetRequest("it", 5 * n, 5) for n in range(3)]
        connection = outsider.dial(engines["donor"].endpoint, b"".join(map(encode_request, asks)))
        for ask in asks:
            header = decode_header(read_exactly(connection, HEADER_BYTES))
            assert (header.kind, header.length) == (Kind.OBJECT, 5)
            assert read_exactly(connection, 5) == OBJECT[ask.offset : ask.offset + 5]
            assert decode_header(read_exactly(connection, HEADER_BYTES)).kind is Kind.END


@pytest.mark.parametrize(
    "second",
    [
        REQUEST_PREFIX.pack(0),
        REQUEST_PREFIX.pack(1025) + bytes(1025),
        REQUEST_PREFIX.pack(4) + b"\xc1\xc1\xc1\xc1",
        REQUEST_PREFIX.pack(1) + msgpack.packb(None),
        encode_header(Header(Kind.END)),
    ],
)
def test_garbage_behind_a_request_costs_the_connection(second: bytes) -> None:
    first, rest = asked_twice(GetRequest("it", 0, 9), second)
    assert first[HEADER_BYTES:-HEADER_BYTES] == OBJECT[:9]
    assert rest == b""
