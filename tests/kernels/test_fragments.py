"""Fragments in the arena, and their chunks."""

import pytest

from intellectd.kernels.codec import GROUP
from intellectd.kernels.digest import LEAF_BYTES, leaf_hashes
from intellectd.kernels.fragments import ALIGNMENT, FRAGMENTS_MAX, Fragments, layer_number, strided
from intellectd.kernels.layout import Layout, LayoutError, TensorSpec
from tests.kernels.vectors import tame

SPECS = [TensorSpec("embed", (300, 10)), *(TensorSpec(f"layers.{n}.w", (40, 50)) for n in range(6))]


def test_one_fragment_is_the_model() -> None:
    whole = Fragments([Layout(SPECS)])
    assert (whole.parts[0].start, whole.elements) == (0, Layout(SPECS).elements)
    assert whole.find(0) == "embed" and whole.find(whole.elements - 1) == "layers.5.w"


def test_layers_are_dealt_out_in_turn() -> None:
    layouts = strided(SPECS, 3, layer_number)
    names = [[slot.name for slot in layout.slots] for layout in layouts]
    assert names == [
        ["embed", "layers.0.w", "layers.3.w"],
        ["layers.1.w", "layers.4.w"],
        ["layers.2.w", "layers.5.w"],
    ]
    assert [layer_number(name) for name in ("h.12.mlp.3", "embed", "²", "a.x7")] == [12, None, None, None]
    with pytest.raises(LayoutError, match="fragment 6 of 7 has no tensor"):
        strided(SPECS, 7, layer_number)


def test_each_has_leaves_of_its_own() -> None:
    arena = Fragments(strided(SPECS, 3, layer_number))
    assert [part.start for part in arena.parts] == [0, ALIGNMENT, 2 * ALIGNMENT]
    memory = tame(1, arena.elements)
    leaves = leaf_hashes(memory)
    middle = arena.parts[1]
    memory[middle.start : middle.stop] = 0.0
    assert [a == b for a, b in zip(leaves, leaf_hashes(memory), strict=True)] == [True, False, True]
    assert ALIGNMENT * 4 == LEAF_BYTES


def test_find_names_the_tensor_and_refuses_the_gap() -> None:
    arena = Fragments(strided(SPECS, 3, layer_number))
    for part in arena.parts:
        for slot in part.layout.slots:
            assert (
                arena.find(part.start + slot.offset)
                == arena.find(part.start + slot.offset + slot.size - 1)
                == slot.name
            )
    for nowhere in (-1, arena.parts[0].stop, arena.elements):
        with pytest.raises(LayoutError, match="outside the vector"):
            arena.find(nowhere)


def test_chunks_cover_a_fragment_in_whole_groups() -> None:
    part = Fragments([Layout([TensorSpec("a", (5 * GROUP + 300,))])]).parts[0]
    assert list(part.chunks(2 * GROUP)) == [
        (0, 2 * GROUP),
        (2 * GROUP, 4 * GROUP),
        (4 * GROUP, 5 * GROUP + 512),
    ]
    for wrong in (0, GROUP + 1, -GROUP):
        with pytest.raises(LayoutError, match="multiple of 16384"):
            list(part.chunks(wrong))


def test_refused() -> None:
    with pytest.raises(LayoutError, match="1 to 1024 fragments, not 0"):
        Fragments([])
    with pytest.raises(LayoutError, match="not 1025"):
        Fragments([Layout(SPECS[:1])] * (FRAGMENTS_MAX + 1))
    with pytest.raises(LayoutError, match="'embed' is in two fragments"):
        Fragments([Layout(SPECS), Layout(SPECS[:1])])
