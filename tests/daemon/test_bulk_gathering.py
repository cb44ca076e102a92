"""Parts that are summed in the members' order, in a window of chunks, whatever comes first."""

import gc
import threading
import tracemalloc
import weakref

import pytest
import torch

from intellectd.daemon.bulk.collective_buffers import Buffers
from intellectd.daemon.bulk.collective_plan import CollectivePlan, plan_of
from intellectd.daemon.bulk.errors import WireError
from intellectd.daemon.bulk.gathering import Gathering
from intellectd.daemon.bulk.limits import GATHERED_MAX
from intellectd.daemon.bulk.schedules.chunks import CHUNK_ELEMENTS
from intellectd.kernels import ops
from tests.daemon.bulk_swarm import Case, swarm

ME = "b"  # the second of three: its own part is added between the others'
CHUNKS = GATHERED_MAX + 3


def gathering() -> tuple[Case, CollectivePlan, Gathering]:
    # All slices but b's are empty.
    case = Case(("a", "b", "c"), "fp32", CHUNKS * 16 * 16384, schedule="direct", shape=(0, 1, 0))
    plan = plan_of(case.job(ME), ME)
    buffers = Buffers(plan, memoryview(case.deltas[1]).toreadonly(), memoryview(case.outs[1]))
    return case, plan, Gathering(1, 3, [c.index for c in plan.chunks], buffers, threading.Condition())


def test_members_take_turns_and_chunks_need_not() -> None:
    case, plan, found = gathering()
    assert len(plan.chunks) == CHUNKS

    def part(index: int, member: int) -> memoryview:
        return memoryview(case.deltas[member])[plan.chunks[index].start : plan.chunks[index].stop]

    last = plan.chunks[GATHERED_MAX - 1]
    assert found.is_turn(last, 0) and not found.is_turn(last, 2)
    assert not found.add(last, 0, part(last.index, 0))
    assert found.is_turn(last, 2) and not found.is_turn(last, 0)
    assert found.add(last, 2, part(last.index, 2))
    total = torch.zeros(16 * 16384)
    for member in range(3):
        ops.decode_add(plan.codec, ops.as_bytes(part(last.index, member)), case.weights[member], total)
    expected = bytearray(last.size)
    assert ops.encode_mean(plan.codec, total, sum(case.weights), ops.as_bytes(expected)) is None
    assert case.outs[1][last.start : last.stop] == expected


def test_the_window_moves_when_its_first_chunk_is_finished() -> None:
    case, plan, found = gathering()

    def finish(index: int) -> None:
        chunk = plan.chunks[index]
        for member in (0, 2):
            assert found.is_turn(chunk, member)
            found.add(chunk, member, memoryview(case.deltas[member])[chunk.start : chunk.stop])

    first_far = plan.chunks[GATHERED_MAX]
    finish(1), finish(2)
    assert found.is_far(first_far) and not found.is_turn(first_far, 0)
    assert found.near() == list(range(GATHERED_MAX))
    finish(0)
    assert found.near() == list(range(3, GATHERED_MAX + 3))
    assert not found.is_far(first_far) and found.is_turn(first_far, 0)
    for index in range(3, CHUNKS):
        finish(index)
    assert found.near() == [] and found._sums == {}


def test_a_sum_of_another_length_that_is_free_is_no_obstacle() -> None:
    case = Case(("a", "b", "c"), "fp32", 4 * 16 * 16384 + 16384, schedule="direct", shape=(0, 1, 0))  # the last: short
    plan = plan_of(case.job(ME), ME)
    buffers = Buffers(plan, memoryview(case.deltas[1]).toreadonly(), memoryview(case.outs[1]))
    found = Gathering(1, 3, [c.index for c in plan.chunks], buffers, threading.Condition())

    def begin(index: int) -> None:
        assert found.is_turn(plan.chunks[index], 0)

    def finish(index: int) -> None:
        chunk = plan.chunks[index]
        for member in (0, 2):
            found.add(chunk, member, memoryview(case.deltas[member])[chunk.start : chunk.stop])

    for index in (0, 1, 4):
        begin(index)
    for index in (4, 0, 1):  # the short one ahead of the others, as several wires may bring them
        finish(index)
    for index in (2, 3):
        begin(index), finish(index)
    assert found.near() == []
    assert [spare.numel() for spare in buffers._spare].count(16 * 16384) == 2  # and they are used again


def test_a_part_that_is_too_large_by_its_weight_is_its_senders_fault() -> None:
    """Each number of it is one, and each sum of others' too: at the end every owner would have failed by itself."""
    case, plan, found = gathering()
    chunk = plan.chunks[0]
    huge = bytearray(chunk.size)
    torch.frombuffer(huge, dtype=torch.float32)[5] = 3e38
    assert min(case.weights) > 1 and ops.finite(plan.codec, ops.as_bytes(huge))
    assert found.is_turn(chunk, 0)
    with pytest.raises(WireError, match="not finite, or not with its weight"):
        found.add(chunk, 0, memoryview(huge))


def test_the_engines_own_memory_is_free_when_a_collective_ends() -> None:
    """Not when the garbage collector comes by, which may be many rounds later."""

    def exchange(name: str) -> None:
        case = Case(("a", "b"), "fp32", 2 * CHUNK_ELEMENTS, name, schedule="direct")
        for events in [case.start(engines[member], member) for member in case.members]:
            events.done()

    with swarm("a", "b") as engines:
        gc.disable()
        tracemalloc.start()
        try:
            exchange("a first")
            exchange("and another")
            kept = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/bulk/arrivals.py")])
        finally:
            tracemalloc.stop()
            gc.enable()
    assert sum(trace.size for trace in kept.traces) < 4 * CHUNK_ELEMENTS  # a chunk's


def test_sums_that_are_not_finished_are_let_go_at_the_end() -> None:
    _case, plan, found = gathering()
    assert found.is_turn(plan.chunks[0], 0)
    total = weakref.ref(found._sums[0].total)
    found.release()
    assert total() is None
