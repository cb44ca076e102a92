"""The simulator sees: each broken machine breaks an invariant, and the machines as they are break none."""

import pytest

from tests.sim.drawing import draw
from tests.sim.mutants import MINUTES, MUTANTS, NODES, found
from tests.sim.play import play

SEEDS = 40  # most are found at the first or second; when draws change, a little later


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_is_found(name: str) -> None:
    assert found(name, SEEDS) is not None, f"{name} goes unseen"


@pytest.mark.parametrize("kind", ["storm", "amnesia", "rot", "half-deaf"])
def test_nothing_is_found_where_nothing_is_broken(kind: str) -> None:
    outcome = play(draw(0, NODES, MINUTES, kind))
    assert outcome.problem is None and outcome.commits
