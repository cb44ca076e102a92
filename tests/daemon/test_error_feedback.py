"""Error feedback on one host: what is added, what is kept under which name, and what it is good for. SPEC P10."""

import errno
import os
from pathlib import Path

import pytest
import torch

from intellectd.daemon.runs.error_feedback import ErrorFeedback
from intellectd.daemon.runs.outer_state import Frozen, NotUsable, OuterState
from intellectd.daemon.store.residuals import Residuals
from intellectd.kernels import ops
from intellectd.kernels.codec import codec_by_name, update_codec
from intellectd.kernels.layout import Layout, TensorSpec
from intellectd.kernels.outer import AverageStep

NO_ROOT = bytes(32)
LAYOUT = Layout([TensorSpec("w", (40, 100)), TensorSpec("b", (100,))])
N = LAYOUT.elements


def work(seed: int) -> torch.Tensor:
    return torch.randn(N, generator=torch.Generator().manual_seed(seed)) * 0.01


def decoded(codec: str, encoded: torch.Tensor) -> torch.Tensor:
    out = torch.empty(N)
    ops.decode(codec_by_name(codec), encoded, out)
    return out


def state_with_trainer() -> tuple[OuterState, torch.Tensor]:
    state, arena = OuterState(LAYOUT), torch.zeros(N)
    state.install(work(0), torch.zeros(N))
    state.attach(arena)
    state.adopt()
    return state, arena


def lost(residuals: Residuals, root: bytes) -> torch.Tensor:
    memory = residuals.read(root, N)
    assert memory is not None
    return ops.as_bytes(memory).view(torch.float32)


def freeze(state: OuterState, residuals: Residuals, error_of: bytes, codec: str = "topk") -> Frozen:
    return state.freeze(codec, ErrorFeedback(residuals, error_of))


@pytest.mark.parametrize("codec", ["int8", "bf16", "int4", "e3m0", "topk"])
def test_what_is_lost_of_one_delta_is_added_to_the_next(codec: str, tmp_path: Path) -> None:
    state, arena = state_with_trainer()
    residuals, decay = Residuals(tmp_path / "feedback"), codec_by_name(codec).feedback_decay
    assert decay is not None
    assert not residuals.path.exists()
    arena -= work(1)
    first = freeze(state, residuals, NO_ROOT, codec)
    delta = state.theta - arena  # type: ignore[operator]
    e = delta - decoded(codec, first.encoded)
    assert torch.equal(lost(residuals, first.root), e) and bool(e.any())
    arena -= work(2)
    second = freeze(state, residuals, first.root, codec)
    whole = (state.theta - arena) + decay * e  # type: ignore[operator]
    assert torch.equal(lost(residuals, second.root), whole - decoded(codec, second.encoded))
    assert torch.equal(lost(residuals, first.root), e)  # the second may be left out: then this one still counts
    third = freeze(state, residuals, first.root, codec)
    assert third.root == second.root and torch.equal(third.encoded, second.encoded)
    arena -= work(3)
    fourth = freeze(state, residuals, second.root, codec)
    assert residuals.held() == tuple(sorted((second.root, fourth.root)))


def test_a_delta_that_is_frozen_twice_is_the_same(tmp_path: Path) -> None:
    """The loss it starts from may not be overwritten by its own: a host that froze, died and froze again."""
    state, arena = state_with_trainer()
    residuals = Residuals(tmp_path)
    arena -= work(1)
    roots = [freeze(state, residuals, freeze(state, residuals, NO_ROOT).root).root for _ in range(2)]
    assert roots[0] == roots[1]


def test_a_loss_that_is_not_there_is_none(tmp_path: Path) -> None:
    state, arena = state_with_trainer()
    arena -= work(1)
    plain = state.freeze("topk")
    unknown = freeze(state, Residuals(tmp_path / "a"), bytes([7]) * 32)
    assert torch.equal(unknown.encoded, plain.encoded) and not unknown.trouble
    short = Residuals(tmp_path / "b")
    short.path.mkdir()
    (short.path / f"{bytes(32).hex()}.f32").write_bytes(bytes(12))
    assert torch.equal(freeze(state, short, NO_ROOT).encoded, plain.encoded)


