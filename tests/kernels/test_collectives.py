"""Both ways to average, on peers that each run another implementation: all end with the same bits, for every codec."""

import itertools

import pytest
import torch
from torch import Tensor

from intellectd.kernels.codec import CODECS, FP32, GROUP, INT8, Codec
from intellectd.kernels.digest import state_digest
from intellectd.kernels.interface import Feedback, Kernels
from intellectd.kernels.outer import NesterovStep, OuterVectors
from tests.kernels.vectors import IMPLEMENTATIONS, room, tame

PEERS = (list(IMPLEMENTATIONS.values()) * 3)[: max(3, len(IMPLEMENTATIONS))]
ELEMENTS = len(PEERS) * GROUP + 512
WEIGHTS = [1000.0 + 300.0 * number for number in range(len(PEERS))]
ROUNDS = 2


class Peer:
    def __init__(self, number: int, kernels: Kernels, codec: Codec) -> None:
        self.number, self.kernels, self.codec = number, kernels, codec
        self.theta, self.momentum, self.error = tame(99, ELEMENTS), torch.zeros(ELEMENTS), torch.zeros(ELEMENTS)

    def delta(self, round_: int) -> Tensor:
        """Its inner steps' outcome, encoded."""
        encoded, local = room(self.codec, ELEMENTS), self.theta - tame(10 * round_ + self.number, ELEMENTS, -6)
        decay = self.codec.feedback_decay
        feedback = None if decay is None else Feedback(self.error, decay, self.error)
        _, refused = self.kernels.encode_delta(self.codec, self.theta, local, encoded, feedback)
        assert refused is None
        return encoded

    def apply(self, codec: Codec, update: Tensor) -> bytes:
        assert self.kernels.finite(codec, update)
        self.kernels.outer_step(codec, update, NesterovStep(0.7, 0.9), OuterVectors(self.theta, self.momentum))
        return state_digest(self.theta, self.momentum)


def slices() -> list[tuple[int, int]]:
    groups = -(-ELEMENTS // GROUP)
    cuts = [min(groups * owner // len(PEERS) * GROUP, ELEMENTS) for owner in range(len(PEERS) + 1)]
    return list(itertools.pairwise(cuts))


def ring(codec: Codec, peers: list[Peer], deltas: list[Tensor]) -> Tensor:
    """Each slice around: the one after its owner starts, the owner divides, whatever each of them computes with."""
    result = room(codec, ELEMENTS)
    for owner, (first, last) in enumerate(slices()):
        start, stop = codec.byte_range(first, last)
        partial: Tensor | None = None
        for hop in range(1, len(peers) + 1):
            at = (owner + hop) % len(peers)
            divisor = sum(WEIGHTS) if hop == len(peers) else None
            out = room(codec, last - first)
            assert peers[at].kernels.ring_hop(codec, partial, deltas[at][start:stop], WEIGHTS[at], divisor, out)
            partial = out
        assert partial is not None
        result[start:stop] = partial
    return result


def direct(codec: Codec, result_codec: Codec, peers: list[Peer], deltas: list[Tensor], by: Kernels | None) -> Tensor:
    """Each owner decodes everybody's slice, adds in the order of the roster, divides and encodes once."""
    result = room(result_codec, ELEMENTS)
    for owner, (first, last) in enumerate(slices()):
        kernels = by or peers[owner].kernels
        start, stop = codec.byte_range(first, last)
        total = torch.zeros(last - first)
        for delta, weight in zip(deltas, WEIGHTS, strict=True):
            kernels.decode_add(codec, delta[start:stop], weight, total)
        out = result[slice(*result_codec.byte_range(first, last))]
        assert kernels.encode_mean(result_codec, total, sum(WEIGHTS), out) is None
    return result


@pytest.mark.parametrize("codec", [c for c in CODECS.values() if c.may_reencode], ids=lambda codec: codec.name)
def test_a_ring_of_unlike_peers(codec: Codec) -> None:
    peers = [Peer(number, kernels, codec) for number, kernels in enumerate(PEERS)]
    for round_ in range(ROUNDS):
        update = ring(codec, peers, [peer.delta(round_) for peer in peers])
        assert len({peer.apply(codec, update) for peer in peers}) == 1


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
@pytest.mark.parametrize("result_codec", [INT8, FP32], ids=lambda codec: f"to {codec.name}")
def test_a_direct_exchange_of_unlike_peers(codec: Codec, result_codec: Codec) -> None:
    peers = [Peer(number, kernels, codec) for number, kernels in enumerate(PEERS)]
    for round_ in range(ROUNDS):
        deltas = [peer.delta(round_) for peer in peers]
        update = direct(codec, result_codec, peers, deltas, None)
        audited = direct(codec, result_codec, peers, deltas, PEERS[0])  # anybody can compute it again
        assert update.equal(audited)
        assert len({peer.apply(result_codec, update) for peer in peers}) == 1
