"""Every implementation, thread count and codec against torch, bit for bit, on whatever Hypothesis finds.

The profile `thorough` makes it more than a thousand cases, the default some dozens.
"""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, empty, nan

from intellectd.kernels.codec import CODECS, Codec
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import AverageStep, DelayedNesterovStep, NesterovStep, OuterStep, OuterVectors
from tests.kernels.vectors import (
    FINITE_NASTY_BITS,
    IMPLEMENTATIONS,
    NASTY_BITS,
    bits,
    encoded,
    room,
    spoilt,
    tame,
    with_bits,
)

LONGEST = (3 * 64 + 3) * 256  # three whole groups for three threads, and a short one
SIZES = st.integers(0, 3) | st.integers(15, 17) | st.integers(62, 67) | st.integers(190, 195)
SCALARS = st.floats(0, 2.0**100, width=32) | st.sampled_from([1.0, 0.9, 1 / 3, 65536.0])
SEEDS = st.integers(0, 2**32)
ALL_CODECS = st.sampled_from(list(CODECS.values()))
RING_CODECS = st.sampled_from([codec for codec in CODECS.values() if codec.may_reencode])
CASES = settings(max_examples=40 if settings().max_examples < 400 else 350)  # of each of the four tests
THREADS = (1, 2, 3)


def vectors(nasty: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    """Tame numbers at some magnitude with nasty ones dropped in; the length comes from the test."""
    places = st.dictionaries(st.integers(0, 255) | st.integers(0, LONGEST - 1), st.sampled_from(nasty), max_size=6)
    return st.builds(
        lambda seed, exponent, places: with_bits(tame(seed, LONGEST, exponent), places),
        SEEDS,
        st.integers(-149, 127),
        places,
    )


def agree(run: Callable[..., object], *inputs: Tensor) -> None:
    """Run it with each implementation on copies of the inputs; same answer, same bits left behind."""
    expected = None
    for name, kernels in IMPLEMENTATIONS.items():
        for threads in THREADS if name != "torch" else (1,):
            copies = [tensor.clone() for tensor in inputs]
            outcome = run(kernels, threads, *copies), [bits(tensor) for tensor in copies]
            expected = expected or outcome
            assert outcome == expected, f"{name} with {threads} threads"


@CASES
@given(codec=ALL_CODECS, blocks=SIZES, x=vectors(NASTY_BITS), y=vectors(NASTY_BITS), decay=st.sampled_from([1, 0.95]))
def test_encoding(codec: Codec, blocks: int, x: Tensor, y: Tensor, decay: float) -> None:
    x, y = x[: blocks * 256], y[: blocks * 256]

    def run(kernels: Kernels, threads: int, x: Tensor, y: Tensor, e: Tensor, *outs: Tensor) -> object:
        enc, delta, fed = outs
        first = kernels.encode(codec, x, enc, threads)
        squares, refused = kernels.encode_delta(codec, x, y, delta, threads=threads)
        lost = None
        if codec.feedback_decay is not None:
            _, lost = kernels.encode_delta(codec, x, y, fed, Feedback(e, decay, e), threads)
        kernels.subtract_into(x, y, threads)
        # Whose payload survives NaN − NaN is a matter of operand order; a delta that holds one is refused anyway.
        y.masked_fill_(y.isnan(), nan)
        return squares if refused is None else refused, first, lost, kernels.finite(codec, enc, threads)

    agree(run, x, y, tame(blocks, LONGEST)[: x.numel()], *(room(codec, x.numel()) for _ in range(3)))


@CASES
@given(codec=ALL_CODECS, blocks=SIZES, x=vectors(NASTY_BITS), seed=SEEDS, weight=SCALARS, hostile=st.booleans())
def test_decoding(codec: Codec, blocks: int, x: Tensor, seed: int, weight: float, hostile: bool) -> None:
    x = x[: blocks * 256]
    enc = spoilt(encoded(codec, x), seed) if hostile else encoded(codec, x)

    def run(kernels: Kernels, threads: int, enc: Tensor, out: Tensor, total: Tensor, mean: Tensor) -> object:
        kernels.decode(codec, enc, out, threads)
        kernels.decode_add(codec, enc, weight, total, threads)
        first = kernels.encode_mean(codec, total, weight or 1.0, mean, threads)
        total.masked_fill_(total.isnan(), nan)
        out.masked_fill_(out.isnan(), nan)
        return first, kernels.finite(codec, enc, threads)

    agree(run, enc, empty(x.numel()), tame(seed, LONGEST)[: x.numel()], room(codec, x.numel()))


@CASES
@given(
    codec=RING_CODECS,
    blocks=SIZES,
    seed=SEEDS,
    own=vectors(NASTY_BITS),
    weight=SCALARS,
    divisor=st.none() | SCALARS.filter(bool),
    hostile=st.sampled_from([None, False, True]),
)
def test_ring_hops(
    codec: Codec, blocks: int, seed: int, own: Tensor, weight: float, divisor: float | None, hostile: bool | None
) -> None:
    enc = encoded(codec, own[: blocks * 256])
    incoming = spoilt(enc, seed) if hostile else enc

    def run(kernels: Kernels, threads: int, incoming: Tensor, own: Tensor, out: Tensor) -> object:
        return kernels.ring_hop(codec, None if hostile is None else incoming, own, weight, divisor, out, threads)

    agree(run, incoming, enc, room(codec, blocks * 256))


STEPS: st.SearchStrategy[OuterStep] = st.one_of(
    st.builds(NesterovStep, SCALARS, st.floats(0, 1, width=32)),
    st.builds(AverageStep, SCALARS),
    st.builds(DelayedNesterovStep, SCALARS, st.floats(0, 1, width=32), st.integers(1, 1024), st.booleans()),
)


@CASES
@given(
    codec=ALL_CODECS,
    blocks=SIZES,
    update=vectors(FINITE_NASTY_BITS),
    theta=vectors(FINITE_NASTY_BITS),
    momentum=vectors(FINITE_NASTY_BITS),
    step=STEPS,
)
def test_outer_steps(
    codec: Codec, blocks: int, update: Tensor, theta: Tensor, momentum: Tensor, step: OuterStep
) -> None:
    size = blocks * 256

    def run(kernels: Kernels, threads: int, update: Tensor, theta: Tensor, momentum: Tensor, gathered: Tensor) -> None:
        kernels.outer_step(codec, update, step, OuterVectors(theta, momentum, gathered), threads)
        for vector in (theta, momentum):  # infinity less infinity: whose NaN it is differs
            vector.masked_fill_(vector.isnan(), nan)

    agree(run, encoded(codec, update[:size]), theta[:size], momentum[:size], tame(blocks, LONGEST)[:size])