def test_a_loss_that_is_no_number_is_forgotten(tmp_path: Path) -> None:
    state, arena = state_with_trainer()
    residuals = Residuals(tmp_path)
    arena -= work(1)
    first = freeze(state, residuals, NO_ROOT)
    (tmp_path / f"{first.root.hex()}.f32").write_bytes(torch.full((N,), torch.nan).numpy().tobytes())
    again = freeze(state, residuals, first.root)
    assert torch.equal(again.encoded, state.freeze("topk").encoded) and "no number" in again.trouble
    assert bool(lost(residuals, again.root).isfinite().all())


def test_a_delta_that_is_no_number_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    state, arena = state_with_trainer()
    residuals = Residuals(tmp_path)
    arena -= work(1)
    first = freeze(state, residuals, NO_ROOT)
    arena[LAYOUT.slots[1].offset] = float("inf")
    with pytest.raises(NotUsable, match="tensor 'b'"):
        freeze(state, residuals, first.root)
    assert [file.name for file in tmp_path.iterdir()] == [f"{first.root.hex()}.f32"]


def test_without_room_the_delta_goes_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk stops no training."""
    state, arena = state_with_trainer()
    arena -= work(1)

    def full(_descriptor: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    frozen = freeze(state, Residuals(tmp_path), NO_ROOT)
    assert torch.equal(frozen.encoded, state.freeze("topk").encoded)
    assert "No space left" in frozen.trouble and not list(tmp_path.iterdir())


# ---- what it is good for


LAYOUT_64 = Layout([TensorSpec("w", (64, 64))])
PEERS = 4
PULL = 0.05  # of the way to what its own data say, that a peer goes in a round


class Peer:
    """One of several whose data disagree: what they say is apart by much, and its mean is to be learnt."""

    def __init__(self, number: int, folder: Path, codec: str, feedback: bool) -> None:
        self.wants = wanted(number)
        self.state, self.arena = OuterState(LAYOUT_64), torch.zeros(LAYOUT_64.elements)
        self.state.install(torch.zeros(LAYOUT_64.elements), torch.zeros(LAYOUT_64.elements))
        self.state.attach(self.arena)
        self.state.adopt()
        self.codec, self.feedback, self.residuals, self.root = codec, feedback, Residuals(folder), NO_ROOT

    def train(self) -> Frozen:
        self.arena += PULL * (self.wants - self.arena)
        return self.state.freeze(self.codec, ErrorFeedback(self.residuals, self.root) if self.feedback else None)


def wanted(number: int) -> torch.Tensor:
    """Gaussian, of deviation 1, and 1 around that, which all peers' together come to nothing."""
    apart = torch.randn(PEERS, LAYOUT_64.elements, generator=torch.Generator().manual_seed(1))
    apart -= apart.mean(dim=0)
    return torch.randn(LAYOUT_64.elements, generator=torch.Generator().manual_seed(99)) + apart[number]


def error_after(codec: str, feedback: bool, folder: Path, rounds: int) -> float:
    """Of peers that average what they learnt (SparseLoCo's outer step: no momentum, rate 1); of 1 at first."""
    true = torch.stack([wanted(number) for number in range(PEERS)]).mean(dim=0)
    peers = [Peer(n, folder / f"{codec}-{feedback}-{n}", codec, feedback) for n in range(PEERS)]
    result = update_codec(codec_by_name(codec))
    for _ in range(rounds):
        total = torch.zeros(LAYOUT_64.elements)
        for peer in peers:
            frozen = peer.train()
            ops.decode_add(codec_by_name(codec), frozen.encoded, 1.0, total)
            peer.root = frozen.root
        update = torch.empty(result.encoded_bytes(LAYOUT_64.elements), dtype=torch.uint8)
        assert ops.encode_mean(result, total, float(PEERS), update) is None
        assert len({peer.state.apply(codec, update, AverageStep(1.0), "adopt") for peer in peers}) == 1
        assert not any(peer.state.hand_out(fresh=True) for peer in peers)
    theta = peers[0].state.theta
    assert theta is not None
    return float((theta - true).norm() / true.norm())


def test_what_a_codec_loses_is_learnt_after_all(tmp_path: Path) -> None:
    """Relative errors after 100 rounds. Without feedback, peers whose data disagree stay where their rounded deltas
    cancel out; and top-k has sent 1 element in 64 a round and forgotten the others."""
    errors = {(c, f): error_after(c, f, tmp_path, 100) for c in ("int4", "topk") for f in (False, True)}
    assert errors["int4", True] < 0.3 * errors["int4", False], errors
    assert errors["topk", True] < 0.6 * errors["topk", False], errors
