"""Hosts that fetch the same object serve each other what they hold of it (SPEC K9, K11), long before they have all."""

import threading
from dataclasses import dataclass, field

import pytest

from intellectd.daemon.bulk import piece_fetch
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import PiecesJob, TransferDone, TransferFailed
from intellectd.protocol import pieces
from tests.daemon.bulk_swarm import STALL_S, Events, swarm, transfer_id
from tests.daemon.channel_hosts import eventually
from tests.daemon.test_bulk_pieces import BORDERS, HASHES, OBJECT, PIECE, Donor

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

PIECES = len(HASHES)
# Questions of the five what another holds while the donor gives one piece: each learns of it within a few pieces.
LOOKS_A_PIECE = 3


@dataclass
class Fellow:
    """Fetches "it" and gives away what it has of it."""

    name: str
    have: tuple[int, ...] = ()
    lies: bool = False  # it says that it has all
    began: bool = True
    asked: list[str] = field(default_factory=list)
    into: bytearray = field(default_factory=lambda: bytearray(len(OBJECT)))
    events: Events = field(default_factory=Events)

    def __post_init__(self) -> None:
        self.came = set(self.have)
        for piece in self.have:
            self.into[BORDERS[piece] : BORDERS[piece + 1]] = OBJECT[BORDERS[piece] : BORDERS[piece + 1]]

    def serve(self, peer: str, name: str) -> memoryview | None:
        self.asked.append(name)
        if not self.began:
            return None
        if name == "held":
            bits = sum(1 << piece for piece in (range(PIECES) if self.lies else list(self.came)))
            return memoryview(bits.to_bytes(-(-PIECES // 8), "little"))
        return memoryview(self.into)

    def start(self, engine: Engine, donors: tuple[str, ...], fellows: tuple[str, ...], first: int = 0) -> None:
        engine.serve(self.serve)
        job = PiecesJob(
            transfer_id("it"),
            donors,
            "it",
            memoryview(self.into),
            BORDERS,
            HASHES,
            self.have,
            self.came.add,
            STALL_S,
            60.0,
            fellows,
            "held",
            first,
        )
        engine.start_pieces(job, self.events)

    def end(self) -> TransferDone | TransferFailed:
        while True:
            event = self.events.inbox.get(timeout=20)
            if isinstance(event, TransferDone | TransferFailed):
                return event


def test_two_that_have_half_each_make_each_other_whole_without_any_donor() -> None:
    a, b = Fellow("a", tuple(range(20))), Fellow("b", tuple(range(20, PIECES)))
    with swarm("a", "b") as engines:
        a.start(engines["a"], (), ("b",))
        b.start(engines["b"], (), ("a",))
        assert isinstance(a.end(), TransferDone) and isinstance(b.end(), TransferDone)
    assert bytes(a.into) == OBJECT == bytes(b.into)


@pytest.mark.slow
def test_many_that_join_at_once_ask_the_donor_for_far_less_than_all_of_it_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes to one comes to all, while the donor's uplink is what there is least of: so slow that meanwhile they
    look at each other, however long that takes on a busy machine."""
    monkeypatch.setattr(pieces, "LOOK_S", 0.02)
    fellows, served, uplink = [Fellow(name) for name in "abcde"], list[int](), threading.Lock()

    def looks() -> int:
        return sum(fellow.asked.count("held") for fellow in fellows)

    class Counted:
        nbytes = len(OBJECT)

        def part(self, start: int, stop: int) -> memoryview:
            with uplink:
                until = looks() + LOOKS_A_PIECE
                eventually(lambda: looks() >= until or all(len(fellow.came) == PIECES for fellow in fellows))
            served.append(min(stop - start, PIECE))
            return memoryview(OBJECT)[start : start + served[-1]]

    with swarm(*"abcde", "donor") as engines:
        engines["donor"].serve(lambda _peer, _name: Counted())
        for number, fellow in enumerate(fellows):
            others = tuple(other.name for other in fellows if other is not fellow)
            fellow.start(engines[fellow.name], ("donor",), others, number * PIECES // 5)
        ends = [fellow.end() for fellow in fellows]
    assert all(bytes(fellow.into) == OBJECT for fellow in fellows)
    assert all(isinstance(end, TransferDone) for end in ends)
    assert sum(served) < 2.5 * len(OBJECT), "each piece goes to one or two, not to five"


def test_one_that_has_not_begun_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_fetch, "BUSY_AGAIN_S", 0.05)
    a, b = Fellow("a"), Fellow("b", tuple(range(PIECES)), began=False)
    with swarm("a", "b") as engines:
        engines["b"].serve(b.serve)
        a.start(engines["a"], (), ("b",))
        eventually(lambda: len(b.asked) > 2)
        b.began = True
        assert isinstance(a.end(), TransferDone)
    assert bytes(a.into) == OBJECT


def test_who_says_that_it_holds_what_it_does_not_is_found_out_and_another_brings_it() -> None:
    a, liar, donor = Fellow("a"), Fellow("liar", lies=True), Donor()
    with swarm("a", "liar", "donor") as engines:
        gate = threading.Event()

        def serve(peer: str, name: str) -> memoryview | None:
            gate.wait(20)
            return donor.serve(peer, name)

        engines["liar"].serve(liar.serve)
        engines["donor"].serve(serve)
        a.start(engines["a"], ("donor",), ("liar",))
        eventually(lambda: "it" in liar.asked)
        gate.set()
        assert isinstance(a.end(), TransferDone)
    assert bytes(a.into) == OBJECT


def test_those_that_wait_for_each_other_without_any_donor_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_fetch, "FELLOWS_ALONE_S", 1e9)
    a, b = Fellow("a", (1, 2, 3)), Fellow("b", (3, 4, 5))
    with swarm("a", "b") as engines:
        b_engine = engines["b"]
        b_engine.serve(b.serve)
        a.start(engines["a"], (), ("b",))
        eventually(lambda: a.came == {1, 2, 3, 4, 5})
        monkeypatch.setattr(piece_fetch, "FELLOWS_ALONE_S", 0.0)
        end = a.end()
    assert isinstance(end, TransferFailed) and "nobody" in end.reason
    assert a.came == {1, 2, 3, 4, 5}


def test_a_donor_that_has_no_room_is_waited_for_though_a_fellow_has_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_fetch, "FELLOWS_ALONE_S", 0.1)
    monkeypatch.setattr(piece_fetch, "BUSY_AGAIN_S", 0.5)
    a, b, donor, refused = Fellow("a"), Fellow("b"), Donor(), list[str]()
    with swarm("a", "b", "donor") as engines:
        server, enter = engines["donor"]._server, engines["donor"]._server._readers.enter

        def full_at_first(peer: str, now: float) -> object:
            refused.append(peer)
            return None if len(refused) == 1 else enter(peer, now)

        monkeypatch.setattr(server._readers, "enter", full_at_first)
        engines["donor"].serve(donor.serve)
        engines["b"].serve(b.serve)
        a.start(engines["a"], ("donor",), ("b",))
        assert isinstance(a.end(), TransferDone)
    assert bytes(a.into) == OBJECT and len(refused) > 1
