"""The Triton kernels against the reference, bit for bit: goldens, edges, whatever Hypothesis finds."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, empty, nan

from intellectd.kernels import reference
from intellectd.kernels.codec import BF16, CODECS, FP32, GROUP, INT4, INT8, Codec
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import OuterStep, OuterVectors
from tests.kernels import test_edge_cases
from tests.kernels.test_agreement import ALL_CODECS, RING_CODECS, SCALARS, SEEDS, STEPS, vectors
from tests.kernels.test_goldens import GOLDEN, golden_run
from tests.kernels.triton_kernels import DEVICE, TRITON
from tests.kernels.vectors import FINITE_NASTY_BITS, NASTY_BITS, bits, encoded, room, spoilt, tame, with_bits

from intellectd.kernels.cuda.launch import Triton, total_of  # isort: skip  # after triton_kernels: it may skip

EACH_CODEC = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
# Interpreted, a program of sixteen blocks takes some hundredths of a second: a full group only in the goldens.
SIZES = st.integers(0, 3) | st.integers(15, 18)
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter's numpy: NaN, overflow
CASES = settings(max_examples=20 if settings().max_examples < 400 else 250)  # of each of the four tests


@EACH_CODEC
def test_golden_digests(codec: Codec) -> None:
    assert golden_run(TRITON, codec) == GOLDEN[codec.name]


@EACH_CODEC
def test_what_cannot_be_sent(codec: Codec) -> None:
    test_edge_cases.test_nonfinite_is_refused_by_index_and_marked(TRITON, codec, 0xFF800000)
    test_edge_cases.test_a_residual_of_what_was_refused_is_nan(TRITON, codec)
    if codec not in (FP32, BF16):
        test_edge_cases.test_what_would_decode_to_infinity_is_refused(TRITON, codec)


@pytest.mark.parametrize("codec", [INT8, BF16, FP32], ids=lambda codec: codec.name)
def test_a_hop_may_write_where_it_reads(codec: Codec) -> None:
    x, y = encoded(codec, tame(1, 18 * 256)), encoded(codec, tame(2, 18 * 256))
    apart, in_incoming, in_own = room(codec, 18 * 256), x.clone(), y.clone()
    assert TRITON.ring_hop(codec, x, y, 3.0, 5.0, apart)
    assert TRITON.ring_hop(codec, in_incoming, y, 3.0, 5.0, in_incoming)
    assert TRITON.ring_hop(codec, x, in_own, 3.0, 5.0, in_own)
    assert bits(apart) == bits(in_incoming) == bits(in_own)


@pytest.mark.parametrize("codec", [INT8, INT4], ids=lambda codec: codec.name)
def test_denormals_are_not_flushed(codec: Codec) -> None:
    """A scale of the wire's own, of a hostile or a tiny block: its products are denormal and stay."""
    enc = encoded(codec, tame(1, 256))
    scales = 4 if codec is INT8 else 8
    enc[:scales] = torch.tensor([1, 0, 0, 0] if codec is INT8 else [1, 0] * 4, dtype=torch.uint8)
    ours, theirs = empty(256), empty(256)
    TRITON.decode(codec, enc, ours)
    reference.decode(codec, enc, theirs)
    assert bits(ours) == bits(theirs)
    assert 0 < float(theirs.abs().max()) < 2.0**-126
    assert TRITON.encode(FP32, ours, room(FP32, 256)) is None


def test_pieces_of_whole_groups_are_the_whole() -> None:
    """A trainer encodes its delta piece by piece; bytes and norm are those of one go."""
    anchor, local = tame(1, 2 * GROUP + 512), tame(2, 2 * GROUP + 512)
    whole = room(INT8, anchor.numel())
    squares, _ = reference.encode_delta(INT8, anchor, local, whole)
    kernels, parts, sums = Triton(), [], []
    for first in range(0, anchor.numel(), GROUP):
        piece = slice(first, min(first + GROUP, anchor.numel()))
        parts.append(room(INT8, piece.stop - piece.start).to(DEVICE))
        found, refused = kernels.encode_delta_groups(INT8, anchor[piece].to(DEVICE), local[piece].to(DEVICE), parts[-1])
        assert refused is None
        sums += found.tolist()
    assert bits(torch.cat(parts).cpu()) == bits(whole)
    assert total_of(sums) == squares


