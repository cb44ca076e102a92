"""Collectives that fail (D10): each member ends in time, blames the right one, and leaves its input alone."""

import socket
import struct
import threading
from dataclasses import replace

import pytest

from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.frames import Kind
from intellectd.daemon.bulk.interface import TransferFailed
from intellectd.daemon.bulk.neighbour import Neighbour
from intellectd.daemon.bulk.sockets import join_address
from tests.daemon.bulk_swarm import Case, Events, swarm, transfer_id, trust_all
from tests.daemon.channel_hosts import WAIT_S, eventually
from tests.daemon.puppet import Puppet, with_puppet

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

# Of tests in which somebody falls silent: long enough for the honest threads of one member on a busy machine, and of
# several, of which each has to be heard in time.
STALL_S, STALL_OF_MANY_S = 1.5, 2.5
GROUP = 16384
FP32 = {"codec": "fp32", "elements": 2 * GROUP}  # in two: one chunk each


def blamed(events: dict[str, Events]) -> dict[str, tuple[str | None, bool]]:
    ends = {member: inbox.failed() for member, inbox in events.items()}
    return {member: (end.suspect, end.silent) for member, end in ends.items()}


@pytest.mark.parametrize(("schedule", "shape"), [("ring", ()), ("direct", ()), ("torus", (2,))])
def test_a_member_that_dies_is_blamed_by_all_and_not_for_silence(schedule: str, shape: tuple[int, ...]) -> None:
    case = Case(("a", "b", "c", "x"), schedule=schedule, shape=shape)
    before = [bytes(delta) for delta in case.deltas]
    with with_puppet(case) as (_engines, events, x):
        x.meet()
        x.chunk()
        x.die()
        assert blamed(events) == dict.fromkeys("abc", ("x", False))
    assert [bytes(delta) for delta in case.deltas] == before


def begun_by_acquaintances(engines: dict[str, Engine], case: Case) -> dict[str, Events]:
    """Connections stand between the honest: to make them takes time, of which a stall has little."""
    before = Case(tuple(engines), name="before")
    for events in [before.start(engine, member) for member, engine in engines.items()]:
        events.done()
    return {member: case.start(engine, member) for member, engine in engines.items()}


def test_a_member_that_falls_silent_is_blamed_by_all() -> None:
    case = Case(("a", "b", "c", "x"), stall_s=STALL_OF_MANY_S)
    with with_puppet(case, start=False) as (engines, _events, x):
        events = begun_by_acquaintances(engines, case)
        x.go("a", "c")
        assert blamed(events) == dict.fromkeys("abc", ("x", True))


def test_a_member_that_never_comes_is_blamed_by_all() -> None:
    case = Case(("a", "b", "c", "x"), stall_s=STALL_OF_MANY_S)
    with with_puppet(case, start=False) as (engines, _events, _x):
        events = begun_by_acquaintances(engines, case)
        ends = {member: inbox.failed() for member, inbox in events.items()}
    assert {member: (end.suspect, end.silent) for member, end in ends.items()} == dict.fromkeys("abc", ("x", True))
    assert any("did not take part" in end.reason for end in ends.values())


def alive_until_the_end(x: Puppet, events: Events) -> TransferFailed:
    """It says again and again that it lives."""
    pause = threading.Event()
    while True:
        while not events.inbox.empty():
            if isinstance(end := events.inbox.get(), TransferFailed):
                return end
        x.say("a", Kind.WAITING)
        pause.wait(STALL_S / 16)


def test_a_neighbour_that_lives_and_takes_nothing_ends_it() -> None:
    # 32 MiB to x: more than the kernel holds between two sockets of which one is not read.
    case = Case(("a", "x"), codec="fp32", elements=2**24, stall_s=STALL_S)
    with with_puppet(case) as (_engines, events, x):
        x.diary.gate.clear()
        x.go("a")
        end = alive_until_the_end(x, events["a"])
    # Its kernel takes something of each new connection, so whichever of the two is found first.
    assert end.silent and (end.suspect, "took nothing" in end.reason) in (("x", True), (None, False))
    assert "took nothing" in end.reason or "no chunk has come" in end.reason


