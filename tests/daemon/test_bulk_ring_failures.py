"""Rings that fail: each member ends in time, blames the right one, and leaves its input alone."""

import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import TransferFailed
from intellectd.daemon.bulk.wire import (
    HEADER_BYTES,
    REQUEST_PREFIX,
    Header,
    Kind,
    RingRequest,
    decode_header,
    encode_abort,
    encode_header,
    encode_request,
)
from tests.daemon.bulk_swarm import (
    Events,
    Outsider,
    RingCase,
    closed,
    read_exactly,
    reset,
    swarm,
    transfer_id,
    trust_all,
)

pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

STALL_S = 0.5  # of tests in which somebody falls silent: long enough for honest threads on a busy machine


def enter(outsider: Outsider, left: Engine, right: Engine, case: RingCase) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """The outsider's two links, as far as GO on both."""
    to_right = outsider.dial(right.endpoint, encode_request(RingRequest(transfer_id(case.name))))
    from_left = accept_ring(outsider, left)
    assert decode_header(read_exactly(to_right, HEADER_BYTES)).kind == Kind.GO
    return from_left, to_right


def accept_ring(outsider: Outsider, left: Engine) -> ssl.SSLSocket:
    from_left = outsider.accept(left.endpoint)
    (length,) = REQUEST_PREFIX.unpack(read_exactly(from_left, REQUEST_PREFIX.size))
    read_exactly(from_left, length)
    from_left.sendall(encode_header(Header(Kind.GO)))
    return from_left


@contextmanager
def ring_with_outsider(
    case: RingCase,
) -> Iterator[tuple[dict[str, Engine], dict[str, Events], ssl.SSLSocket, ssl.SSLSocket]]:
    """All members but the last, "x", are engines in the middle of a ring; x's links are the test's."""
    honest = case.members[:-1]
    with swarm(*honest) as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        events = {member: case.start(engines[member], member) for member in honest}
        from_left, to_right = enter(outsider, engines[honest[-1]], engines[honest[0]], case)
        yield engines, events, from_left, to_right


def failures(events: dict[str, Events]) -> dict[str, TransferFailed]:
    return {member: inbox.failed() for member, inbox in events.items()}


def test_a_member_that_dies_is_blamed_by_all_and_at_once() -> None:
    case = RingCase(("a", "b", "c", "x"))
    before = [bytes(delta) for delta in case.deltas]
    with ring_with_outsider(case) as (_engines, events, from_left, to_right):
        read_exactly(from_left, HEADER_BYTES + 1000)  # it dies in the middle of a chunk
        began = time.monotonic()
        reset(from_left), reset(to_right)
        ends = failures(events)
    assert time.monotonic() - began < 2.0  # against a stall_s of 15
    assert {member: (end.suspect, end.silent) for member, end in ends.items()} == dict.fromkeys("abc", ("x", False))
    assert [bytes(delta) for delta in case.deltas] == before


def test_a_member_that_falls_silent_is_blamed_by_all() -> None:
    case = RingCase(("a", "b", "c", "x"), stall_s=STALL_S)
    with ring_with_outsider(case) as (_engines, events, _from_left, _to_right):
        ends = failures(events)
    assert {member: (end.suspect, end.silent) for member, end in ends.items()} == dict.fromkeys("abc", ("x", True))


def test_a_member_that_never_comes_is_blamed_by_all() -> None:
    case = RingCase(("a", "b", "c", "x"), stall_s=STALL_S)
    with swarm("a", "b", "c") as engines, Outsider("x") as outsider:  # x listens, nobody accepts
        trust_all(engines, x=outsider.endpoint)
        ends = failures({member: case.start(engines[member], member) for member in ("a", "b", "c")})
    assert {member: (end.suspect, end.silent) for member, end in ends.items()} == dict.fromkeys("abc", ("x", True))


def test_a_neighbour_that_takes_nothing_is_blamed_by_the_one_that_sends() -> None:
    # 64 MiB: more than the kernel holds between two sockets. x keeps saying that it lives, so a blames nobody first.
    case = RingCase(("a", "x"), codec="fp32", elements=2**24, stall_s=STALL_S)
    with ring_with_outsider(case) as (_engines, events, _from_left, to_right):
        to_right.settimeout(STALL_S / 4)
        waiting = encode_header(Header(Kind.WAITING))
        while True:
            to_right.sendall(waiting)
            try:
                heard = to_right.recv(HEADER_BYTES)
            except TimeoutError:
                continue
            break
        assert decode_header(heard).kind == Kind.ABORT
        end = events["a"].failed()
    assert (end.suspect, end.silent) == ("x", True)
    assert "took nothing" in end.reason


