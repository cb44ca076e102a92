"""Hops on ranges: the bits of `ops.ring_hop`, with every implementation, and nothing outside the vectors."""

import pytest
import torch

from intellectd.kernels import hops, ops, reference
from intellectd.kernels.codec import BF16, FP32, GROUP, INT4, INT8, Codec
from intellectd.kernels.hops import Hops

ELEMENTS = 3 * GROUP + 512  # ends with less than a group


def encoded(codec: Codec, seed: int) -> bytearray:
    x = torch.randn(ELEMENTS, generator=torch.Generator().manual_seed(seed))
    room = bytearray(codec.encoded_bytes(ELEMENTS))
    assert ops.encode(codec, x, ops.as_bytes(room)) is None
    return room


@pytest.fixture(params=["in use", "torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "torch":
        monkeypatch.setattr(hops, "in_use", lambda: reference)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("codec", [FP32, INT8, BF16], ids=lambda codec: codec.name)
@pytest.mark.parametrize("divides", [False, True])
def test_the_bits_of_a_hop_over_the_whole(codec: Codec, divides: bool) -> None:
    own, out, expected = encoded(codec, 1), encoded(codec, 2), encoded(codec, 2)
    first = bytearray(len(own))
    ranges = [codec.byte_range(0, GROUP), codec.byte_range(GROUP, ELEMENTS)]
    found = Hops(codec, ops.as_bytes(own), ops.as_bytes(out), 0.3, 1.7)
    for start, stop in ranges:
        assert found.start(start, stop, memoryview(first)[start:stop])
        assert found.add(start, stop, divides)
        assert found.finite(start, stop)
    whole = ops.as_bytes(expected)
    assert ops.ring_hop(codec, whole, ops.as_bytes(own), 0.3, 1.7 if divides else None, whole)
    assert out == expected
    assert ops.ring_hop(codec, None, ops.as_bytes(own), 0.3, None, whole)
    assert first == expected


@pytest.mark.usefixtures("implementation")
def test_what_is_not_finite_is_said_of_its_range_alone() -> None:
    own, out = encoded(FP32, 1), encoded(FP32, 2)
    out[:4] = torch.tensor([float("inf")]).numpy().tobytes()
    found = Hops(FP32, ops.as_bytes(own), ops.as_bytes(out), 1.0, 2.0)
    first, second = FP32.byte_range(0, GROUP), FP32.byte_range(GROUP, 2 * GROUP)
    assert not found.finite(*first) and found.finite(*second)
    assert not found.add(*first, True) and found.add(*second, True)


def test_only_ranges_within_the_vectors_and_rooms_of_their_size() -> None:
    own, out = encoded(INT8, 1), encoded(INT8, 2)
    found = Hops(INT8, ops.as_bytes(own), ops.as_bytes(out), 1.0, 2.0)
    size, group = len(own), INT8.group_bytes
    for start, stop in ((-group, 0), (0, size + group), (group, 0), (0, group - 1)):
        with pytest.raises(ValueError, match="bytes"):
            found.finite(start, stop)
    for room in (memoryview(bytearray(group - 1)), memoryview(bytes(group))):
        with pytest.raises(ValueError, match="a room of"):
            found.start(0, group, room)


def test_vectors_that_no_ring_may_have() -> None:
    own, out = ops.as_bytes(encoded(INT8, 1)), ops.as_bytes(encoded(INT8, 2))
    with pytest.raises(ValueError, match="loses too much"):
        Hops(INT4, own, out, 1.0, 1.0)
    with pytest.raises(ValueError, match="out has"):
        Hops(INT8, own, out[: INT8.group_bytes], 1.0, 1.0)
    with pytest.raises(ValueError, match="overlaps"):
        Hops(INT8, out[: INT8.group_bytes], out[260 : 260 + INT8.group_bytes], 1.0, 1.0)
    with pytest.raises(ValueError, match="divisor"):
        Hops(INT8, own, out, 1.0, 0.0)
