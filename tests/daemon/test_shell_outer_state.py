"""The outer state's arithmetic against a dumb reference: one line of torch for each word, bit for bit."""

import random
import struct

import pytest
import torch

from intellectd.daemon.attach_events import EncodedDelta
from intellectd.daemon.runs.outer_state import Local, NotUsable, OuterState
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name
from intellectd.kernels.layout import Layout, TensorSpec
from intellectd.kernels.outer import AverageStep, NesterovStep

LAYOUT = Layout([TensorSpec("w", (700,)), TensorSpec("b", (3,))])
N = LAYOUT.elements
LR, MU = 0.7, 0.9


class Reference:
    """Plain fp32 operations, nothing in place, nothing fused."""

    def __init__(self, theta: torch.Tensor, arena: torch.Tensor) -> None:
        self.theta, self.momentum, self.arena = theta.clone(), torch.zeros(N), arena.clone()
        self.anchor = self.theta  # of this host: theta, or its group's
        self.base = self.theta  # what the trainer's work in the arena started from

    def adopt(self) -> None:
        self.arena, self.base = self.anchor.clone(), self.anchor

    def delta(self) -> torch.Tensor:
        if self.base is self.anchor:
            return self.theta - self.arena
        return (self.base if self.anchor is self.theta else self.theta + (self.base - self.anchor)) - self.arena

    def apply(self, update: torch.Tensor | None, local: Local, group: bool = False) -> None:
        before = self.base
        if group and update is not None:
            self.anchor = self.theta - update
        elif update is not None:
            self.momentum = MU * self.momentum + update
            self.anchor = self.theta = self.theta - LR * (update + MU * self.momentum)
        if local == "carry":
            self.arena = self.anchor - (before - self.arena)
        if local != "keep":
            self.base = self.anchor


def noise(seed: int) -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed)) * 0.01


def encoded(x: torch.Tensor) -> torch.Tensor:
    codec = codec_by_name("fp32")
    out = torch.empty(codec.encoded_bytes(N), dtype=torch.uint8)
    assert ops.encode(codec, x, out) is None
    return out


def state_with_trainer(theta: torch.Tensor) -> tuple[OuterState, torch.Tensor]:
    state, arena = OuterState(LAYOUT), torch.zeros(N)
    state.install(theta.clone(), torch.zeros(N))
    state.attach(arena)
    return state, arena


class Encoding:
    """A trainer that encodes: it keeps its anchor and its parameters, the arena has the delta's bytes."""

    def __init__(self, arena: torch.Tensor) -> None:
        self.arena, self.anchor, self.local = arena, arena.clone(), arena.clone()

    def hand_over(self, state: OuterState) -> None:
        codec = codec_by_name("fp32")
        out = self.arena.view(torch.uint8)[: codec.encoded_bytes(N)]
        norm = ops.encode_delta(codec, self.anchor, self.local, out).norm
        state.handed_over(EncodedDelta("fp32", struct.pack(">f", norm).hex(), None))

    def take(self, carry: bool) -> None:
        """The next round: the arena has the anchor."""
        self.local = self.arena - (self.anchor - self.local) if carry else self.arena.clone()
        self.anchor = self.arena.clone()


@pytest.mark.parametrize("seed", range(20))
def test_rounds_in_groups_and_exact_ones_have_the_bits_of_the_reference(seed: int) -> None:
    """SPEC E5, E6: an anchor is theta less the group's update alone; a delta is measured from theta, and what is
    carried over from the anchor; an exact round makes the anchor theta again."""
    chance, theta = random.Random(seed), noise(seed)
    state, arena = state_with_trainer(theta)
    state.adopt()
    reference = Reference(theta, arena)
    reference.adopt()
    for step in range(30):
        work = noise(1000 * seed + step)
        for overtaken in range(chance.choice((0, 0, 0, 1, 2))):
            update, group = noise(77 * step + overtaken) if chance.random() < 0.9 else None, chance.random() < 0.7
            given = None if update is None else encoded(update)
            state.apply("fp32", given, NesterovStep(LR, MU), "keep", group)
            reference.apply(update, "keep", group)
        arena -= work
        reference.arena = reference.arena - work
        decoded = torch.empty(N)
        ops.decode(codec_by_name("fp32"), state.freeze("fp32").encoded, decoded)
        assert torch.equal(decoded, reference.delta())
        fate: Local = chance.choice(("adopt", "carry"))
        update, group = noise(5000 + step), chance.random() < 0.7
        before = state.digest()
        digest = state.apply("fp32", encoded(update), NesterovStep(LR, MU), fate, group)
        reference.apply(update, fate, group)
        state.hand_out(fresh=fate == "adopt")
        if fate == "adopt":
            reference.adopt()
        assert state.anchor is not None and state.theta is not None
        assert torch.equal(state.theta, reference.theta) and torch.equal(state.anchor, reference.anchor)
        assert torch.equal(arena, reference.arena)
        assert digest == state.digest() and (digest == before) == group
        distance = float((reference.theta - reference.anchor).double().norm())
        assert state.apart() == pytest.approx(distance, rel=1e-6)


