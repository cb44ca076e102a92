"""Collectives whose connections break (D9), and attempts that follow each other: nothing counts twice."""

import threading

import pytest

from intellectd.daemon.bulk.collective_plan import key_of
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.errors import Failure
from intellectd.daemon.bulk.frames import Header, Kind, Outgoing
from intellectd.daemon.bulk.limits import PARKED_PER_PEER_MAX
from intellectd.daemon.bulk.neighbour import EPOCH_OF_CHUNK, EPOCHS, Neighbour, Parcel, Way
from intellectd.daemon.bulk.pace import Pace
from tests.daemon.bulk_swarm import Case, swarm, transfer_id, trust_all
from tests.daemon.channel_hosts import eventually, takes_more
from tests.daemon.puppet import EPOCH, Puppet, sever_all, with_puppet

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

GROUP = 16384
CUTS = (0.1, 0.3, 0.5, 0.7)  # of the bytes that the slowest member has moved
STALL_S = 2.0  # of tests that wait for it to pass
MBIT = 160  # slow enough that the members move together: what is in sockets is little beside what is to come


def moved(engine: Engine) -> float:
    shares = [c._books.moved_bytes / c.plan.payload_bytes for c in engine._collectives._running.values()]
    return shares[0] if shares else 1.0


@pytest.mark.parametrize(
    ("count", "schedule", "shape"),
    [
        (2, "ring", ()),
        (2, "direct", ()),
        pytest.param(3, "ring", (), marks=pytest.mark.slow),
        pytest.param(4, "direct", (), marks=pytest.mark.slow),
        pytest.param(4, "torus", (2,), marks=pytest.mark.slow),
    ],
)
def test_connections_that_break_in_the_middle_change_nothing(count: int, schedule: str, shape: tuple[int, ...]) -> None:
    members = tuple(f"peer{i}" for i in range(count))
    quiet, case = (
        Case(members, "int8", 160 * GROUP * count, name, schedule=schedule, shape=shape) for name in ("quiet", "case")
    )
    with swarm(*members) as engines:
        for events in [quiet.start(engines[member], member) for member in members]:
            events.done()
    engines = {member: Engine(member, "127.0.0.1:0", pace=Pace(MBIT, 0)) for member in members}
    try:
        trust_all(engines)
        running = [case.start(engines[member], member) for member in members]
        for cut, member in zip(CUTS, members * 2, strict=False):
            eventually(lambda share=cut: min(map(moved, engines.values())) > share)
            sever_all(engines[member])
        for events in running:
            events.done()
    finally:
        for engine in engines.values():
            engine.close()
    assert case.outs == quiet.outs


def parcels(engine: Engine) -> list[Parcel]:
    (collective,) = engine._collectives._running.values()
    return [p for n in collective._books.neighbours.values() for p in list(n.parcels.values())]


def ways(engine: Engine) -> list[Way]:
    return [parcel.way for parcel in parcels(engine)]


def is_stuck(engine: Engine, x: Puppet) -> bool:
    """Nobody reads at the other end, the sockets are full, and a wire has one more in hand."""
    before, channel = ways(engine), engine._channels._channels[x.peer]
    threading.Event().wait(0.02)
    nobody_reads = x.arrived.at_gate >= len(channel.wires) and not takes_more(channel)
    return nobody_reads and Way.FILLED in before and ways(engine) == before


def test_a_chunk_that_is_asked_for_while_a_wire_has_it_in_hand_is_counted_once() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2**24)
    with with_puppet(case) as (engines, events, x):
        x.ask("a")
        x.hear(Kind.GO, 0)
        x.arrived.gate.clear()
        x.go("a")
        eventually(lambda: is_stuck(engines["a"], x))
        in_hand = [parcel for parcel in parcels(engines["a"]) if parcel.way is Way.FILLED]
        x.say("a", Kind.GO, 1, bytes(128))  # nothing has come
        eventually(lambda: not set(in_hand) & set(parcels(engines["a"])))  # others go in their stead
        x.diary.gate.set()
        x.finish("a")
        events["a"].done()


