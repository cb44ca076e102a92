"""Collectives that work: every schedule, size and codec, in one process and between two, whoever comes first.

SPEC C6, D6, D7, D8.
"""

import itertools
import math
import mmap
import multiprocessing
import multiprocessing.connection

import pytest
import torch

from intellectd.daemon.bulk.books import FRAME_OVERHEAD_BYTES
from intellectd.daemon.bulk.collective_plan import plan_of
from intellectd.daemon.bulk.engine import Engine
from intellectd.daemon.bulk.interface import BulkEvent, CollectiveJob, Endpoint, TransferDone, TransferFailed
from intellectd.kernels import ops
from intellectd.kernels.codec import CODECS, codec_by_name, update_codec
from tests.daemon.bulk_swarm import (
    EVENT_S,
    Case,
    Events,
    decoded,
    mean,
    swarm,
    transfer_id,
    trust_all,
)

# torch says so once a process; pytest undoes the filter that kernels.ops has for it.
pytestmark = pytest.mark.filterwarnings("ignore:The given buffer is not writable")

# The error of int8 against the exact mean, in units of the largest element's step: half a step for each of the
# members' own encodings is common to both sides, so what counts is one re-encoding a hop.
STEPS_PER_HOP = 0.5


def run(engines: dict[str, Engine], case: Case) -> list[TransferDone]:
    events = {member: case.start(engines[member], member) for member in case.members}
    return [events[member].done() for member in case.members]


SCHEDULES = [
    (2, "ring", ()),
    (3, "ring", ()),
    (5, "ring", ()),
    (2, "direct", ()),
    (4, "direct", (1, 2, 0, 3)),
    (4, "torus", (2,)),
    (6, "torus", (3,)),
]