def test_alive_but_starved_is_nobodys_fault() -> None:
    case = Case(("a", "x"), stall_s=STALL_S, **FP32)
    with with_puppet(case) as (_engines, events, x):
        x.meet()
        end = alive_until_the_end(x, events["a"])
        assert end.suspect is None and end.silent and "no chunk has come" in end.reason
        # Whoever was only waiting is not told to suspect anybody either.
        header, named = x.hear(Kind.ABORT)
    assert (header.flag, named) == (1, b"")


def test_a_port_that_refuses_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("intellectd.daemon.bulk.channel.REFUSED_S", 0.1)
    case = Case(("a", "b"))
    with swarm("a") as engines:
        gone = Engine("b", "127.0.0.1:0")
        trust_all(engines, b=gone.endpoint)
        gone.close()
        end = case.start(engines["a"], "a").failed()
    assert (end.suspect, end.silent) == ("b", False)
    assert "refused" in end.reason


def test_a_neighbour_whose_address_is_a_wrong_one_may_dial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a router, or with a container's address: where a dials somebody else's port refuses."""
    monkeypatch.setattr("intellectd.daemon.bulk.channel.DIAL_PATIENCE_S", 0.1)
    monkeypatch.setattr("intellectd.daemon.bulk.channel.REFUSED_S", WAIT_S)
    case = Case(("a", "b"))
    with swarm("a", "b") as engines, socket.create_server(("127.0.0.1", 0)) as other:
        wrong = replace(engines["b"].endpoint, address=join_address(*other.getsockname()))
        other.close()
        engines["a"].trust({"b": wrong})
        events = [case.start(engines[member], member) for member in case.members]
        assert all(inbox.done() for inbox in events)


def test_a_neighbour_without_an_endpoint_is_named() -> None:
    case = Case(("a", "b"), stall_s=STALL_S)
    with swarm("a") as engines:
        end = case.start(engines["a"], "a").failed()
    assert (end.suspect, end.silent) == ("b", True)
    assert "no endpoint" in end.reason


def test_an_engine_that_closes_says_that_it_is_the_one_who_leaves() -> None:
    case = Case(("a", "b", "c", "x"))
    with with_puppet(case) as (engines, events, x):
        x.meet()
        x.chunk()
        all_have_met(engines)
        engines["c"].close()
        _header, named = x.hear(Kind.ABORT, peer="a")  # who has heard it from b
        assert named == b"c"
        assert blamed(events) == {"a": ("c", False), "b": ("c", False), "c": (None, False)}


def neighbours(engine: Engine) -> list[Neighbour]:
    return [n for collective in engine._collectives._running.values() for n in collective._books.neighbours.values()]


def all_have_met(engines: dict[str, Engine]) -> None:
    eventually(lambda: all(n.met for engine in engines.values() for n in neighbours(engine)))


def test_abort_ends_it_everywhere_and_blames_nobody() -> None:
    """SPEC N4: its end is told to whoever aborted it, too."""
    case = Case(("a", "b", "c", "x"))
    before = [bytes(delta) for delta in case.deltas]
    with with_puppet(case) as (engines, events, x):
        x.meet()
        all_have_met(engines)
        engines["b"].abort(transfer_id(case.name))
        engines["b"].abort(transfer_id(case.name))  # twice is once
        ends = {member: inbox.failed() for member, inbox in events.items()}
        outs = [bytes(out) for out in case.outs]
        late = [x.send("a", chunk.index, 0, x.own(chunk.index)) for chunk in x.plan.chunks]
        assert all(sent.done.wait(WAIT_S) for sent in late)
        x.ask("a"), x.say("a", Kind.GO, 1, bytes(8))
        x.hear(Kind.GONE)  # what was sent before has been read
        assert [bytes(out) for out in case.outs] == outs  # nothing was touched after the event
    assert ends["b"].reason == "it was aborted here"
    assert all(end.suspect is None and not end.silent for end in ends.values())
    assert [bytes(delta) for delta in case.deltas] == before


def test_an_abort_that_names_a_stranger_or_oneself_makes_nobody_suspect() -> None:
    for named, reason in ((b"stranger", "nobody"), (b"\xff\xfe", "nobody"), (b"a", "this host")):
        case = Case(("a", "x"))
        with with_puppet(case) as (_engines, events, x):
            x.meet()
            x.say("a", Kind.ABORT, 1, named)
            end = events["a"].failed()
        assert end.suspect is None and f"it suspects {reason}" in end.reason


def test_an_abort_that_names_a_member_is_believed_and_passed_on() -> None:
    case = Case(("a", "b", "x"), schedule="direct")
    with with_puppet(case) as (engines, events, x):
        x.meet()
        all_have_met(engines)
        x.say("a", Kind.ABORT, 0, b"b")
        assert blamed(events)["a"] == ("b", False)
        assert x.hear(Kind.ABORT, peer="a")[1] == b"b"


def test_who_gave_up_before_it_could_say_anything_is_not_blamed_for_its_silence() -> None:
    case = Case(("a", "b", "x"), stall_s=STALL_OF_MANY_S)
    with with_puppet(case, start=False) as (engines, _events, x):
        events = case.start(engines["a"], "a")
        eventually(lambda: len(neighbours(engines["a"])) == 2)
        x.say("a", Kind.ABORT, 0, b"b")
        end = events.failed()
    assert end.suspect == "b"


def test_the_deadline_ends_one_that_moves() -> None:
    case = Case(("a", "x"))
    with with_puppet(case) as (engines, events, x):
        x.meet()
        (collective,) = engines["a"]._collectives._running.values()
        collective.transfer.deadline = now_s()
        end = events["a"].failed()
    assert (end.suspect, end.silent) == (None, True) and "deadline" in end.reason


RING = Case(("a", "x"), **FP32)  # chunk 0 is a's, chunk 1 is x's
SIZE = len(RING.deltas[0]) // 2


@pytest.mark.parametrize(
    ("chunk", "step", "length"),
    [
        (2, 0, SIZE),
        (2**32 - 1, 0, SIZE),
        (0, 1, SIZE),  # its result is a's to say
        (0, 2, SIZE),
        (0, 65_535, SIZE),
        (1, 0, SIZE),  # a sends it
        (0, 0, SIZE + 4),
        (0, 0, 0),
        (1, 1, SIZE),  # a's part of it has not left: x takes nothing
    ],
)
def test_chunks_that_no_plan_allows_cost_the_connection(chunk: int, step: int, length: int) -> None:
    case = Case(("a", "x"), **FP32)
    with with_puppet(case) as (engines, events, x):
        x.ask("a")
        x.hear(Kind.GO, 0)
        x.send("a", chunk, step, bytes(length))
        _lost, peer, _reason, _refused = x.diary.next("lost")
        assert peer == "a"
        eventually(lambda: engines["a"]._channels.offences() == {"x": 1})
        if (chunk, step) == (1, 1):
            assert events["a"].failed().suspect == "x"
            return
        # Nobody signed for such a header, so the collective goes on.
        x.go("a")
        x.finish("a")
        events["a"].done()


def test_a_chunk_from_the_wrong_member_costs_it_the_connection() -> None:
    case = Case(("a", "x", "b"), **FP32)
    with with_puppet(case) as (engines, _events, x):
        x.meet()
        x.ask("a")
        if "a" not in x.epochs:  # a has asked x for its GO
            x.hear(Kind.WAITING, peer="a")
        x.ready["a"] = x.epochs["a"]
        x.send("a", 0, 1, x.own(0))  # b's to send
        assert x.diary.next("lost")[1] == "a"
        eventually(lambda: engines["a"]._channels.offences() == {"x": 1})
        assert [n.peer for n in neighbours(engines["a"])] == ["x", "b"]  # it goes on


def test_chunks_of_an_unknown_transfer_are_dropped() -> None:
    case = Case(("a", "x"), **FP32)
    with with_puppet(case) as (engines, events, x):
        x.meet()
        known, x.key = x.key, x.key ^ 1
        x.send("a", 0, 0, x.own(0))
        x.key = known
        x.finish("a")
        events["a"].done()
        assert engines["a"]._channels.offences() == {}


NAN, INF = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))


@pytest.mark.parametrize(
    ("case", "chunk", "step", "what"),
    [
        (Case(("a", "x"), **FP32), 0, 0, "partial sum"),
        (Case(("a", "x"), **FP32), 1, 1, "result"),
        (Case(("a", "x"), **FP32, schedule="direct"), 0, 1, "part it sent"),
        (Case(("a", "x"), **FP32, schedule="direct"), 1, 2, "result"),
    ],
)
def test_what_is_not_finite_is_its_senders_fault(case: Case, chunk: int, step: int, what: str) -> None:
    case = Case(case.members, case.codec, case.elements, schedule=case.schedule)
    with with_puppet(case) as (_engines, events, x):
        x.meet()
        x.chunk()  # a's part has left
        x.send("a", chunk, step, NAN * (SIZE // 4))
        end = events["a"].failed()
        assert x.hear(Kind.ABORT)[1] == b"x"
    assert (end.suspect, end.silent) == ("x", False)
    assert what in end.reason and "not finite" in end.reason


def test_a_rows_sum_that_is_not_finite_is_its_senders_fault() -> None:
    # Rows (x, b) and (c, a): what a gets from b, in its own column, is the other row's sum.
    case = Case(("b", "x", "c", "a"), codec="fp32", elements=4 * GROUP, schedule="torus", shape=(2,))
    with with_puppet(case) as (engines, events, x):
        x.meet()
        all_have_met(engines)
        x.send("b", 0, 0, x.own(0)), x.send("b", 2, 0, x.own(2))  # or b would wait for them, and hear c no more
        x.send("a", 3, 1, INF * GROUP)  # a owns chunk 3
        ends = {member: inbox.failed() for member, inbox in events.items()}
    assert ends["a"].suspect == ends["b"].suspect == ends["c"].suspect == "x"
    assert "row's sum" in ends["a"].reason and "not finite" in ends["a"].reason


@pytest.mark.parametrize("schedule", ["ring", "direct"])
def test_a_host_whose_own_delta_is_not_finite_tells_its_neighbours_so(schedule: str) -> None:
    case = Case(("a", "x"), **FP32, schedule=schedule)
    case.deltas[0][:] = INF * (len(case.deltas[0]) // 4)
    with with_puppet(case) as (_engines, events, x):
        if schedule == "direct":
            x.meet()
            x.send("a", 0, 1, x.own(0))
        else:
            x.go("a")  # who is offered no more than that
        assert x.hear(Kind.ABORT)[1] == b"a"
        end = events["a"].failed()
    assert end.suspect is None and "its own delta is not finite" in end.reason


def test_a_callback_that_raises_fails_its_collective_and_nothing_else() -> None:
    case, ended = Case(("a", "b")), Events()

    def on_event(event: object) -> None:
        if not isinstance(event, TransferFailed):
            raise RuntimeError("the app is confused")
        ended(event)

    with swarm("a", "b") as engines:
        engines["a"].start_collective(case.job("a"), on_event)
        case.start(engines["b"], "b").end()  # well, if it had all it needs by then
        assert "the app is confused" in ended.failed().reason
        again = Case(("a", "b"), name="again")
        events = [again.start(engines[member], member) for member in again.members]
        assert all(inbox.done() for inbox in events)
