"""Shards in the flat vector: the arithmetic against torch's own, then two ranks of FSDP2 that write one arena."""

import itertools
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from intellectd.kernels.layout import Layout, LayoutError, Slot, TensorSpec
from intellectd.kernels.shards import Box, Cut, box_of, ranges_of, view_of

SHAPES = st.lists(st.integers(1, 7), max_size=4)


@given(st.integers(1, 40), st.integers(1, 9))
def test_a_dimension_is_cut_as_torch_cuts_it(size: int, ranks: int) -> None:
    pieces = [piece.tolist() for piece in torch.arange(size).chunk(ranks)]
    boxes = [box_of((size,), [Cut(0, ranks, rank)]) for rank in range(ranks)]
    ours = [list(range(box.offsets[0], box.offsets[0] + box.extents[0])) for box in boxes]
    assert ours == pieces + [[]] * (ranks - len(pieces))  # torch gives fewer pieces, DTensor empty ones


@given(SHAPES, st.data())
def test_ranges_and_view_are_the_same_elements(shape: list[int], data: st.DataObject) -> None:
    slot = Layout([TensorSpec("before", (3,)), TensorSpec("it", tuple(shape))]).slots[1]
    cuts = []
    for dim in data.draw(st.lists(st.integers(0, len(shape) - 1), max_size=3)) if shape else []:
        ranks = data.draw(st.integers(1, 4))
        cuts.append(Cut(dim, ranks, data.draw(st.integers(0, ranks - 1))))
    box = box_of(shape, cuts)
    flat = torch.arange(slot.offset + slot.size)
    runs = list(ranges_of(slot, box))
    assert [i for first, last in runs for i in range(first, last)] == view_of(flat, slot, box).reshape(-1).tolist()
    assert all(left[1] < right[0] for left, right in itertools.pairwise(runs))  # no run could be longer
    if all(cut.dim == 0 for cut in cuts):
        assert len(runs) == (0 if box.empty else 1)


@given(SHAPES.filter(bool), st.integers(1, 5))
def test_all_ranks_together_hold_everything_once(shape: list[int], ranks: int) -> None:
    slot = Slot("it", tuple(shape), 0, int(torch.tensor(shape).prod()))
    held = [
        i for rank in range(ranks) for first, last in ranges_of(slot, box_of(shape, [Cut(len(shape) - 1, ranks, rank)]))
        for i in range(first, last)
    ]  # fmt: skip
    assert sorted(held) == list(range(slot.size))


def test_refused() -> None:
    slot = Slot("w", (4, 5), 256, 20)
    for cut in (Cut(2, 2, 0), Cut(-1, 2, 0), Cut(0, 2, 2), Cut(0, 2, -1)):
        with pytest.raises(LayoutError, match="does not fit a tensor of shape"):
            box_of(slot.shape, [cut])
    for box in (Box((0,), (4,)), Box((0, 1), (4, 5)), Box((-1, 0), (1, 5)), Box((0, 0), (5, 5))):
        with pytest.raises(LayoutError, match="no part of tensor 'w'"):
            list(ranges_of(slot, box))


RANKS = 2


def rank(number: int, folder: str, elements: int) -> None:
    """One rank of an FSDP2 job on gloo: writes its shards, trains on, goes back to what stands in the arena."""
    from torch import distributed
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, Shard

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=RANKS)
    model = model_of()
    layout, before = layout_of(model), [parameter.detach().clone() for parameter in model.parameters()]
    arena = torch.from_file(f"{folder}/arena", shared=True, size=elements)
    fully_shard(model, mesh=distributed.init_device_mesh("cpu", (RANKS,)))
    places = []
    for slot, parameter in zip(layout.slots, model.parameters(), strict=True):
        assert isinstance(parameter, DTensor) and isinstance(parameter.placements[0], Shard)
        box = box_of(slot.shape, [Cut(parameter.placements[0].dim, RANKS, number)])
        assert box.extents == tuple(parameter.to_local().shape)
        places.append((parameter, view_of(arena, slot, box)))
    with torch.no_grad():
        for parameter, place in places:
            place.copy_(parameter.to_local())
            parameter.to_local().add_(1.0)
        for parameter, place in places:
            parameter.to_local().copy_(place)
    assert all(p.full_tensor().equal(old) for (p, _), old in zip(places, before, strict=True))
    distributed.barrier()
    distributed.destroy_process_group()
    # Not by way of the interpreter's end: there a thread of torch's that nobody joins ends the process with an abort
    # now and then ("terminate called without an active exception"), when all that is asked here is done.
    os._exit(0)


def model_of() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 1), nn.LayerNorm(1))  # rows that two ranks cannot share evenly


def layout_of(model: nn.Module) -> Layout:
    return Layout([TensorSpec(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()])


@pytest.mark.slow
def test_ranks_of_an_fsdp2_job_write_their_shards_into_one_arena(tmp_path: Path) -> None:
    model = model_of()
    layout = layout_of(model)
    (tmp_path / "arena").write_bytes(bytes(layout.elements * 4))
    spawn = multiprocessing.get_context("spawn")
    ranks = [spawn.Process(target=rank, args=(n, str(tmp_path), layout.elements)) for n in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0] * RANKS
    expected = torch.zeros(layout.elements)
    for slot, parameter in zip(layout.slots, model.parameters(), strict=True):
        expected[slot.offset : slot.offset + slot.size] = parameter.detach().reshape(-1)
    arena = torch.from_file(str(tmp_path / "arena"), size=layout.elements)
    assert torch.equal(arena, expected)
