"""A host that joins while the others train: how soon it counts, and with what. SPEC K12, K13, K15, R8."""

import math
from collections.abc import Callable

import pytest

from tests.sim.play import heads
from tests.sim.test_sim import swarm
from tests.sim.truth import TOKENS_PER_STREAM
from tests.sim.world import World

NEW = "PZ"
BEHIND = ("joining", "catching-up")
SEEDS = 4
FETCH_S_MAX = 1.5  # of something of size 1
READY_S = 20.0  # to be found, to read the log, to replay eight updates, and one failure's pause


def synced(world: World) -> bool:
    node = world.hosts[NEW].node
    return node is not None and node.catchup.has_state and node.state not in BEHIND


def joined(seed: int, size: float) -> tuple[float, int, int]:
    """(fetch time in rounds, records from joining to the one that it contributed to, its tokens there)."""
    world = swarm(seed, 3, 3)
    world.state_size = size
    assert world.run(300, lambda: min(heads(world)) >= 7)
    world.run(world.rng.uniform(0, 10))
    began, before = world.now, max(heads(world))
    world.add(NEW, ["PB"])
    for host in world.hosts.values():
        host.speed = 1.0  # nobody is slower than a grace, or it is left out for that
    log, decided = world.hosts["PA"].disk.entries, dict[int, float]()

    def noting(until: Callable[[], bool]) -> Callable[[], bool]:
        def look() -> bool:
            decided.setdefault(len(log) - 1, world.now)
            return until()

        return look

    def counts() -> bool:
        return NEW in [c.peer for entry in log[before + 1 :] for c in entry.blob.contributions]

    assert world.run(600, noting(lambda: synced(world))), f"it never stands at the head: {heads(world)}"
    took_s = world.now - began
    assert took_s < FETCH_S_MAX * size + READY_S, f"seed {seed}: not in one go, {took_s:.0f} s"
    assert world.run(200, noting(counts)), "it never contributes"
    entry = next(e for e in log[before + 1 :] if NEW in [c.peer for c in e.blob.contributions])
    first = before + 1
    round_s = (decided[entry.record.round] - decided[first]) / max(1, entry.record.round - first)
    tokens = next(c.tokens for c in entry.blob.contributions if c.peer == NEW)
    return took_s / round_s, entry.record.round - before, tokens


@pytest.mark.parametrize("size", [1.0, 20.0, 50.0])
def test_a_joiner_counts_two_rounds_after_its_fetch(size: float) -> None:
    """Rounds of some 11 s, and states that take up to 1.5, 30 and 75 s: donors would have deleted the last of these
    long before. An update takes up to 1.5 s, the grace for who is late is 1 s: whose first work comes too late for its
    round has carried it over to the next (P4)."""
    late = 0
    for seed in range(SEEDS):
        fetch, rounds, tokens = joined(seed, size)
        carried = tokens // TOKENS_PER_STREAM - 1
        late += carried
        assert tokens in (TOKENS_PER_STREAM, 2 * TOKENS_PER_STREAM)
        said = f"seed {seed}: {fetch:.1f} rounds to fetch, {rounds} until it counted, {carried} carried over"
        assert rounds <= math.ceil(fetch) + 2 + carried, said
    assert late < SEEDS, "nobody is in time"