@pytest.mark.parametrize("codec", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize(("count", "schedule", "shape"), SCHEDULES)
def test_all_members_get_the_same_mean(count: int, schedule: str, shape: tuple[int, ...], codec: str) -> None:
    members = tuple(f"peer{i}" for i in range(count))
    # Not a multiple of a group, and two chunks to a slice in the smaller ones.
    case = Case(members, codec, elements=40 * 16384 + 256 * 7, schedule=schedule, shape=shape)
    before = [bytes(delta) for delta in case.deltas]
    with swarm(*members) as engines:
        ends = run(engines, case)
    assert all(out == case.outs[0] for out in case.outs)
    assert [bytes(delta) for delta in case.deltas] == before
    exact = mean(codec, case.elements, case.deltas, case.weights)
    error = (decoded(codec, case.elements, case.outs[0]).double() - exact).abs().max().item()
    if codec == "fp32":
        assert error < 4 * count * torch.finfo(torch.float32).eps * exact.abs().max().item()
    else:
        # A partial sum is at most about as large as what it adds up; divided, a step of it is a step of the mean.
        largest = max(decoded(codec, case.elements, delta).abs().max().item() for delta in case.deltas)
        step = largest / 127 if codec == "int8" else largest * 2.0**-7
        assert error < STEPS_PER_HOP * count * step
    # What is sent, headers and all, is received; on a busy machine a chunk goes twice to whom seems to wait for it.
    plans = [plan_of(case.job(peer), peer) for peer in members]
    due = [plan.arriving_bytes + FRAME_OVERHEAD_BYTES * sum(plan.arrivals.values()) for plan in plans]
    assert [end.received_bytes for end in ends] == due
    assert sum(end.sent_bytes for end in ends) >= sum(due) > 2 * (count - 1) * len(case.outs[0])


@pytest.mark.parametrize(
    ("count", "schedule", "shape"), [(3, "ring", ()), (3, "direct", (1, 1, 1)), (4, "torus", (2,))]
)
def test_a_member_without_tokens_passes_on_and_adds_nothing(count: int, schedule: str, shape: tuple[int, ...]) -> None:
    """SPEC R15: however far off its own delta is."""
    members = ("a", "b", "c", "d")[:count]
    case = Case(members, "fp32", elements=8 * 16384, schedule=schedule, shape=shape)
    case.weights = (*case.weights[:-1], 0.0)
    ops.as_bytes(case.deltas[-1]).view(torch.float32).mul_(1e20)
    with swarm(*members) as engines:
        run(engines, case)
    exact = mean("fp32", case.elements, case.deltas[:-1], case.weights[:-1])
    assert all(out == case.outs[0] for out in case.outs)
    assert torch.allclose(decoded("fp32", case.elements, case.outs[0]).double(), exact, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize(("count", "shape"), [(1, (1,)), (3, (1, 1, 1)), (4, (3, 0, 2, 1))])
def test_whatever_the_codec_a_direct_exchange_sums_in_the_open(
    codec: str, count: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC C6: and encodes the mean once, in a codec that bears it."""
    monkeypatch.setattr("intellectd.daemon.bulk.collective_watch.NUDGE_S", 1e9)  # where nothing goes twice
    members = ("a", "b", "c", "d")[:count]
    case = Case(members, codec, elements=40 * 16384 + 256 * 7, schedule="direct", shape=shape)
    with swarm(*members) as engines:
        ends = run(engines, case)
    assert all(out == case.outs[0] for out in case.outs)
    total, kind, result = torch.zeros(case.elements), codec_by_name(codec), update_codec(codec_by_name(codec))
    expected = bytearray(result.encoded_bytes(case.elements))
    for delta, weight in zip(case.deltas, case.weights, strict=True):
        ops.decode_add(kind, ops.as_bytes(delta), weight, total)
    assert ops.encode_mean(result, total, sum(case.weights), ops.as_bytes(expected)) is None
    assert case.outs[0] == expected
    sent = sum(end.sent_bytes for end in ends)
    payload = (count - 1) * (len(case.deltas[0]) + len(expected))
    assert sent == sum(end.received_bytes for end in ends)
    assert payload <= sent <= payload + 4096 * count * count  # headers and words


@pytest.mark.parametrize("codec", ["int8", "bf16", "fp32"])
def test_a_ring_of_one_is_the_same_arithmetic(codec: str) -> None:
    case = Case(("alone",), codec)
    with swarm("alone") as engines:
        events = case.start(engines["alone"], "alone")
        end = events.done()
    assert (end.sent_bytes, end.received_bytes) == (0, 0)
    assert events.progress[-1].done_bytes == events.progress[-1].total_bytes == len(case.outs[0])
    expected = bytearray(len(case.outs[0]))
    own, weight = ops.as_bytes(case.deltas[0]), case.weights[0]
    assert ops.ring_hop(codec_by_name(codec), None, own, weight, weight, ops.as_bytes(expected))
    assert case.outs[0] == expected


def test_more_members_than_groups() -> None:
    members = ("a", "b", "c", "d")
    case = Case(members, elements=256)  # three of four slices are empty
    with swarm(*members) as engines:
        run(engines, case)
    assert case.outs[0] == case.outs[1] == case.outs[2] == case.outs[3] != bytes(len(case.outs[0]))


@pytest.mark.parametrize("order", list(itertools.permutations(("a", "b", "c"))))
def test_members_start_in_any_order(order: tuple[str, ...]) -> None:
    case = Case(("a", "b", "c"), elements=256 * 64)
    with swarm("a", "b", "c") as engines:
        events = {member: case.start(engines[member], member) for member in order}
        for member in order:
            events[member].done()
    assert case.outs[0] == case.outs[1] == case.outs[2]


def test_two_rings_and_again_under_the_same_id() -> None:
    members = ("a", "b", "c")
    with swarm(*members) as engines:
        first, second = Case(members), Case(("c", "b", "a"), name="other")
        running = [case.start(engines[member], member) for case in (first, second) for member in members]
        for events in running:
            events.done()
        again = Case(members)
        run(engines, again)
    assert again.outs == first.outs
    assert second.outs[0] == second.outs[2]


def test_an_attempt_after_an_aborted_one_under_the_same_id() -> None:
    members = ("a", "b", "c")
    with swarm(*members) as engines:
        first = Case(members)
        running = {member: first.start(engines[member], member) for member in ("a", "b")}
        for member in running:
            engines[member].abort(transfer_id(first.name))
        assert running["a"].failed().suspect is None
        assert running["b"].failed().suspect in (None, "a")  # its neighbour may be gone before it aborts itself
        case = Case(members)
        run(engines, case)
    assert case.outs[0] == case.outs[1] == case.outs[2]


def test_progress_grows_to_all_that_is_received() -> None:
    case = Case(("a", "b"))
    with swarm("a", "b") as engines:
        events = {member: case.start(engines[member], member) for member in case.members}
        ends = [events[member].done() for member in case.members]
    reports = events["a"].progress
    assert reports and [report.done_bytes for report in reports] == sorted(report.done_bytes for report in reports)
    assert {report.total_bytes for report in reports} == {2 * len(case.outs[0])}
    assert len(case.outs[0]) <= reports[-1].done_bytes <= reports[-1].total_bytes <= 2 * ends[0].sent_bytes


@pytest.mark.parametrize("ends_well", [True, False])
def test_no_view_of_the_buffers_is_left_when_the_end_is_reported(ends_well: bool) -> None:
    case = Case(("a", "b"))
    memory = mmap.mmap(-1, 2 * len(case.outs[0]))
    half = len(case.outs[0])
    memory[:half] = bytes(case.deltas[0])
    whole = memoryview(memory)
    own, out = whole[:half].toreadonly(), whole[half:]
    ended = Events()

    def on_event(event: BulkEvent) -> None:
        if isinstance(event, (TransferDone, TransferFailed)):
            own.release(), out.release(), whole.release()
            memory.close()  # BufferError if anything in the engine still looks at it
            ended(event)

    with swarm("a", "b") as engines:
        engines["a"].start_collective(
            CollectiveJob(
                transfer_id(case.name), case.members, case.weights, "int8", case.elements, own, out, 9.0, 9.0
            ),
            on_event,
        )
        if ends_well:
            case.start(engines["b"], "b").done()
            ended.done()
        else:
            engines["a"].abort(transfer_id(case.name))
            ended.failed()
    assert memory.closed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"members": ("a", "a")}, "distinct"),
        ({"members": ("b", "c")}, "include this host"),
        ({"weights": (1.0,)}, "as many weights"),
        ({"weights": (1.0, math.nan)}, "finite"),
        ({"weights": (0.0, 0.0)}, "not all 0"),
        ({"codec": "int3"}, "unknown codec"),
        ({"codec": "int4"}, "int4 loses too much"),
        ({"schedule": "star"}, "unknown schedule"),
        ({"shape": (1,)}, "a ring of 2 members has no shape"),
        ({"schedule": "torus"}, "a torus of 2 members has no shape"),
        ({"schedule": "torus", "shape": (3,)}, "do not fill 3 rows"),
        ({"schedule": "direct", "shape": (1, 2, 3)}, "has no shape"),
        ({"schedule": "direct", "shape": (0, 0)}, "has no shape"),
        ({"elements": 512}, "512 elements"),
        ({"out": memoryview(bytes(260_000))}, "read-only"),
        ({"stall_s": 0.0}, "above 0"),
        ({"transfer_id": b"short"}, "32 bytes"),
    ],
)
def test_a_job_that_does_not_fit_together_is_refused_at_once(change: dict[str, object], words: str) -> None:
    fields = {**vars(Case(("a", "b")).job("a")), **change}
    with swarm("a") as engines, pytest.raises(ValueError, match=words):
        engines["a"].start_collective(CollectiveJob(**fields), Events())


def other_process(pipe: multiprocessing.connection.Connection, members: tuple[str, ...], me: str) -> None:
    """A member in a process of its own: takes part in one ring after another until told to stop."""
    engine = Engine(me, "127.0.0.1:0")
    pipe.send(engine.endpoint)
    engine.trust(pipe.recv())
    while name := pipe.recv():
        case = Case(members, name=name)
        case.start(engine, me).done()
        pipe.send_bytes(case.outs[members.index(me)])
    engine.close()


@pytest.mark.slow  # what it takes is a second import of torch; tests/e2e/test_swarm.py kills a whole daemon
def test_a_ring_between_processes_and_one_of_them_is_killed() -> None:
    members = ("a", "b", "other")
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=other_process, args=(there, members, "other"))
    process.start()
    try:
        with swarm("a", "b") as engines:
            assert here.poll(EVENT_S)
            endpoint = here.recv()
            assert isinstance(endpoint, Endpoint)
            trust_all(engines, other=endpoint)
            here.send({peer: engine.endpoint for peer, engine in engines.items()})
            case = Case(members)
            here.send(case.name)
            events = {member: case.start(engines[member], member) for member in ("a", "b")}
            events["a"].done(), events["b"].done()
            assert here.poll(EVENT_S) and here.recv_bytes() == case.outs[0] == case.outs[1]

            # b does not start this one, so that it cannot end before the other process does.
            second = Case(members, name="second")
            here.send(second.name)
            waiting = second.start(engines["a"], "a")
            waiting.next_progress()  # something has come from the other process
            process.kill()
            failure = waiting.failed()
            assert (failure.suspect, failure.silent) == ("other", False)
    finally:
        process.kill()
        process.join(EVENT_S)