def test_chunks_and_words_of_an_earlier_attempt_are_not_heard() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (engines, events, x):
        x.meet()
        x.chunk()
        first = x.ready["a"]
        engines["a"].abort(transfer_id(case.name))
        x.hear(Kind.ABORT)
        events["a"].failed()
        x.begin_anew()
        again = case.start(engines["a"], "a")
        x.meet()
        assert x.ready["a"] == first + 1
        x.say("a", Kind.ABORT, 0, b"a", step=EPOCH)
        x.send("a", 0, 0, bytes(len(x.own(0))), epoch=first)  # all 0
        x.send("a", 7, 7, b"of another plan", epoch=first)
        x.finish("a")
        again.done()
        assert engines["a"]._channels.offences() == {}
        assert bytes(case.outs[0][: len(x.own(0))]) != bytes(case.deltas[0][: len(x.own(0))])
    other = Case(("a", "x"), codec="fp32", elements=2 * GROUP, name="other")
    with with_puppet(other) as (_engines, events, x):
        x.meet()
        x.finish("a")
        events["a"].done()
    assert other.outs[0] == case.outs[0]


def test_a_neighbour_that_begins_anew_gets_all_again_while_it_is_there() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case) as (_engines, events, x):
        x.meet()
        before = x.chunk()
        x.epoch += 1
        x.go("a")
        after = x.chunk()
        assert after[1] == before[1] and after[0].flag == before[0].flag + 1 == x.epoch & EPOCH_OF_CHUNK
        x.send("a", 1, 1, x.own(1))
        eventually(lambda: bytes(case.outs[0])[len(x.own(0)) :] == x.own(1))
        x.epoch += 1
        x.go("a")  # but its result is in its place now
        end = events["a"].failed()
    assert end.suspect is None and end.reason == "x has begun this transfer anew"


def test_who_begins_anew_again_and_again_does_not_fill_the_queue() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2**24)
    with with_puppet(case) as (engines, events, x):
        x.ask("a")
        x.hear(Kind.GO, 0)
        x.arrived.gate.clear()
        x.go("a")
        eventually(lambda: is_stuck(engines["a"], x))
        outbox = engines["a"]._channels._channels["x"].outbox
        for _attempt in range(50):
            x.epoch += 1
            x.go("a")
        eventually(lambda: neighbour_of(engines["a"]).ready == x.epoch)
        assert len(outbox._chunks) <= len(x.plan.chunks)
        x.diary.gate.set()
        x.finish("a")
        events["a"].done()


def neighbour_of(engine: Engine) -> Neighbour:
    (collective,) = engine._collectives._running.values()
    (found,) = collective._books.neighbours.values()
    return found


def test_a_go_before_the_plan_is_kept() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP)
    with with_puppet(case, start=False) as (engines, _events, x):
        x.go("a")
        eventually(lambda: len(engines["a"]._collectives._parked) == 1)
        events = case.start(engines["a"], "a")
        x.ready["a"] = x.hear(Kind.GO, 0)[0].step
        x.finish("a")
        events.done()


def test_what_is_kept_before_the_plan_is_bounded_and_an_abort_takes_it_back() -> None:
    case = Case(("a", "x"))
    with with_puppet(case, start=False) as (engines, _events, x):
        table = engines["a"]._collectives
        names = [f"unknown {number}" for number in range(2 * PARKED_PER_PEER_MAX)]
        others = [go_of(x, name) for name in names]
        eventually(lambda: ("x", others[-1]) in table._parked)
        assert list(table._parked) == [("x", key) for key in others[-PARKED_PER_PEER_MAX:]]
        x.key = others[-1]
        x.say("a", Kind.GO, payload=transfer_id(names[-1]), step=EPOCH - 1)  # of an attempt before, told late
        go_of(x, "one more")
        eventually(
            lambda: (
                len(table._parked) == PARKED_PER_PEER_MAX and ("x", key_of(transfer_id("one more"))) in table._parked
            )
        )
        assert table._parked["x", others[-1]].header.step == EPOCH
        x.say("a", Kind.ABORT)
        eventually(lambda: ("x", others[-1]) not in table._parked)


