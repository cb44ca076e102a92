"""One member's half of a collective, without connections: who holds a chunk, and whose fault it is (SPEC D10)."""

from typing import Any

import pytest
import torch

from intellectd.daemon.bulk.arrivals import Arrivals
from intellectd.daemon.bulk.bell import now_s
from intellectd.daemon.bulk.books import Books
from intellectd.daemon.bulk.collective import AGAIN, DONE, HELD, Collective
from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import plan_of
from intellectd.daemon.bulk.departures import Departures
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.frames import Header, Kind
from intellectd.daemon.bulk.interface import TransferFailed
from intellectd.daemon.bulk.limits import GATHERED_MAX, HELD_STALLS, ON_BYTES_EVERY
from intellectd.daemon.bulk.neighbour import Neighbour, item
from intellectd.daemon.bulk.streams import LinkMeasure
from intellectd.daemon.bulk.transfer import Transfer
from intellectd.kernels import ops
from intellectd.kernels.codec import FP32
from tests.daemon.bulk_swarm import Case, Events, transfer_id

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

GROUP = 16384
EPOCH = 1


class NoChannel:
    """Takes so many words."""

    width = 1
    relay = ""

    def __init__(self, words: int = 1000) -> None:
        self.words, self.patience = words, list[float]()

    def stall_after(self, stall_s: float) -> None:
        self.patience.append(stall_s)

    def tell(self, header: Header, payload: bytes = b"") -> None:
        if not self.words:
            raise OverflowError("1024 control frames wait for one peer")
        self.words -= 1

    def send(self, item: object, *, first: bool = False) -> None: ...

    def drop(self, transfer: int) -> None: ...

    def drop_chunks(self, transfer: int) -> None: ...


class Held:
    """frames.Incoming, of this payload."""

    def __init__(self, payload: memoryview) -> None:
        self.payload = payload

    def open_into(self, place: memoryview) -> None:
        place[:] = self.payload


