"""What each pass computes, against dumb whole-vector arithmetic; what may overlap, be cut or run anywhere."""

import threading

import pytest
import torch
from torch import Tensor

from intellectd.kernels.agreement import first_difference
from intellectd.kernels.codec import BF16, CODECS, FP32, GROUP, INT4, INT8, TOPK, Codec
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import AverageStep, DelayedNesterovStep, NesterovStep, OuterStep, OuterVectors
from tests.kernels.vectors import ELEMENTS, EVERYWHERE, bits, decoded, encoded, ring_of_three, room, tame

ALL_CODECS = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
RING_CODECS = pytest.mark.parametrize("codec", [INT8, BF16, FP32], ids=lambda codec: codec.name)


def dumb_nesterov(theta: Tensor, momentum: Tensor, d: Tensor, lr: float, mu: float) -> tuple[Tensor, Tensor]:
    """Nesterov as torch.optim.SGD has it, one operation on whole vectors after another."""
    lr32, mu32 = torch.tensor(lr), torch.tensor(mu)
    momentum = torch.add(torch.mul(momentum, mu32), d)
    return torch.sub(theta, torch.mul(lr32, torch.add(d, torch.mul(mu32, momentum)))), momentum


@EVERYWHERE
@ALL_CODECS
def test_outer_step_is_nesterov(kernels: Kernels, codec: Codec) -> None:
    theta, momentum = tame(1, ELEMENTS), torch.zeros(ELEMENTS)
    expected = theta.clone(), momentum.clone()
    for round_ in range(3):
        update = encoded(codec, tame(10 + round_, ELEMENTS, exponent=-8))
        kernels.outer_step(codec, update, NesterovStep(0.7, 0.9), OuterVectors(theta, momentum))
        expected = dumb_nesterov(*expected, decoded(codec, update), 0.7, 0.9)
    assert (bits(theta), bits(momentum)) == (bits(expected[0]), bits(expected[1]))


@EVERYWHERE
@ALL_CODECS
def test_averaging_with_rate_1_takes_the_mean_of_the_parameters(kernels: Kernels, codec: Codec) -> None:
    anchor = tame(1, ELEMENTS)
    theta, update = anchor.clone(), encoded(codec, tame(2, ELEMENTS, exponent=-8))
    kernels.outer_step(codec, update, AverageStep(), OuterVectors(theta))
    assert bits(theta) == bits(anchor - decoded(codec, update))


@EVERYWHERE
def test_delayed_nesterov_gathers_and_turns(kernels: Kernels) -> None:
    theta, momentum, gathered = tame(1, 512), tame(2, 512), torch.zeros(512)
    expected, expected_m = theta.double(), momentum.double()
    updates = [tame(seed, 512, exponent=-4) for seed in (3, 4, 5)]
    for number, d in enumerate(updates, 1):
        step = DelayedNesterovStep(0.7, 0.9, delay=3, turn=number == 3)
        kernels.outer_step(FP32, encoded(FP32, d), step, OuterVectors(theta, momentum, gathered))
        expected -= 0.7 * d.double() / 3
    expected_m = 0.9 * expected_m + sum(d.double() for d in updates) / 3
    expected -= 0.7 * 0.9 * expected_m
    assert torch.allclose(momentum.double(), expected_m, rtol=1e-5, atol=1e-7)
    assert torch.allclose(theta.double(), expected, rtol=1e-5, atol=1e-6)
    assert not bool(gathered.any())


@EVERYWHERE
def test_a_delay_of_one_is_nesterov(kernels: Kernels) -> None:
    update = encoded(INT8, tame(1, 512))
    plain, delayed = ((tame(2, 512), tame(3, 512)) for _ in range(2))
    kernels.outer_step(INT8, update, NesterovStep(0.7, 0.9), OuterVectors(*plain))
    step = DelayedNesterovStep(0.7, 0.9, 1, turn=True)
    kernels.outer_step(INT8, update, step, OuterVectors(*delayed, torch.zeros(512)))
    assert torch.equal(plain[0], delayed[0]) and torch.equal(plain[1], delayed[1])


@EVERYWHERE
@pytest.mark.parametrize(("codec", "error"), [(INT8, 0.02), (BF16, 0.006), (FP32, 1e-6)], ids=["int8", "bf16", "fp32"])
def test_a_ring_gives_the_weighted_mean(kernels: Kernels, codec: Codec, error: float) -> None:
    deltas, weights = [tame(seed, ELEMENTS) for seed in (1, 2, 3)], [1000.0, 3000.0, 500.0]
    mean = sum(w * d.double() for w, d in zip(weights, deltas, strict=True)) / torch.tensor(4500.0)
    result = decoded(codec, ring_of_three(kernels, codec, deltas, weights)).double()
    assert float((result - mean).norm() / mean.norm()) < error


