"""Connections that break again and again (D9): nothing goes twice for nothing, and nobody leaves while results may be
lost."""

import pytest

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.collective import Collective
from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import plan_of
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.frames import Header, Kind
from intellectd.daemon.bulk.limits import SETTLE_S
from intellectd.daemon.bulk.neighbour import Neighbour, Parcel, Way
from intellectd.daemon.bulk.schedules.program import Content, Send
from intellectd.daemon.bulk.transfer import Transfer
from tests.daemon.bulk_swarm import Case, transfer_id
from tests.daemon.channel_hosts import STALL_S, hosts
from tests.daemon.puppet import Puppet, sever, with_puppet

GROUP = 16384
PART, RESULT = 0b100, 0b010  # of the items that go to x in a ring of two: its slice's part, and the other's result


class Sends:
    """Parcels' own collective, which nothing here asks."""

    def fill(self, *_what: object) -> bool:
        raise AssertionError

    def moved(self, *_what: object) -> None:
        raise AssertionError

    def sent(self, *_what: object) -> None:
        raise AssertionError


class NoChannel:
    width = 1
    relay = ""

    def stall_after(self, stall_s: float) -> None: ...

    def tell(self, header: Header, payload: bytes = b"") -> None: ...

    def send(self, item: object, *, first: bool = False) -> None: ...

    def drop(self, transfer: int) -> None: ...

    def drop_chunks(self, transfer: int) -> None: ...


def neighbour_with(*ways: Way) -> Neighbour:
    """A parcel of each item."""
    found = Neighbour(1, "x", 0, len(ways), NoChannel(), 0.0, bytearray(1))
    for number, way in enumerate(ways):
        parcel = found.parcels[number] = Parcel(Sends(), found, Send(1, 0, 0, Content.OWN), number, 7, 1)
        parcel.way = way
    return found


def lacking(neighbour: Neighbour, bits: int, after_loss: bool) -> list[int]:
    return [parcel.number for parcel in neighbour.told(0, bytes([bits]), after_loss)[1]]


def test_what_went_after_the_last_loss_is_not_sent_again_but_when_asked_without_a_loss() -> None:
    x = neighbour_with(Way.SENT, Way.SENT, Way.FILLED, Way.QUEUED)
    x.breaks("reset")
    x.parcels[1].losses = x.losses  # taken by a wire that stands
    assert lacking(x, 0b0000, after_loss=True) == [0, 2]
    assert lacking(x, 0b0001, after_loss=True) == [2]
    assert lacking(x, 0b0001, after_loss=False) == [1, 2]
    x.breaks("reset")
    assert lacking(x, 0b0000, after_loss=True) == [0, 1, 2]


def test_it_is_sure_that_all_is_there_once_that_was_said_since_the_last_loss() -> None:
    x = neighbour_with(*8 * [Way.SENT])
    assert not x.unsure
    x.breaks("reset")
    lacking(x, 0b01111111, after_loss=True)
    assert x.unsure
    x.breaks("reset")
    lacking(x, 0b11111111, after_loss=True)
    assert not x.unsure
    y = neighbour_with(Way.QUEUED)
    y.breaks("nobody listens yet")
    assert not y.unsure


def test_items_that_there_are_not_are_no_items_and_leave_no_trace() -> None:
    x = neighbour_with(*8 * [Way.SENT])
    for first in (8, 2**32 - 1):
        with pytest.raises(WireError, match=f"item {first} of 8"):
            x.told(first, bytes(1), True)
    assert x.there == {}


def broken_before_the_end(x: Puppet) -> None:
    """All has come and gone, but a connection broke when a chunk was on its way."""
    x.meet()
    x.chunk()
    sever(x.to("a"))
    x.hear(Kind.WAITING, 2)
    x.send("a", 0, 0, x.own(0))  # its part of the other's slice
    x.send("a", 1, 1, x.own(1))  # the result of its own


def test_who_sent_results_over_connections_that_broke_stays_until_they_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.collective.SETTLE_S", 1e9)
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (_engines, events, x):
        broken_before_the_end(x)
        result, whole = x.chunk()
        assert (result.chunk, result.step) == (0, 1)
        x.hear(Kind.WAITING, 2)  # it has all, and wants to know
        sever(x.to("a"))
        x.hear(Kind.WAITING, 2)
        x.say("a", Kind.GO, 2, bytes([PART]))
        assert x.chunk() == (result, whole)
        x.say("a", Kind.GO, 2, bytes([PART | RESULT]))
        events["a"].done()


@pytest.mark.parametrize("flag", [0, 1])
def test_a_neighbour_that_has_ended_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, flag: int) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.collective.SETTLE_S", 1e9)
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (_engines, events, x):
        broken_before_the_end(x)
        x.hear(Kind.WAITING, 2)
        x.say("a", Kind.GONE, flag)
        events["a"].done()


def test_a_neighbour_that_does_not_say_what_came_is_waited_for_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.collective.SETTLE_S", 0.0)
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (_engines, events, x):
        broken_before_the_end(x)
        events["a"].done()


def test_who_has_ended_says_so_to_whom_it_left_unsure() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (_engines, events, x):
        x.meet()
        x.finish("a")
        events["a"].done()
        x.say("a", Kind.WAITING, 2, transfer_id(case.name))
        assert x.hear(Kind.GONE)[0].flag == 1


def test_a_peer_whose_wires_live_a_while_is_dialled_at_once_however_often_they_break(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.channel.WIRE_LIVES_S", 0.0)
    with hosts("a", "b") as (a, b):
        channel = a.channels.need("b", STALL_S)
        for _ in range(8):
            a.diary.next("found"), b.diary.next("found")
            sever(channel)
            assert a.diary.next("lost")[0] == "lost"
            assert channel._backoff_s == 0.0 and channel._due_s <= now_s()
        a.diary.next("found")


class Nobody:
    """Channels and a table that are not asked for anything."""

    def need(self, peer: str, stall_s: float) -> NoChannel:
        raise AssertionError

    def release(self, peer: str) -> None: ...

    def measured(self, peer: str) -> None:
        return None

    def parked(self, _collective: Collective) -> list[tuple[str, Header]]:
        return []

    def leave(self, _collective: Collective) -> None: ...


def test_the_time_to_settle_begins_anew_when_something_has_gone_again() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    plan = plan_of(case.job("a"), "a")
    transfer = Transfer(plan.transfer_id, STALL_S, 1e9, lambda _event: None)
    buffers = Buffers(plan, memoryview(case.deltas[0]).toreadonly(), memoryview(case.outs[0]))
    collective = Collective(plan, buffers, transfer, Nobody(), Nobody(), 1)
    books, x, now = collective._books, neighbour_with(Way.SENT), now_s()
    x.departures = 0
    x.breaks("reset")
    books.meet({"x": x})
    books._arrivals = books._departures = 0
    collective._look(now)
    books._departures = 1  # it has not come there, and goes again
    collective._look(now + 1.0)
    books._departures = 0
    collective._look(now + 2 * SETTLE_S)
    assert not books.over.is_set()
    collective._look(now + 3.5 * SETTLE_S)
    assert books.over.is_set() and transfer.failure is None
