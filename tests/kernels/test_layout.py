"""Where tensors lie in the flat vector, and what is refused from a peer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intellectd.kernels.layout import DIMENSIONS_MAX, TENSORS_MAX, Layout, LayoutError, Slot, TensorSpec

TWO = [TensorSpec("embed", (100, 3)), TensorSpec("scale", ())]


def test_tensors_start_on_blocks_in_the_order_given() -> None:
    """SPEC M6."""
    layout = Layout(TWO)
    assert layout.slots == (Slot("embed", (100, 3), 0, 300), Slot("scale", (), 512, 1))
    assert layout.elements == 768
    assert layout.parameters == 301


def test_find_names_the_tensor_padding_included() -> None:
    layout = Layout(TWO)
    assert [layout.find(i) for i in (0, 299, 300, 511, 512, 767)] == ["embed"] * 4 + ["scale"] * 2
    for outside in (-1, 768):
        with pytest.raises(LayoutError, match="outside the vector of 768"):
            layout.find(outside)


def test_order_and_shape_make_the_layout_not_dtype() -> None:
    assert Layout(TWO) == Layout([TensorSpec("embed", (100, 3), "bfloat16"), TWO[1]])
    assert hash(Layout(TWO)) == hash(Layout(list(TWO)))
    assert Layout(TWO) != Layout(TWO[::-1])
    assert Layout(TWO) != Layout([TensorSpec("embed", (3, 100)), TWO[1]])


@given(
    st.dictionaries(st.text(min_size=1, max_size=20), st.lists(st.integers(1, 40), max_size=4), min_size=1, max_size=20)
)
def test_wire_round_trip_and_every_element_found(shapes: dict[str, list[int]]) -> None:
    layout = Layout([TensorSpec(name, tuple(shape)) for name, shape in shapes.items()])
    assert Layout.from_wire(layout.to_wire()) == layout
    for slot in layout.slots:
        assert slot.offset % 256 == 0
        assert layout.find(slot.offset) == layout.find(slot.offset + slot.size - 1) == slot.name
    assert layout.elements % 256 == 0


@pytest.mark.parametrize(
    ("specs", "complaint"),
    [
        ([], "no tensors"),
        ([TWO[0], TWO[0]], "'embed' is listed twice"),
        ([TensorSpec("a", (3, 0))], "'a' has dimension 0"),
        ([TensorSpec("a", (-3,))], "'a' has dimension -3"),
        ([TensorSpec("a", (True,))], "'a' has dimension True"),
        ([TensorSpec("a", (2.0,))], "'a' has dimension 2.0"),  # type: ignore[arg-type]
        ([TensorSpec("a", (1,) * (DIMENSIONS_MAX + 1))], "17 dimensions"),
        ([TensorSpec("a", (2**40 + 1,))], "dimension above"),
        ([TensorSpec("a", (2**20, 2**20)), TensorSpec("b", (1,))], "more than 1099511627776 elements up to"),
        ([TensorSpec("ids", (3,), "int64")], "'ids' is int64, only bfloat16, float16, float32, float64"),
        ([TensorSpec("", (3,))], "1 to 512 characters, not 0"),
        ([TensorSpec("x" * 513, (3,))], "1 to 512 characters, not 513"),
        ([TensorSpec("a", (1,))] * (TENSORS_MAX + 1), "100001 tensors, at most 100000"),
    ],
)
def test_refused(specs: list[TensorSpec], complaint: str) -> None:
    with pytest.raises(LayoutError, match=complaint):
        Layout(specs)


# What msgpack can hold.
WIRE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=12,
)


@given(WIRE | st.lists(st.tuples(st.text(), st.lists(WIRE, max_size=3)), max_size=3))
def test_any_wire_is_a_layout_or_a_layout_error(wire: object) -> None:
    try:
        layout = Layout.from_wire(wire)
    except LayoutError:
        return
    assert layout.elements > 0


def test_the_largest_vector_is_allowed() -> None:
    assert Layout([TensorSpec("a", (2**20, 2**20))]).elements == 2**40