@pytest.mark.parametrize("encodes", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_rounds_has_the_bits_of_the_reference(seed: int, encodes: bool) -> None:
    """adopt, train, freeze, and then whatever becomes of it: committed, left out and carried over, or overtaken."""
    chance, theta = random.Random(seed), noise(seed)
    state, arena = state_with_trainer(theta)
    state.adopt()
    reference = Reference(theta, arena)
    reference.adopt()
    trainer = Encoding(arena)
    for step in range(30):
        work = noise(1000 * seed + step)
        for overtaken in range(chance.choice((0, 0, 0, 1, 2))):  # rounds that pass while the trainer works
            update = noise(77 * step + overtaken) if chance.random() < 0.9 else None
            state.apply("fp32", None if update is None else encoded(update), NesterovStep(LR, MU), "keep")
            reference.apply(update, "keep")
        reference.arena = reference.arena - work
        if encodes:
            trainer.local -= work
            trainer.hand_over(state)
        else:
            arena -= work
        frozen = state.freeze("fp32")
        decoded = torch.empty(N)
        ops.decode(codec_by_name("fp32"), frozen.encoded, decoded)
        assert torch.equal(decoded, reference.delta())
        fate: Local = chance.choice(("adopt", "carry"))
        update = noise(5000 + step)
        digest = state.apply("fp32", encoded(update), NesterovStep(LR, MU), fate)
        reference.apply(update, fate)
        carry = state.hand_out(fresh=fate == "adopt")  # else its delta is in the record: it begins from the anchor
        if fate == "adopt":
            reference.adopt()
        assert carry == (encodes and fate == "carry")
        trainer.take(carry)
        assert state.theta is not None and state.momentum is not None
        assert torch.equal(state.theta, reference.theta)
        assert torch.equal(state.momentum, reference.momentum)
        assert torch.equal(trainer.local, reference.arena)
        assert digest == state.digest()


def test_what_was_carried_over_is_in_the_next_delta() -> None:
    theta, work, more, update = noise(1), noise(2), noise(3), noise(4)
    state, arena = state_with_trainer(theta)
    state.adopt()
    arena += work
    state.freeze("fp32")
    state.apply("fp32", encoded(update), NesterovStep(LR, MU), "carry")
    arena += more
    decoded = torch.empty(N)
    ops.decode(codec_by_name("fp32"), state.freeze("fp32").encoded, decoded)
    assert torch.allclose(decoded, -(work + more), atol=1e-6)


def test_a_trainers_memory_is_not_anothers() -> None:
    """The first one's work is frozen while a second takes its place: neither sees the other's arena."""
    theta = noise(1)
    state, first = state_with_trainer(theta)
    state.adopt()
    second = torch.full((N,), 5.0)
    state.apply("fp32", encoded(noise(2)), NesterovStep(LR, MU), "keep")
    state.attach(second)
    assert torch.equal(first, theta)
    state.adopt()
    assert state.theta is not None and torch.equal(second, state.theta)
    assert torch.equal(first, theta)
    state.detach()
    with pytest.raises(NotUsable, match="gone"):
        state.freeze("fp32")


def test_work_that_began_from_a_state_that_was_replaced_is_not_used() -> None:
    state, arena = state_with_trainer(noise(1))
    state.adopt()
    arena += noise(2)
    agreed = noise(3)
    state.install(agreed.clone(), torch.zeros(N))
    with pytest.raises(NotUsable, match="replaced"):
        state.freeze("fp32")
    state.apply("fp32", encoded(noise(4)), NesterovStep(LR, MU), "carry")
    assert state.theta is not None and torch.equal(arena, state.theta)  # carrying garbage over means adopting
    arena += noise(5)
    state.freeze("fp32")


def test_averaging_moves_theta_and_leaves_momentum_zero() -> None:
    state, _ = state_with_trainer(noise(1))
    update = noise(2)
    digest = state.apply("fp32", encoded(update), AverageStep(0.5), "adopt")
    assert state.theta is not None and state.momentum is not None
    assert torch.equal(state.theta, noise(1) - 0.5 * update)
    assert not bool(state.momentum.any())
    assert digest == state.digest()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_names_its_tensor(bad: float) -> None:
    state, arena = state_with_trainer(noise(1))
    state.adopt()
    arena[LAYOUT.slots[1].offset + 2] = bad
    with pytest.raises(NotUsable, match="tensor 'b' holds a NaN"):
        state.freeze("int8")


@pytest.mark.parametrize("codec", ["int8", "fp32"])
def test_a_delta_whose_length_is_no_fp32_names_the_tensor_too(codec: str) -> None:
    """Each of its elements can be encoded; their norm, which goes with it, ended the daemon."""
    state, arena = state_with_trainer(noise(1))
    state.adopt()
    arena[:3] = 1e38
    arena[LAYOUT.slots[1].offset : LAYOUT.slots[1].offset + 3] = torch.tensor([1.0e38, 1.6e38, 0.0])
    state.freeze(codec)
    arena[3:30] = 1e38
    with pytest.raises(NotUsable, match="tensor 'b' holds a NaN"):
        state.freeze(codec)


def test_an_encoded_delta_is_looked_at_before_it_is_used() -> None:
    state, arena = state_with_trainer(noise(1))
    state.adopt()
    state.handed_over(EncodedDelta("int8", "3f800000", None))
    with pytest.raises(NotUsable, match="encoded it in int8, the round is in fp32"):
        state.freeze("fp32")
    state.handed_over(EncodedDelta("fp32", "7fc00000", LAYOUT.slots[1].offset + 2))
    with pytest.raises(NotUsable, match="tensor 'b' holds a NaN"):
        state.freeze("fp32")
    state.handed_over(EncodedDelta("fp32", "3f800000", None))
    assert state.freeze("fp32").norm == "3f800000"
    arena[5] = float("inf")
    with pytest.raises(NotUsable, match="does not decode to numbers"):
        state.freeze("fp32")


def test_work_of_a_replaced_state_is_not_carried_by_its_trainer_either() -> None:
    state, arena = state_with_trainer(noise(1))
    state.adopt()
    Encoding(arena).hand_over(state)
    state.install(noise(2), torch.zeros(N))
    state.apply("fp32", encoded(noise(3)), NesterovStep(LR, MU), "carry")
    assert not state.hand_out(fresh=False)
    assert state.theta is not None and torch.equal(arena, state.theta)