def go_of(x: Puppet, name: str) -> int:
    """It says GO of the transfer of that name to a; its key."""
    whole = transfer_id(name)
    x.to("a").tell(Header(Kind.GO, 0, EPOCH, 0, key_of(whole)), whole)
    return key_of(whole)


def test_a_strangers_go_before_the_plan_ends_nothing() -> None:
    case = Case(("a", "b"))
    others = Case(("a", "x"))  # of the same id
    with with_puppet(others, start=False) as (engines, _events, x), swarm("b") as more:
        trust_all({**engines, **more}, x=x.endpoint)
        x.go("a")
        eventually(lambda: len(engines["a"]._collectives._parked) == 1)
        events = [case.start(engine, peer) for peer, engine in {**engines, **more}.items()]
        assert all(inbox.done() for inbox in events)


def test_who_asks_for_more_of_what_has_ended_hears_so_and_ends_too() -> None:
    case = Case(("a", "x"), codec="fp32", elements=2 * GROUP, stall_s=STALL_S)
    with with_puppet(case) as (engines, events, x):
        x.meet()
        engines["a"].abort(transfer_id(case.name))
        events["a"].failed()
        x.say("a", Kind.GO, 1, bytes(1))
        gone, _payload = x.hear(Kind.GONE)
        assert (gone.flag, gone.step) == (0, x.ready["a"])
        x.begin_anew()
        again = case.start(engines["a"], "a")
        x.meet()
        x.say("a", Kind.GONE)
        end = again.failed()
    assert (end.suspect, end.reason) == (None, "x has ended this transfer")


def test_who_gave_up_before_the_other_began_says_so_and_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    before, case = Case(("a", "b"), name="before"), Case(("a", "b"), stall_s=STALL_S)
    with swarm("a", "b") as engines:
        for events in [before.start(engines[member], member) for member in before.members]:
            events.done()  # so that connections stand
        table = engines["a"]._collectives
        heard, on_control = list[Kind](), table.on_control

        def listening(peer: str, header: Header, payload: bytes) -> None:
            on_control(peer, header, payload)
            heard.append(header.kind)

        monkeypatch.setattr(table, "on_control", listening)
        case.start(engines["b"], "b")
        eventually(lambda: len(table._parked) == 1)
        engines["b"].abort(transfer_id(case.name))
        eventually(lambda: Kind.ABORT in heard)  # on another wire than what was said before it, perhaps
        end = case.start(engines["a"], "a").failed()
    assert (end.suspect, end.reason) == (None, "b has ended this transfer")


def test_what_has_ended_is_over_whatever_is_heard_of_it_late_and_a_new_attempt_is_not() -> None:
    why = Failure(None, "it has ended")
    neighbour = Neighbour(1, "x", 1, 1, Quiet(), 0.0, bytearray(1))
    assert neighbour.speaks_in(EPOCHS - 1) and neighbour.ends(EPOCHS - 1, why) and neighbour.why is why
    assert not neighbour.speaks_in(EPOCHS - 1) and not neighbour.speaks_in(EPOCHS - 2) and neighbour.why is why
    assert neighbour.speaks_in(0) and neighbour.why is None  # counted on, past the end
    assert not neighbour.ends(EPOCHS - 1, why) and neighbour.why is None


class Quiet:
    """A channel of which nothing is asked."""

    width = 1
    relay = ""

    def tell(self, header: Header, payload: bytes = b"") -> None:
        raise AssertionError("nothing is said")

    def send(self, item: Outgoing, *, first: bool = False) -> None:
        raise AssertionError("nothing is sent")

    def drop(self, transfer: int) -> None:
        raise AssertionError("nothing is dropped")

    def drop_chunks(self, transfer: int) -> None:
        raise AssertionError("nothing is dropped")
