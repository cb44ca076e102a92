"""Every kernel: against a dumb reference, against golden digests, and C against torch bit for bit."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from intellectd.kernels.agreement import first_difference
from intellectd.kernels.codec import FP32, GROUP, INT8, Codec
from intellectd.kernels.interface import Kernels
from tests.kernels.vectors import (
    FINITE_NASTY_BITS,
    IMPLEMENTATIONS,
    NASTY_BITS,
    bits,
    decoded,
    encoded,
    fingerprint,
    raw_bytes,
    room,
    tame,
    with_bits,
)

BOTH = pytest.mark.parametrize("kernels", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
CODECS = pytest.mark.parametrize("codec", [INT8, FP32], ids=lambda codec: codec.name)
ELEMENTS = GROUP + 3 * 256  # a whole group and a short one


def dumb_outer_step(theta: Tensor, momentum: Tensor, d: Tensor, lr: float, mu: float) -> tuple[Tensor, Tensor]:
    """Nesterov as torch.optim.SGD has it, one operation on whole vectors after another."""
    lr32, mu32 = torch.tensor(lr), torch.tensor(mu)
    momentum = torch.add(torch.mul(momentum, mu32), d)
    return torch.sub(theta, torch.mul(lr32, torch.add(d, torch.mul(mu32, momentum)))), momentum


@BOTH
@CODECS
def test_outer_step_is_nesterov(kernels: Kernels, codec: Codec) -> None:
    theta, momentum = tame(1, ELEMENTS), torch.zeros(ELEMENTS)
    expected = theta.clone(), momentum.clone()
    for round_ in range(3):
        update = encoded(codec, tame(10 + round_, ELEMENTS, exponent=-8))
        kernels.outer_step(codec, update, theta, momentum, 0.7, 0.9)
        expected = dumb_outer_step(*expected, decoded(codec, update), 0.7, 0.9)
    assert (bits(theta), bits(momentum)) == (bits(expected[0]), bits(expected[1]))


def ring_of_three(kernels: Kernels, codec: Codec, deltas: list[Tensor], weights: list[float]) -> Tensor:
    partial = room(codec, ELEMENTS)
    own = [encoded(codec, delta) for delta in deltas]
    assert kernels.ring_hop(codec, None, own[0], weights[0], None, partial)
    assert kernels.ring_hop(codec, partial, own[1], weights[1], None, partial)
    assert kernels.ring_hop(codec, partial, own[2], weights[2], sum(weights), partial)
    return partial


@BOTH
@pytest.mark.parametrize(("codec", "error"), [(INT8, 0.02), (FP32, 1e-6)], ids=["int8", "fp32"])
def test_a_ring_gives_the_weighted_mean(kernels: Kernels, codec: Codec, error: float) -> None:
    deltas, weights = [tame(seed, ELEMENTS) for seed in (1, 2, 3)], [1000.0, 3000.0, 500.0]
    mean = sum(w * d.double() for w, d in zip(weights, deltas, strict=True)) / torch.tensor(4500.0)
    result = decoded(codec, ring_of_three(kernels, codec, deltas, weights)).double()
    assert float((result - mean).norm() / mean.norm()) < error


GOLDEN = {
    "int8": {
        "encode": "f92a7c0d1a86f66e7ccd9efc5f8f8af3",
        "encode_delta": "1f34b75ead61eb9d9f35e9ed4059acd8",
        "decode": "6053ec7683e215dbe9e31889956debc3",
        "ring": "901bc301924d74511c6fc68889667e92",
        "outer_step": "c11fee2c69efd54f752bdef38702fe7a",
        "subtract_into": "5837a28c329842307526d33a720efea8",
    },
    "fp32": {
        "encode": "f452a8cb35756fd9b813ba7d6eb5ca25",
        "encode_delta": "96d0ccec70412202ea56a8874d90ac7c",
        "decode": "f452a8cb35756fd9b813ba7d6eb5ca25",
        "ring": "6437941dad255c8c4f9ee029dfe7f446",
        "outer_step": "a735aa975116695501ec25043ecf40f1",
        "subtract_into": "5008576355afadcc2a604e520c375890",
    },
}


def golden_run(kernels: Kernels, codec: Codec) -> dict[str, str]:
    x, y, momentum = tame(1, ELEMENTS), tame(2, ELEMENTS), tame(3, ELEMENTS, exponent=-10)
    enc, delta, back = room(codec, ELEMENTS), room(codec, ELEMENTS), torch.empty(ELEMENTS)
    kernels.encode(codec, x, enc)
    squares, _ = kernels.encode_delta(codec, x, y, delta)
    kernels.decode(codec, enc, back)
    found = {
        "encode": fingerprint(enc),
        "encode_delta": fingerprint(delta, torch.tensor(squares, dtype=torch.float64)),
        "decode": fingerprint(back),
        "ring": fingerprint(ring_of_three(kernels, codec, [x, y, momentum], [7.0, 11.0, 13.0])),
    }
    kernels.outer_step(codec, enc, y, momentum, 0.7, 0.9)
    found["outer_step"] = fingerprint(y, momentum)
    kernels.subtract_into(x, y)
    return {**found, "subtract_into": fingerprint(y)}


@BOTH
@CODECS
def test_golden_digests(kernels: Kernels, codec: Codec) -> None:
    """These bits are the protocol: a change here splits a run between versions."""
    assert golden_run(kernels, codec) == GOLDEN[codec.name]


def vectors(nasty: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    """Tame numbers at some magnitude with nasty ones dropped in; the length comes from the test."""
    places = st.dictionaries(st.integers(0, 255), st.sampled_from(nasty), max_size=6)
    return st.builds(
        lambda seed, exponent, places: with_bits(tame(seed, LONGEST, exponent), places),
        st.integers(0, 2**32),
        st.integers(-149, 127),
        places,
    )


LONGEST = 67 * 256
SIZES = st.integers(0, 3) | st.integers(62, 67)  # blocks: none, few, around a whole group
SCALARS = st.floats(0, 2.0**100, width=32) | st.sampled_from([1.0, 0.9, 1 / 3, 65536.0])


def both(run: object, *inputs: Tensor) -> None:
    """Run it with each implementation on copies of the inputs; same answer, same bits left behind."""
    assert callable(run)
    outcomes = []
    for kernels in IMPLEMENTATIONS.values():
        copies = [tensor.clone() for tensor in inputs]
        outcomes.append((run(kernels, *copies), [bits(tensor) for tensor in copies]))
    assert outcomes.count(outcomes[0]) == len(outcomes)


AGREE = settings(max_examples=25)  # of each codec, through all kernels


@CODECS
@AGREE
@given(blocks=SIZES, x=vectors(NASTY_BITS), y=vectors(NASTY_BITS))
def test_agreement_of_encode_decode_subtract(codec: Codec, blocks: int, x: Tensor, y: Tensor) -> None:
    x, y = x[: blocks * 256], y[: blocks * 256]

    def run(kernels: Kernels, x: Tensor, y: Tensor, enc: Tensor, delta: Tensor, back: Tensor) -> object:
        squares, refused = kernels.encode_delta(codec, x, y, delta)
        first = kernels.encode(codec, x, enc)
        kernels.decode(codec, enc, back)
        kernels.subtract_into(x, y)
        # Whose payload survives NaN − NaN is a matter of operand order; a delta that holds one is refused anyway.
        y.masked_fill_(y.isnan(), torch.nan)
        return squares if refused is None else refused, first, kernels.finite(codec, enc)

    both(run, x, y, room(codec, x.numel()), room(codec, x.numel()), torch.empty(x.numel()))


@CODECS
@AGREE
@given(
    blocks=SIZES,
    seed=st.integers(0, 2**32),
    own=vectors(NASTY_BITS),
    weight=SCALARS,
    divisor=st.none() | SCALARS.filter(bool),
    hostile=st.sampled_from([None, False, True]),
)
def test_agreement_of_ring_hop(
    codec: Codec, blocks: int, seed: int, own: Tensor, weight: float, divisor: float | None, hostile: bool | None
) -> None:
    enc = encoded(codec, own[: blocks * 256])
    incoming = torch.tensor(list(raw_bytes(seed, enc.numel())), dtype=torch.uint8) if hostile else enc.clone()

    def run(kernels: Kernels, incoming: Tensor, own: Tensor, out: Tensor) -> object:
        return kernels.ring_hop(codec, None if hostile is None else incoming, own, weight, divisor, out)

    both(run, incoming, enc, room(codec, blocks * 256))


@CODECS
@AGREE
@given(
    blocks=SIZES,
    update=vectors(FINITE_NASTY_BITS),
    theta=vectors(FINITE_NASTY_BITS),
    momentum=vectors(FINITE_NASTY_BITS),
    lr=SCALARS,
    mu=st.floats(0, 1, width=32),
)
def test_agreement_of_outer_step(
    codec: Codec, blocks: int, update: Tensor, theta: Tensor, momentum: Tensor, lr: float, mu: float
) -> None:
    size = blocks * 256

    def run(kernels: Kernels, update: Tensor, theta: Tensor, momentum: Tensor) -> None:
        kernels.outer_step(codec, update, theta, momentum, lr, mu)

    both(run, encoded(codec, update[:size]), theta[:size], momentum[:size])


@BOTH
@CODECS
def test_out_may_be_incoming_or_own(kernels: Kernels, codec: Codec) -> None:
    incoming, own = encoded(codec, tame(1, ELEMENTS)), encoded(codec, tame(2, ELEMENTS))
    apart = room(codec, ELEMENTS)
    kernels.ring_hop(codec, incoming, own, 3.0, 4.0, apart)
    over_incoming, over_own = incoming.clone(), own.clone()
    kernels.ring_hop(codec, over_incoming, own, 3.0, 4.0, over_incoming)
    kernels.ring_hop(codec, incoming, over_own, 3.0, 4.0, over_own)
    assert bits(apart) == bits(over_incoming) == bits(over_own)


@BOTH
@CODECS
def test_slices_at_groups_are_the_whole(kernels: Kernels, codec: Codec) -> None:
    """What a ring relies on: pieces cut at groups, each encoded alone, are the vector encoded at once."""
    x, whole, pieces = tame(1, ELEMENTS), room(codec, ELEMENTS), room(codec, ELEMENTS)
    kernels.encode(codec, x, whole)
    for first, last in ((0, GROUP), (GROUP, ELEMENTS)):
        start, stop = codec.byte_range(first, last)
        kernels.encode(codec, x[first:last], pieces[start:stop])
    assert bits(whole) == bits(pieces)


@BOTH
def test_carry_over_keeps_the_uncommitted_part(kernels: Kernels) -> None:
    old, new, local = tame(1, 256), tame(2, 256), tame(3, 256)
    carried = local.clone()
    kernels.subtract_into(old, carried)
    kernels.subtract_into(new, carried)
    assert bits(carried) == bits(new - (old - local))


@BOTH
def test_flush_to_zero_of_the_thread_changes_nothing(kernels: Kernels) -> None:
    """A library loaded with -ffast-math leaves its thread flushing denormals; results must not notice."""
    x, y = tame(1, 512, exponent=-140), tame(2, 512, exponent=-140)
    assert bool((x != 0).any())
    found: list[bytes] = []

    def flushing() -> None:
        torch.set_flush_denormal(True)
        try:
            kernels.subtract_into(x, y)
            found.append(bits(y))
        finally:
            torch.set_flush_denormal(False)

    expected = bits(x - y)
    thread = threading.Thread(target=flushing)
    thread.start()
    thread.join()
    assert found == [expected]


class Contracted:
    """A build that fused one multiply-add: what the check at load exists for."""

    def __init__(self, sound: Kernels) -> None:
        self._sound = sound

    def __getattr__(self, name: str) -> object:
        return getattr(self._sound, name)

    def outer_step(self, codec: Codec, update: Tensor, theta: Tensor, momentum: Tensor, lr: float, mu: float) -> None:
        d = decoded(codec, update)
        momentum.copy_((float(torch.tensor(mu)) * momentum.double() + d).float())
        theta.copy_(theta - torch.tensor(lr) * (d + torch.tensor(mu) * momentum))


@BOTH
def test_the_check_at_load_sees_a_fused_multiply_add(kernels: Kernels) -> None:
    assert first_difference(kernels, kernels) is None
    assert first_difference(Contracted(kernels), kernels) == "outer_step of fp32"  # type: ignore[arg-type]