@EVERYWHERE
@ALL_CODECS
def test_sums_in_the_open_lose_only_what_each_encoding_lost(kernels: Kernels, codec: Codec) -> None:
    """What the owner of a slice does in the direct schedule: decode, add, divide once."""
    deltas, weights = [tame(seed, ELEMENTS) for seed in (1, 2, 3)], [1000.0, 3000.0, 500.0]
    total, exact = torch.zeros(ELEMENTS), torch.zeros(ELEMENTS, dtype=torch.float64)
    for delta, weight in zip(deltas, weights, strict=True):
        kernels.decode_add(codec, encoded(codec, delta), weight, total)
        exact += weight * decoded(codec, encoded(codec, delta)).double()
    out = room(FP32, ELEMENTS)
    assert kernels.encode_mean(FP32, total, 4500.0, out) is None
    assert torch.allclose(decoded(FP32, out).double(), exact / 4500, rtol=1e-5, atol=1e-7)


@EVERYWHERE
@pytest.mark.parametrize("codec", [c for c in CODECS.values() if c.feedback_decay], ids=lambda codec: codec.name)
def test_feedback_sends_later_what_was_lost(kernels: Kernels, codec: Codec) -> None:
    """With decay 1 nothing is lost for good: what was sent and the error left are what was to be sent."""
    anchor, local, error = tame(1, ELEMENTS), tame(2, ELEMENTS), torch.zeros(ELEMENTS)
    wanted, sent = torch.zeros(ELEMENTS, dtype=torch.float64), torch.zeros(ELEMENTS, dtype=torch.float64)
    for _ in range(3):
        enc, residual = room(codec, ELEMENTS), torch.empty(ELEMENTS)
        _, refused = kernels.encode_delta(codec, anchor, local, enc, Feedback(error, 1.0, residual))
        assert refused is None
        wanted += (anchor - local).double()
        sent += decoded(codec, enc).double()
        error = residual
    assert torch.allclose(sent + error.double(), wanted, atol=1e-5)


@EVERYWHERE
def test_the_norm_is_the_deltas_without_feedback(kernels: Kernels) -> None:
    anchor, local, error = tame(1, 512), tame(2, 512), tame(3, 512)
    out, residual = room(INT4, 512), torch.empty(512)
    plain, _ = kernels.encode_delta(INT4, anchor, local, out)
    assert kernels.encode_delta(INT4, anchor, local, out, Feedback(error, 1.0, residual)) == (plain, None)


@EVERYWHERE
@RING_CODECS
def test_out_may_be_incoming_or_own(kernels: Kernels, codec: Codec) -> None:
    incoming, own = encoded(codec, tame(1, ELEMENTS)), encoded(codec, tame(2, ELEMENTS))
    apart = room(codec, ELEMENTS)
    kernels.ring_hop(codec, incoming, own, 3.0, 4.0, apart)
    over_incoming, over_own = incoming.clone(), own.clone()
    kernels.ring_hop(codec, over_incoming, own, 3.0, 4.0, over_incoming)
    kernels.ring_hop(codec, incoming, over_own, 3.0, 4.0, over_own)
    assert bits(apart) == bits(over_incoming) == bits(over_own)


@EVERYWHERE
@pytest.mark.parametrize("codec", [INT4, TOPK], ids=lambda codec: codec.name)
def test_the_residual_may_lie_where_the_error_was(kernels: Kernels, codec: Codec) -> None:
    anchor, local, error = tame(1, ELEMENTS), tame(2, ELEMENTS), tame(3, ELEMENTS)
    out, apart = room(codec, ELEMENTS), torch.empty(ELEMENTS)
    kernels.encode_delta(codec, anchor, local, out, Feedback(error, 0.95, apart))
    kernels.encode_delta(codec, anchor, local, out, Feedback(error, 0.95, error))
    assert bits(error) == bits(apart)


@EVERYWHERE
@ALL_CODECS
def test_slices_at_groups_are_the_whole(kernels: Kernels, codec: Codec) -> None:
    """What a ring relies on: pieces cut at groups, each encoded alone, are the vector encoded at once."""
    x, whole, pieces = tame(1, ELEMENTS), room(codec, ELEMENTS), room(codec, ELEMENTS)
    kernels.encode(codec, x, whole)
    for first, last in ((0, GROUP), (GROUP, ELEMENTS)):
        start, stop = codec.byte_range(first, last)
        kernels.encode(codec, x[first:last], pieces[start:stop])
    assert bits(whole) == bits(pieces)


@EVERYWHERE
def test_carry_over_keeps_the_uncommitted_part(kernels: Kernels) -> None:
    old, new, local = tame(1, 256), tame(2, 256), tame(3, 256)
    carried = local.clone()
    kernels.subtract_into(old, carried)
    kernels.subtract_into(new, carried)
    assert bits(carried) == bits(new - (old - local))


@EVERYWHERE
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

    def outer_step(
        self, codec: Codec, update: Tensor, step: OuterStep, vectors: OuterVectors, threads: int = 1
    ) -> None:
        if not isinstance(step, NesterovStep):
            self._sound.outer_step(codec, update, step, vectors)
            return
        assert vectors.momentum is not None
        mu = torch.tensor(step.mu)
        d = decoded(codec, update)
        vectors.momentum.copy_((float(mu) * vectors.momentum.double() + d).float())
        vectors.theta.copy_(vectors.theta - torch.tensor(step.lr) * (d + mu * vectors.momentum))


@EVERYWHERE
def test_the_check_at_load_sees_a_fused_multiply_add(kernels: Kernels) -> None:
    assert first_difference(kernels, kernels) is None
    assert first_difference(Contracted(kernels), kernels) == "outer_step of fp32"  # type: ignore[arg-type]