def test_alive_but_starved_is_nobodys_fault() -> None:
    case = RingCase(("a", "x"), stall_s=0.2)
    with ring_with_outsider(case) as (_engines, events, from_left, to_right):
        to_right.settimeout(0.05)
        heard = b""
        while not heard:
            to_right.sendall(encode_header(Header(Kind.WAITING)))
            try:
                heard = to_right.recv(HEADER_BYTES)
            except TimeoutError:
                continue
        end = events["a"].failed()
        assert end.suspect is None and end.silent and "no chunk has come around" in end.reason
        # Whoever was only waiting is not told to suspect anybody either.
        assert heard == encode_abort(None, silent=True)
        assert closed(from_left)


def test_a_port_that_refuses_ends_the_ring_at_once() -> None:
    case = RingCase(("a", "b"))
    with swarm("a") as engines:
        gone = Engine("b", "127.0.0.1:0")
        trust_all(engines, b=gone.endpoint)
        gone.close()
        end = case.start(engines["a"], "a").failed()
    assert (end.suspect, end.silent) == ("b", False)
    assert "refused" in end.reason


def test_a_neighbour_without_an_endpoint_is_named() -> None:
    case = RingCase(("a", "b"), stall_s=0.2)
    with swarm("a") as engines:
        end = case.start(engines["a"], "a").failed()
    assert end.suspect == "b" and not end.silent
    assert "no endpoint" in end.reason or "did not connect" in end.reason


def test_an_engine_that_closes_says_that_it_is_the_one_who_leaves() -> None:
    case = RingCase(("a", "b", "c", "x"))
    with ring_with_outsider(case) as (engines, events, _from_left, to_right):
        engines["c"].close()
        ends = failures(events)
        # a has heard it from b, and passes it on to x.
        header = decode_header(skip_to_abort(to_right))
        assert read_exactly(to_right, header.length) == b"c"
    assert {member: end.suspect for member, end in ends.items()} == {"a": "c", "b": "c", "c": None}


def skip_to_abort(back: ssl.SSLSocket) -> bytes:
    raw = read_exactly(back, HEADER_BYTES)
    assert decode_header(raw).kind == Kind.ABORT
    return raw


def test_abort_ends_it_everywhere_within_a_second_and_blames_nobody() -> None:
    case = RingCase(("a", "b", "c", "x"))
    before = [bytes(delta) for delta in case.deltas]
    with ring_with_outsider(case) as (engines, events, _from_left, _to_right):
        began = time.monotonic()
        engines["b"].abort(transfer_id(case.name))
        engines["b"].abort(transfer_id(case.name))  # twice is once
        ends = failures(events)
        assert time.monotonic() - began < 1.0
        outs = [bytes(out) for out in case.outs]
    assert ends["b"].reason == "it was aborted here"
    assert all(end.suspect is None and not end.silent for end in ends.values())
    assert [bytes(delta) for delta in case.deltas] == before
    assert [bytes(out) for out in case.outs] == outs  # nothing was touched after the event


def test_an_abort_in_the_middle_of_a_chunk_still_reaches_the_right_neighbour() -> None:
    case = RingCase(("a", "x"), codec="fp32", elements=2**24)
    with ring_with_outsider(case) as (engines, events, from_left, _to_right):
        read_exactly(from_left, HEADER_BYTES)  # a is sending, and 64 MiB do not fit between the sockets
        engines["a"].abort(transfer_id(case.name))
        events["a"].failed()
        frames = [Header(Kind.CHUNK, length=16 * 16384 * 4)]
        while frames[-1].kind == Kind.CHUNK:
            read_exactly(from_left, frames[-1].length)
            frames.append(decode_header(read_exactly(from_left, HEADER_BYTES)))
        assert (frames[-1].kind, frames[-1].length) == (Kind.ABORT, 0)


def test_an_abort_that_names_a_stranger_or_oneself_makes_nobody_suspect() -> None:
    for named, reason in (("stranger", "nobody"), ("a", "this host")):
        case = RingCase(("a", "x"))
        with ring_with_outsider(case) as (_engines, events, _from_left, to_right):
            to_right.sendall(encode_abort(named, silent=True))
            end = events["a"].failed()
        assert end.suspect is None and f"it suspects {reason}" in end.reason


