"""The schedules as arithmetic, played by a plain queue: each part counts once, the result reaches all, in few bytes.

SPEC C7, D7, D8.
"""

from collections import Counter, deque
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intellectd.daemon.bulk.collective_plan import plan_of
from intellectd.daemon.bulk.interface import CollectiveJob
from intellectd.daemon.bulk.schedules.chunks import Chunk, cut_chunks, equal_shares, slice_elements
from intellectd.daemon.bulk.schedules.direct import Direct
from intellectd.daemon.bulk.schedules.program import ROW_ENDS, Action, Content, Program, Send, size_of
from intellectd.daemon.bulk.schedules.ring import Ring
from intellectd.daemon.bulk.schedules.torus import Torus
from intellectd.kernels.codec import CODECS, GROUP, codec_by_name, update_codec

Part = frozenset[int]  # whose parts are in a sum
Make = Callable[[int, tuple[Chunk, ...]], Program]


class Play:
    """All members of one collective; chunks hold whose parts are in them. `order` says which frame comes next."""

    def __init__(self, members: int, make: Make, chunks: tuple[Chunk, ...], order: list[int] | None = None) -> None:
        self.members, self.chunks, self.order = members, chunks, order or [0]
        self.programs = [make(me, chunks) for me in range(members)]
        self.out: list[dict[int, Part]] = [{} for _ in range(members)]
        self.rows: list[set[int]] = [set() for _ in range(members)]  # chunks whose row is summed here
        self.results: list[dict[int, int]] = [{} for _ in range(members)]
        self.gathered: list[dict[int, set[int]]] = [{} for _ in range(members)]
        self.sent_bytes = [0] * members
        self.sent: Counter[tuple[int, int]] = Counter()
        self.frames: deque[tuple[int, Send, Part]] = deque()
        self.waiting: list[tuple[int, Send, Part]] = []  # until their row is summed
        self.seen: set[tuple[int, int, int]] = set()

    def run(self) -> None:
        for me in range(self.members):
            for send in self.programs[me].begin():
                self.post(me, send)
        turn = 0
        while self.frames:
            self.frames.rotate(-self.order[turn % len(self.order)])
            turn += 1
            sender, send, part = self.frames.popleft()
            if not self.take(sender, send, part):
                self.waiting.append((sender, send, part))
        assert not self.waiting, "nothing moves any more"

    def post(self, me: int, send: Send) -> None:
        part = self.out[me][send.chunk] if send.content is Content.HELD else frozenset({me})
        self.sent_bytes[me] += size_of(self.programs[me], send.chunk, send.step)
        self.sent[me, send.to] += 1
        self.frames.append((me, send, part))

    def take(self, sender: int, send: Send, part: Part) -> bool:
        me, chunk = send.to, send.chunk
        arrival = self.programs[me].arrival(chunk, send.step)
        assert arrival is not None and arrival.source == sender
        if arrival.action in ROW_ENDS and chunk not in self.rows[me]:
            return False
        assert (me, chunk, send.step) not in self.seen, "it came twice"
        self.seen.add((me, chunk, send.step))
        then = arrival.then
        match arrival.action:
            case Action.ADD | Action.FINISH:
                assert me not in part
                self.out[me][chunk] = part | {me}
            case Action.MERGE | Action.MERGE_FINISH:
                assert not part & self.out[me][chunk]
                self.out[me][chunk] |= part
            case Action.GATHER:
                parts = self.gathered[me].setdefault(chunk, {me})
                assert not part & parts
                parts |= part
                if len(parts) == self.members:
                    self.out[me][chunk] = frozenset(parts)
                    then = self.programs[me].gathered(chunk)
            case Action.STORE:
                assert self.programs[me].is_result(send.step) and chunk not in self.results[me]
                self.out[me][chunk] = part
                self.results[me][chunk] = send.step
        if arrival.ends_row:
            self.rows[me].add(chunk)
            self.frames.extend(self.waiting)
            self.waiting.clear()
        for further in then:
            self.post(me, further)
        return True


def ring(members: int) -> Make:
    return lambda me, chunks: Ring(me, members, chunks)


def direct(members: int) -> Make:
    return lambda me, chunks: Direct(me, members, chunks)


def torus(members: int, rows: int) -> Make:
    return lambda me, chunks: Torus(me, members, rows, chunks)


ALL = [
    *((count, ring(count)) for count in (2, 3, 5, 8)),
    *((count, direct(count)) for count in (2, 3, 7)),
    *(
        (rows * columns, torus(rows * columns, rows))
        for rows, columns in ((2, 2), (2, 3), (3, 2), (3, 4), (1, 4), (4, 1))
    ),
]