def agree(run: Callable[..., object], *inputs: Tensor) -> None:
    """Run it with both on copies of the inputs; same answer, same bits left behind."""
    outcomes = []
    for kernels in (reference, TRITON):
        copies = [tensor.clone() for tensor in inputs]
        outcomes.append((run(kernels, *copies), [bits(tensor) for tensor in copies]))
    assert outcomes[0] == outcomes[1]


@CASES
@given(codec=ALL_CODECS, blocks=SIZES, x=vectors(NASTY_BITS), y=vectors(NASTY_BITS), decay=st.sampled_from([1, 0.95]))
def test_encoding(codec: Codec, blocks: int, x: Tensor, y: Tensor, decay: float) -> None:
    x, y = x[: blocks * 256], y[: blocks * 256]

    def run(kernels: Kernels, x: Tensor, y: Tensor, e: Tensor, *outs: Tensor) -> object:
        enc, delta, fed = outs
        first = kernels.encode(codec, x, enc)
        squares, refused = kernels.encode_delta(codec, x, y, delta)
        lost = None
        if codec.feedback_decay is not None:
            _, lost = kernels.encode_delta(codec, x, y, fed, Feedback(e, decay, e))
        kernels.subtract_into(x, y)
        y.masked_fill_(y.isnan(), nan)  # NaN − NaN: whose payload it is differs
        return squares if refused is None else refused, first, lost, kernels.finite(codec, enc)

    agree(run, x, y, tame(blocks, 18 * 256)[: x.numel()], *(room(codec, x.numel()) for _ in range(3)))


@CASES
@given(codec=ALL_CODECS, blocks=SIZES, x=vectors(NASTY_BITS), seed=SEEDS, weight=SCALARS, hostile=st.booleans())
def test_decoding(codec: Codec, blocks: int, x: Tensor, seed: int, weight: float, hostile: bool) -> None:
    x = x[: blocks * 256]
    enc = spoilt(encoded(codec, x), seed) if hostile else encoded(codec, x)

    def run(kernels: Kernels, enc: Tensor, out: Tensor, total: Tensor, mean: Tensor) -> object:
        kernels.decode(codec, enc, out)
        kernels.decode_add(codec, enc, weight, total)
        first = kernels.encode_mean(codec, total, weight or 1.0, mean)
        total.masked_fill_(total.isnan(), nan)
        return first, kernels.finite(codec, enc)

    agree(run, enc, empty(x.numel()), tame(seed, 18 * 256)[: x.numel()], room(codec, x.numel()))


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

    def run(kernels: Kernels, incoming: Tensor, own: Tensor, out: Tensor) -> object:
        return kernels.ring_hop(codec, None if hostile is None else incoming, own, weight, divisor, out)

    agree(run, incoming, enc, room(codec, blocks * 256))


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

    def run(kernels: Kernels, update: Tensor, theta: Tensor, momentum: Tensor, gathered: Tensor) -> None:
        kernels.outer_step(codec, update, step, OuterVectors(theta, momentum, gathered))
        for vector in (theta, momentum):  # infinity less infinity: whose NaN it is differs
            vector.masked_fill_(vector.isnan(), nan)

    agree(run, encoded(codec, update[:size]), theta[:size], momentum[:size], tame(blocks, 18 * 256)[:size])


def test_the_first_of_equals_is_selected() -> None:
    """Top-k where a chunk is full of ties, of both signs, across the threshold."""
    x = torch.ones(17 * 256)
    x[1::2] = -1.0
    x = with_bits(x, {5: 0x40000000, 4095: 0xC0000000})
    topk = CODECS["topk"]
    ours, theirs = room(topk, x.numel()), room(topk, x.numel())
    assert TRITON.encode(topk, x, ours) is None and reference.encode(topk, x, theirs) is None
    assert bits(ours) == bits(theirs)
