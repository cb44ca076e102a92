"""Rounds in groups in numbers: how fast anchors come together, what the spread says of it, and equal bits in the end.

The production's kernels, draw and outer state; a group's ring is passed around by hand. SPEC E1, E5, E6, E8.
"""

import statistics

import pytest
import torch
from msgspec.structs import replace

from intellectd.daemon.runs.outer_state import Frozen, OuterState
from intellectd.kernels import ops
from intellectd.kernels.codec import Codec, codec_by_name
from intellectd.kernels.layout import Layout, TensorSpec
from intellectd.kernels.outer import NesterovStep
from intellectd.protocol.entries import Certificate, Entry, Group
from intellectd.protocol.head import draw_groups
from intellectd.protocol.spread import anchor_spread
from tests.protocol.gossip_history import MINE, gossip, grouped

LAYOUT = Layout([TensorSpec("w", (4000,))])
N = LAYOUT.elements
STEP = NesterovStep(0.7, 0.9)
HOSTS, SIZE = 16, 4
SHRINKS_TO = (HOSTS - SIZE) / (SIZE * (HOSTS - 1))  # of the mean square distance, in one round


class Swarm:
    def __init__(self, codec: str, hosts: int = HOSTS) -> None:
        self.codec: Codec = codec_by_name(codec)
        theta = torch.randn(N, generator=torch.Generator().manual_seed(1))
        self.states, self.arenas = [OuterState(LAYOUT) for _ in range(hosts)], [torch.zeros(N) for _ in range(hosts)]
        for state, arena in zip(self.states, self.arenas, strict=True):
            state.install(theta.clone(), torch.zeros(N))
            state.attach(arena)
            state.adopt()

    def work(self, seed: int) -> None:
        """Inner steps that have nothing in common."""
        for number, arena in enumerate(self.arenas):
            arena.add_(torch.randn(N, generator=torch.Generator().manual_seed(1000 * seed + number)), alpha=0.01)

    def mean(self, frozen: list[Frozen], members: list[int]) -> torch.Tensor:
        """As the last member of a ring has it."""
        partial: torch.Tensor | None = None
        for place, member in enumerate(members):
            out = torch.empty(self.codec.encoded_bytes(N), dtype=torch.uint8)
            divisor = float(len(members)) if place == len(members) - 1 else None
            assert ops.ring_hop(self.codec, partial, frozen[member].encoded, 1.0, divisor, out)
            partial = out
        assert partial is not None
        return partial

    def round(self, groups: list[list[int]], exact: bool = False) -> list[tuple[torch.Tensor, list[str]]]:
        """(what a group came to, the norms of what its members put in)."""
        frozen = [state.freeze(self.codec.name) for state in self.states]
        results = []
        for members in groups:
            update = self.mean(frozen, members)
            results.append((update, [frozen[member].norm for member in members]))
            for member in members:
                self.states[member].apply(self.codec.name, update, STEP, "adopt", group=not exact)
                self.states[member].hand_out(fresh=True)
        return results

    def drawn(self, number: int) -> list[list[int]]:
        names = [f"P{n:02d}" for n in range(len(self.states))]
        return [[names.index(name) for name in group] for group in draw_groups(number.to_bytes(32, "big"), names, SIZE)]

    def variance(self) -> float:
        """Of the anchors: the mean square distance from their mean."""
        anchors = torch.stack([state.anchor for state in self.states if state.anchor is not None]).double()
        return float((anchors - anchors.mean(dim=0)).square().sum(dim=1).mean())


def test_each_round_in_groups_shrinks_the_spread_as_theory_has_it() -> None:
    """By the mean over draws, from hosts that have nothing in common to hosts that have nearly all: (n - g)/(g (n - 1))
    of the mean square distance each time, here a fifth."""
    ratios: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for draw in range(24):
        swarm = Swarm("fp32")
        swarm.work(draw)
        before = float(torch.stack(swarm.arenas).double().var(dim=0, correction=0).sum())
        for round_, seen in ratios.items():
            swarm.round(swarm.drawn(100 * draw + round_))
            after = swarm.variance()
            assert after < before
            seen.append(after / before)
            before = after
    assert statistics.mean(ratios[1]) == pytest.approx(SHRINKS_TO, rel=0.03)  # of a vector of 4,000 none is far off
    together = [value for round_ in (2, 3) for value in ratios[round_]]
    assert statistics.mean(together) == pytest.approx(SHRINKS_TO, rel=0.15)  # of four anchors a draw tells less


@pytest.mark.parametrize("codec", ["int8", "bf16", "fp32"])
def test_an_exact_round_leaves_no_bit_of_difference(codec: str) -> None:
    swarm = Swarm(codec)
    for round_ in range(3):
        swarm.work(round_)
        swarm.round(swarm.drawn(round_))
    assert swarm.variance() > 0
    swarm.work(4)
    swarm.round([list(range(HOSTS))], exact=True)
    first = swarm.states[0].anchor
    assert first is not None and all(state.anchor is state.theta for state in swarm.states)
    assert all(state.theta is not None and torch.equal(state.theta, first) for state in swarm.states)
    assert len({state.digest(): None for state in swarm.states}) == 1
    assert all(torch.equal(arena, first) for arena in swarm.arenas)


def test_an_exact_round_of_all_is_the_average_of_all_work() -> None:
    """What groups averaged before is in it once: with equal weights the mean of all parameters is what it would be if
    nobody had averaged with anybody."""
    apart, alone = Swarm("fp32"), Swarm("fp32")
    for round_ in range(3):
        for swarm in (apart, alone):
            swarm.work(round_)
        apart.round(apart.drawn(round_))
    for swarm in (apart, alone):
        swarm.round([list(range(HOSTS))], exact=True)
    assert apart.states[0].theta is not None and alone.states[0].theta is not None
    assert torch.allclose(apart.states[0].theta, alone.states[0].theta, atol=1e-5)


def test_the_spread_that_a_host_tells_is_the_true_one() -> None:
    """By its group's norms alone, in the mean over groups and draws."""
    run = gossip()
    run.opening("PA", "PB", "PC", "PD")
    proposal = grouped(run)
    found, true = [], []
    for draw in range(12):
        swarm = Swarm("fp32", hosts=4)
        swarm.work(50 + draw)
        norms = [norm for _, said in swarm.round([[0, 1], [2, 3]]) for norm in said]
        contributed = [replace(c, norm=norm) for c, norm in zip(proposal.blob.contributions, norms, strict=True)]
        entry = Entry(proposal.record, replace(proposal.blob, contributions=contributed), Certificate(MINE, []))
        for group, member in zip(entry.record.shape, (0, 2), strict=True):
            assert isinstance(group, Group)
            apart = swarm.states[member].apart()
            spread = anchor_spread(entry, group.root, apart)
            assert spread is not None
            found.append((spread * apart) ** 2)
        true.append(swarm.variance())
    assert statistics.mean(found) == pytest.approx(statistics.mean(true), rel=0.1)
