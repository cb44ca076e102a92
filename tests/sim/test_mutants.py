"""The simulator sees: each broken machine breaks an invariant, and the machines as they are break none."""

import pytest

from tests.sim.mutants import MUTANTS, found, storm

SEEDS = 40  # most are found at the first or second; when draws change, a little later


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_mutant_is_found(name: str) -> None:
    assert found(name, SEEDS) is not None, f"{name} goes unseen"


@pytest.mark.parametrize("kind", ["storm", "amnesia", "rot"])
def test_nothing_is_found_where_nothing_is_broken(kind: str) -> None:
    assert storm(0, kind).truth.entries