def met(case: Case, me: str) -> tuple[Books, Arrivals]:
    plan = plan_of(case.job(me), me)
    job = case.job(me)
    transfer = Transfer(transfer_id(case.name), 10.0, 60.0, Events())
    books = Books(plan, Buffers(plan, job.own, job.out), transfer, EPOCH)
    bits = bytes(-(-2 * len(plan.chunks) // 8))
    books.meet(
        {
            plan.members[number]: Neighbour(
                number,
                plan.members[number],
                plan.arrivals.get(number, 0),
                plan.departures.get(number, 0),
                NoChannel(),
                0.0,
                bytearray(bits),
            )
            for number in plan.neighbours
        }
    )
    return books, Arrivals(books, Departures(books), lambda _neighbour: None)


def test_a_part_that_makes_way_is_the_one_that_another_wire_brings_then() -> None:
    """It was given back, and comes again before the thread that had it looks."""
    case = Case(("a", "b", "c"), "fp32", (GATHERED_MAX + 3) * 16 * GROUP, schedule="direct", shape=(0, 1, 0))
    books, arrivals = met(case, "b")
    a, far, check = books.neighbours["a"], books.plan.chunks[GATHERED_MAX], books.check
    a.breaks("reset")  # so what lacks most may come behind this

    def comes_again() -> None:
        check()
        assert not a.has(item(far.index, False))
        a.take(item(far.index, False))

    books.check = comes_again  # type: ignore[method-assign]
    header = Header(Kind.CHUNK, EPOCH, 0, far.index, books.plan.key, far.part_size)
    arrivals.on_chunk("a", header, Held(memoryview(case.deltas[0])[far.part_start : far.part_stop]))
    assert books.transfer.failure is None
    assert a.has(item(far.index, False)), "it is the other thread's"
    assert a.arrivals == books.plan.arrivals[0]


def test_a_part_too_large_by_its_weight_is_not_the_fault_of_who_sent_the_sum() -> None:
    case = Case(("a", "b", "c"), "fp32", 3 * GROUP)
    own = torch.zeros(3 * GROUP)
    own[:] = 1e38  # finite, but not 1,500 times
    ops.encode(FP32, own, ops.as_bytes(case.deltas[1]))
    books, arrivals = met(case, "b")
    chunk = next(chunk for chunk in books.plan.chunks if books.plan.program.arrival(chunk.index, 0) is not None)
    header = Header(Kind.CHUNK, EPOCH, 0, chunk.index, books.plan.key, chunk.size)
    arrivals.on_chunk("a", header, Held(memoryview(bytes(chunk.size))))
    failure = books.transfer.failure
    assert failure is not None and failure.mine and failure.suspect is None
    assert "its own delta is not finite" in failure.reason


def test_a_sum_that_is_not_finite_is_the_fault_of_who_sent_it() -> None:
    case = Case(("a", "b", "c"), "fp32", 3 * GROUP)
    books, arrivals = met(case, "b")
    chunk = next(chunk for chunk in books.plan.chunks if books.plan.program.arrival(chunk.index, 0) is not None)
    header = Header(Kind.CHUNK, EPOCH, 0, chunk.index, books.plan.key, chunk.size)
    with pytest.raises(WireError, match="partial sum"):
        arrivals.on_chunk("a", header, Held(memoryview(b"\xff" * chunk.size)))
    failure = books.transfer.failure
    assert failure is not None and failure.suspect == "a"


class Channels:
    """channel_port.ChannelsPort: to "c" so many words go."""

    def __init__(self, words: int = 0) -> None:
        self.needed: list[str] = []
        self.limit, self.words = "rwnd", words

    def need(self, peer: str, _stall_s: float) -> NoChannel:
        self.needed.append(peer)
        return NoChannel(self.words if peer == "c" else 1000)

    def release(self, peer: str) -> None:
        self.needed.remove(peer)

    def measured(self, _peer: str) -> LinkMeasure:
        return LinkMeasure(1e6, 0.01, 1, self.limit, now_s())


class Table:
    """collective.Table: of nothing that was said before."""

    def parked(self, _collective: Collective) -> list[Any]:
        return []

    def missed(self, _collective: Collective) -> set[str]:
        return set()

    def leave(self, _collective: Collective) -> None: ...


def made(case: Case, channels: Channels, events: Events) -> Collective:
    """b's half."""
    plan, job = plan_of(case.job("b"), "b"), case.job("b")
    transfer = Transfer(transfer_id(case.name), 10.0, 60.0, events)
    return Collective(plan, Buffers(plan, job.own, job.out), transfer, channels, Table(), EPOCH)


def run(case: Case) -> tuple[Collective, Channels, TransferFailed]:
    """Of b's half, which ends as soon as c takes no words."""
    events, channels = Events(), Channels()
    collective = made(case, channels, events)
    collective.run()
    return collective, channels, events.failed()


def test_who_takes_no_words_is_to_blame_and_not_the_host_that_has_some_for_it() -> None:
    _collective, channels, end = run(Case(("a", "b", "c"), "fp32", 3 * GROUP))
    assert (end.suspect, end.silent) == ("c", True) and "control frames wait" in end.reason
    assert channels.needed == []


def test_a_wire_whose_reader_holds_chunks_for_others_is_not_given_up_in_one_stall() -> None:
    """One slow member among many wires: each of them takes something seldom, and nobody is at fault."""
    collective, _channels, _end = run(Case(("a", "b", "c"), "fp32", 3 * GROUP, schedule="direct"))
    a = collective._books.neighbours["a"]
    for flag, alone in ((0, 0), (HELD, 0), (HELD, 1), (HELD, 1), (0, 0), (HELD, 1), (HELD, 0)):
        collective.on_control("a", Header(Kind.WAITING, flag, 700, alone, collective.plan.key), b"")
    assert isinstance(a.channel, NoChannel)
    assert a.channel.patience == [10.0 * HELD_STALLS, 10.0, 10.0 * HELD_STALLS, 10.0]


def test_what_waits_for_others_waits_for_none_of_its_own() -> None:
    """One of its own may be on a wire that is dead, which is to be given up."""
    case = Case(("a", "b", "c"), "fp32", 3 * 16 * GROUP, schedule="direct", shape=(0, 1, 0))
    books, arrivals = met(case, "b")
    c = books.neighbours["c"]
    assert not arrivals.holds(c)
    c.waits_here = 1  # the second and third, and the first is not there
    c.take(item(1, False)), c.take(item(2, False))
    assert not arrivals.holds(c)
    c.take(item(0, False))
    assert arrivals.holds(c)


def test_one_that_failed_says_nothing_of_how_fast_the_line_is() -> None:
    collective, _channels, _end = run(Case(("a", "b", "c"), "fp32", 3 * GROUP))
    collective._books.sent_bytes = 2**30
    assert collective.rate() == (0, 0.0)
    collective.transfer._failure = None
    assert collective.rate()[0] == 2**30


def test_a_window_that_is_shut_for_others_sake_says_nothing_of_the_link() -> None:
    collective, channels, end = run(Case(("a", "b", "c"), "fp32", 3 * GROUP, schedule="direct"))
    assert [link.peer for link in end.links] == ["a", "c"]
    collective.on_control("a", Header(Kind.WAITING, HELD, 700, 0, collective.plan.key), b"")
    assert [link.peer for link in collective._seen()] == ["c"]
    channels.limit = "loss"
    assert [link.peer for link in collective._seen()] == ["a", "c"]


def test_some_of_a_chunk_that_comes_or_goes_is_something() -> None:
    """Where many wires share a slow line none of their chunks is whole for long."""
    collective, _channels, _end = run(Case(("a", "b", "c"), "fp32", 3 * GROUP))
    books = collective._books
    a, c = books.neighbours["a"], books.neighbours["c"]
    books.chunk_at = a.heard_at = c.moved_at = 0.0
    collective.on_bytes("a", ON_BYTES_EVERY - 1)
    assert books.chunk_at == 0.0
    collective.on_bytes("a", 1)
    assert books.chunk_at > 0.0 and a.heard_at > 0.0
    next(iter(c.parcels.values())).moved()
    assert c.moved_at > 0.0


@pytest.mark.parametrize("word", [Header(Kind.GO, AGAIN, 700), Header(Kind.GONE, DONE, 700)])
def test_who_passes_a_result_on_is_not_blamed_for_what_another_claims_to_have(word: Header) -> None:
    """c says that it has b's sum, and what it makes of that comes around by a, which did nothing wrong."""
    case = Case(("a", "b", "c"), "fp32", 3 * GROUP)
    collective = made(case, Channels(1000), Events())
    collective._meet()
    books = collective._books
    chunk = next(iter(books.neighbours["c"].parcels.values())).send.chunk
    step = books.plan.program.steps_here(chunk)[-1]
    collective.on_control("c", Header(Kind.GO, 0, 700, 0, books.plan.key), books.plan.transfer_id)
    collective.on_control("c", word._replace(transfer=books.plan.key), b"\xff")
    result = Header(Kind.CHUNK, EPOCH, step, chunk, books.plan.key, books.plan.chunks[chunk].size)
    collective.on_chunk("a", result, Held(memoryview(bytes(result.length))))
    assert books.transfer.failure is None and books.resulted[chunk]


def test_progress_does_not_wait_for_a_whole_chunk_and_never_goes_back() -> None:
    """1 MiB at 0.5 Mbit/s takes 17 s, and voters give up what does not move in 10."""
    case = Case(("a", "b", "c"), "fp32", 3 * GROUP)
    collective = made(case, Channels(1000), Events())
    collective._meet()
    books, size = collective._books, 4 * GROUP
    seen = [books.progress_bytes()]

    def then() -> int:
        seen.append(books.progress_bytes())
        return seen[-1]

    for _ in range(3):
        collective.on_bytes("a", ON_BYTES_EVERY // 8)
        then()
    assert seen == [0, 8192, 16384, 24576]
    collective.on_lost("a", "reset", False)
    assert then() == 24576
    collective.on_bytes("a", 4096)  # it comes anew
    assert then() == 24576
    chunk, step = next(
        (chunk, step)
        for chunk in range(3)
        for step in books.plan.program.steps_here(chunk)
        if not books.plan.program.is_result(step)
    )
    header = Header(Kind.CHUNK, EPOCH, step, chunk, books.plan.key, size)
    collective.on_chunk("a", header, Held(memoryview(bytes(size))))
    assert then() == size
    collective.on_bytes("a", 2**40)
    assert then() == books.plan.payload_bytes


def test_who_passes_a_result_on_is_not_blamed_for_what_others_left_out() -> None:
    """c, which says no GO to b, can go on without b's sum; a hears a sum and adds its own, and cannot know."""
    case = Case(("a", "b", "c"), "fp32", 3 * GROUP)
    collective = made(case, Channels(1000), Events())
    collective._meet()
    books = collective._books
    chunk = next(iter(books.neighbours["c"].parcels.values())).send.chunk
    step = books.plan.program.steps_here(chunk)[-1]
    result = Header(Kind.CHUNK, EPOCH, step, chunk, books.plan.key, books.plan.chunks[chunk].size)
    collective.on_chunk("a", result, Held(memoryview(bytes(result.length))))
    failure = books.transfer.failure
    assert failure is not None and failure.suspect is None and not failure.mine
    assert "by way of a lacks this host's part" in failure.reason and not books.resulted[chunk]
