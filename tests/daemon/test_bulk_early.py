"""What goes before a neighbour has said that it is there (D7), and what a wire says first after a pause (D5)."""

import pytest

from intellectd.daemon.bulk.channel_wire import Wire
from intellectd.daemon.bulk.collective import Collective
from intellectd.daemon.bulk.collectives import Collectives
from intellectd.daemon.bulk.frames import Header, Kind
from intellectd.daemon.bulk.limits import MISSED_MAX
from intellectd.daemon.bulk.neighbour import EARLY, EPOCH_OF_CHUNK
from tests.daemon.bulk_swarm import Case, transfer_id
from tests.daemon.channel_hosts import STALL_S, Piece, eventually, hosts, piece
from tests.daemon.puppet import Puppet, with_puppet

GROUP = 16384


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that hold everything, and are known to."""
    monkeypatch.setattr(Collective, "_under_way", lambda *_: 1e9)


def early(x: Puppet, chunk: int) -> None:
    """Its part of the other's slice."""
    payload = x.own(chunk)
    x.to("a").send(Piece(Header(Kind.CHUNK, EARLY, 0, chunk, x.key, len(payload)), payload))


@pytest.mark.usefixtures("wide")
def test_what_went_before_a_neighbour_was_heard_counts_if_it_missed_nothing() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (_engines, events, x):
        x.ask("a")
        x.hear(Kind.GO, 0)
        header, _part = x.chunk()
        assert header.flag == EARLY
        x.go("a")
        x.send("a", 0, 0, x.own(0))
        assert x.chunk()[0].step == 1  # the result: the part did not go again
        x.send("a", 1, 1, x.own(1))
        events["a"].done()


@pytest.mark.usefixtures("wide")
def test_what_went_before_goes_again_to_whom_says_that_it_may_have_missed_it() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (_engines, events, x):
        x.ask("a")
        x.hear(Kind.GO, 0)
        first = x.chunk()
        x.say("a", Kind.GO, 3, transfer_id(case.name))
        again = x.chunk()
        assert again[1] == first[1] and again[0].flag == x.epoch & EPOCH_OF_CHUNK
        x.send("a", 0, 0, x.own(0))
        x.send("a", 1, 1, x.own(1))
        events["a"].done()


def test_nothing_goes_early_on_a_path_of_which_nothing_is_known() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (engines, events, x):
        x.meet()
        header, _part = x.chunk()
        assert header.flag == x.epoch & EPOCH_OF_CHUNK
        x.send("a", 0, 0, x.own(0))
        x.send("a", 1, 1, x.own(1))
        events["a"].done()
        assert engines["a"]._collectives._missed == {}


def test_early_chunks_that_came_before_the_plan_are_told_to_be_missed_and_later_ones_are_taken() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case, start=False) as (engines, _events, x):
        early(x, 0)
        eventually(lambda: "x" in engines["a"]._collectives._missed)
        events = case.start(engines["a"], "a")
        x.ready["a"] = x.hear(Kind.GO, 3)[0].step
        x.go("a")
        x.chunk()
        early(x, 0)
        assert x.chunk()[0].step == 1
        x.send("a", 1, 1, x.own(1))
        events.done()


def test_an_attempt_that_is_not_the_first_says_that_it_may_have_missed_something() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (engines, events, x):
        x.ask("a")
        x.hear(Kind.GO, 0)
        engines["a"].abort(transfer_id(case.name))
        events["a"].failed()
        again = case.start(engines["a"], "a")
        x.ready["a"] = x.hear(Kind.GO, 3)[0].step
        x.go("a")
        x.chunk()
        x.send("a", 0, 0, x.own(0))
        x.send("a", 1, 1, x.own(1))
        again.done()


def test_of_missed_transfers_no_more_are_kept_than_fit_and_then_any_counts_as_missed() -> None:
    table = Collectives()
    for transfer in range(1, MISSED_MAX + 1):
        assert not table.wants("x", Header(Kind.CHUNK, EARLY, transfer=transfer))
    kept = table._missed["x"]
    assert kept is not None and len(kept) == MISSED_MAX
    assert table._missed_of("x", 5) and not table._missed_of("x", 5) and not table._missed_of("x", MISSED_MAX + 9)
    for transfer in range(1, MISSED_MAX + 2):
        table.wants("x", Header(Kind.CHUNK, EARLY, transfer=transfer))
    assert table._missed == {"x": None} and table._missed_of("x", MISSED_MAX + 9)


def test_filling_after_a_pause_is_no_chunk_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.channel_wire.FILLED_AFTER_S", 0.0)
    monkeypatch.setattr(Wire, "congestion", lambda _: "bbr")
    with hosts("a", "b") as (a, b):
        channel = a.channels.need("b", STALL_S)
        a.diary.next("found")
        for number in range(3):
            channel.send(piece(b"what was meant", number))
        b.diary.await_chunks(3)
        assert b.diary.chunks == dict.fromkeys(range(3), b"what was meant")
        (wire,) = channel.wires
        assert wire.handed_bytes > 3 * 1024  # and the filling