@pytest.mark.parametrize(("members", "make"), ALL)
@settings(max_examples=25, deadline=None)
@given(order=st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_each_part_counts_once_and_all_get_the_same_whatever_comes_first(
    members: int, make: Make, order: list[int]
) -> None:
    chunks = cut_chunks(codec_by_name("int8"), 40 * GROUP, equal_shares(members))
    play = Play(members, make, chunks, order)
    play.run()
    for me in range(members):
        assert all(play.out[me][chunk.index] == frozenset(range(members)) for chunk in chunks)
        assert all(chunk.index in play.results[me] for chunk in chunks if chunk.owner != me)


@pytest.mark.parametrize(("members", "make"), ALL)
def test_bytes_are_what_the_formula_says(members: int, make: Make) -> None:
    """2(M-1)/M of the vector out of each member, when the slices are equal."""
    chunks = cut_chunks(codec_by_name("int8"), members * 16 * GROUP, equal_shares(members))
    play = Play(members, make, chunks)
    play.run()
    whole = sum(chunk.size for chunk in chunks)
    assert play.sent_bytes == [2 * (members - 1) * whole // members] * members


@pytest.mark.parametrize(
    ("schedule", "shape", "codec"),
    [
        ("ring", (), "int8"),
        ("torus", (2,), "int8"),
        ("torus", (6,), "fp32"),
        ("direct", (), "int4"),
        ("direct", (3, 1, 0, 2, 1, 9), "topk"),
    ],
)
@pytest.mark.parametrize("elements", [GROUP + 256, 40 * GROUP, 300 * GROUP + 512])
def test_a_plan_knows_what_will_come_and_go(schedule: str, shape: tuple[int, ...], codec: str, elements: int) -> None:
    peers = tuple("abcdef")
    own = memoryview(bytes(codec_by_name(codec).encoded_bytes(elements)))
    out = memoryview(bytearray(update_codec(codec_by_name(codec)).encoded_bytes(elements)))
    job = CollectiveJob(bytes(32), peers, (1.0,) * 6, codec, elements, own, out, 1.0, 1.0, schedule, shape)
    plans = [plan_of(job, peer) for peer in peers]
    play = Play(6, lambda me, _chunks: plans[me].program, plans[0].chunks)
    play.run()
    for me, plan in enumerate(plans):
        assert plan.departures == {to: count for (by, to), count in play.sent.items() if by == me}
        assert plan.arrivals == {by: count for (by, to), count in play.sent.items() if to == me}
        assert plan.departing_bytes == play.sent_bytes[me]
    assert sum(plan.arriving_bytes for plan in plans) == sum(play.sent_bytes)


def test_a_member_with_twice_the_share_owns_twice_the_slice() -> None:
    chunks = cut_chunks(codec_by_name("int8"), 64 * GROUP, (2, 1, 1))
    owned = [sum(c.size for c in chunks if c.owner == owner) for owner in range(3)]
    assert owned[0] == 2 * owned[1] == 2 * owned[2]
    play = Play(3, direct(3), chunks)
    play.run()
    assert all(out == {c.index: frozenset(range(3)) for c in chunks} for out in play.out)


@pytest.mark.parametrize(("members", "make"), ALL)
def test_what_no_plan_lets_come_is_nothing(members: int, make: Make) -> None:
    chunks = cut_chunks(codec_by_name("int8"), 40 * GROUP, equal_shares(members))
    play = Play(members, make, chunks)
    play.run()
    for me in range(members):
        for chunk in chunks:
            for step in (*range(2 * members + 2), 65_535):
                expected = (me, chunk.index, step) in play.seen
                assert (play.programs[me].arrival(chunk.index, step) is not None) == expected


def test_a_torus_wants_whole_rows() -> None:
    with pytest.raises(ValueError, match="do not fill 2 rows"):
        Torus(0, 5, 2, ())


SIZES = (256, GROUP - 256, GROUP, GROUP + 256, 5 * GROUP, 40 * GROUP + 512, 48 * GROUP)


@pytest.mark.parametrize("shares", [(1,), (1, 1), (3, 1, 2), (1, 0, 5), equal_shares(8)])
@pytest.mark.parametrize("elements", SIZES)
def test_slices_cover_the_vector_and_are_cut_at_groups(shares: tuple[int, ...], elements: int) -> None:
    slices = [slice_elements(elements, shares, owner) for owner in range(len(shares))]
    assert slices[0][0] == 0 and slices[-1][1] == elements
    assert all(left[1] == right[0] for left, right in pairwise(slices))
    assert all(first % GROUP == 0 or first == elements for first, _last in slices)


@pytest.mark.parametrize("name", sorted(CODECS))
@pytest.mark.parametrize("elements", SIZES)
def test_chunks_cover_the_bytes_in_order(name: str, elements: int) -> None:
    codec = codec_by_name(name)
    chunks = cut_chunks(codec, elements, equal_shares(3))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert chunks[0].start == 0 and chunks[-1].stop == update_codec(codec).encoded_bytes(elements)
    assert chunks[0].part_start == 0 and chunks[-1].part_stop == codec.encoded_bytes(elements)
    assert sum(chunk.elements for chunk in chunks) == elements
    assert all(left.stop == right.start for left, right in pairwise(chunks))
    assert all(left.part_stop == right.part_start for left, right in pairwise(chunks))
    assert all(chunk.size == update_codec(codec).encoded_bytes(chunk.elements) for chunk in chunks)
    assert all(chunk.part_size == codec.encoded_bytes(chunk.elements) for chunk in chunks)
    assert all(0 < chunk.size <= 16 * update_codec(codec).group_bytes for chunk in chunks)
    assert all(0 < chunk.part_size <= 16 * codec.group_bytes for chunk in chunks)