def test_the_deadline_ends_a_ring_that_moves() -> None:
    case = RingCase(("a", "b"), deadline_s=0.1)
    with swarm("a") as engines, Outsider("b") as outsider:
        trust_all(engines, b=outsider.endpoint)
        end = case.start(engines["a"], "a").failed()
    assert end.silent


CHUNK = RingCase(("a", "x"), codec="fp32", elements=256 * 64)
SIZE = len(CHUNK.deltas[0])  # one group: one chunk, owned by x, started by a


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (Header(Kind.CHUNK, hop=1, index=1, length=SIZE), "chunk 1 of a ring with 1"),
        (Header(Kind.CHUNK, hop=1, index=2**32 - 1, length=SIZE), "chunk 4294967295"),
        (Header(Kind.CHUNK, hop=0, index=0, length=SIZE), "hop 0, where 1 is next"),
        (Header(Kind.CHUNK, hop=2, index=0, length=SIZE), "hop 2"),
        (Header(Kind.CHUNK, hop=1, index=0, length=SIZE + 1), "bytes for chunk 0"),
        (Header(Kind.CHUNK, hop=1, index=0, length=2**62), "bytes for chunk 0"),
        (Header(Kind.OBJECT, length=5), "OBJECT in a ring"),
        (Header(Kind.ABORT, length=10**6), "names a peer in 1000000 bytes"),
    ],
)
def test_frames_that_the_plan_does_not_allow_are_the_neighbours_fault(frame: Header, words: str) -> None:
    case = RingCase(("a", "x"), codec="fp32", elements=256 * 64)
    with ring_with_outsider(case) as (_engines, events, _from_left, to_right):
        to_right.sendall(encode_header(frame))
        end = events["a"].failed()
    assert (end.suspect, end.silent) == ("x", False)
    assert words in end.reason


def test_frames_of_no_kind_are_the_neighbours_fault_both_ways() -> None:
    for towards_a in (0, 1):
        case = RingCase(("a", "x"))
        with ring_with_outsider(case) as (_engines, events, *links):
            links[towards_a].sendall(b"\xee" * HEADER_BYTES)
            end = events["a"].failed()
        assert end.suspect == "x" and "unknown kind 238" in end.reason


@pytest.mark.parametrize("final", [False, True])
def test_what_is_not_finite_is_not_passed_on(final: bool) -> None:
    # a owns the second of two slices, and starts the first.
    case = RingCase(("a", "x"), codec="fp32", elements=256 * 128)
    nan = struct.pack("<f", float("nan"))
    with ring_with_outsider(case) as (_engines, events, _from_left, to_right):
        index, hop = (1, 1) if final else (0, 0)
        size = len(case.outs[0]) // 2
        to_right.sendall(encode_header(Header(Kind.CHUNK, hop=hop, index=index, length=size)) + nan * (size // 4))
        end = events["a"].failed()
    assert (end.suspect, end.silent) == ("x", False)
    assert "not finite" in end.reason


def test_a_host_whose_own_delta_is_not_finite_tells_its_neighbours_so() -> None:
    case = RingCase(("a", "x"), codec="fp32", elements=256 * 128)
    case.deltas[0][:] = struct.pack("<f", float("inf")) * (len(case.deltas[0]) // 4)
    with swarm("a") as engines, Outsider("x") as outsider:
        trust_all(engines, x=outsider.endpoint)
        events = case.start(engines["a"], "a")
        from_left = accept_ring(outsider, engines["a"])
        header = decode_header(skip_to_abort(from_left))
        assert read_exactly(from_left, header.length) == b"a"
        end = events.failed()
    assert end.suspect is None and "its own delta is not finite" in end.reason


def test_a_callback_that_raises_fails_its_ring_and_nothing_else() -> None:
    case, ended = RingCase(("a", "b")), Events()

    def on_event(event: object) -> None:
        if not isinstance(event, TransferFailed):
            raise RuntimeError("the app is confused")
        ended(event)

    with swarm("a", "b") as engines:
        engines["a"].start_ring(case.job("a"), on_event)
        case.start(engines["b"], "b").end()  # well, if it had all it needs by then
        assert "the app is confused" in ended.failed().reason
        again = RingCase(("a", "b"), name="again")
        events = [again.start(engines[member], member) for member in again.members]
        assert all(inbox.done() for inbox in events)
