"""The simulator sees: each broken machine breaks an invariant, and the machines as they are break none."""

import pytest

from tests.sim.drawing import draw
from tests.sim.mutants import MINUTES, MUTANTS, NODES, found
from tests.sim.play import play

# One for each kind of rule, with a seed that shows it at once, as long as the draws are what they are; the others take
# as long as all else here, and come with the slow tests.
QUICK = {
    "accepted-ignored": 0,
    "any-life-recovers": 24,
    "exact-as-group": 0,
    "groups-by-name": 0,
    "apply-before-commit": 1,
    "promises-broken": 29,
    "votes-forgotten": 28,
    "work-after-jump": 0,
}
slow = pytest.mark.slow
SEEDS = range(40)  # most are found at the first or second; when draws change, a little later


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=slow) for n in sorted(MUTANTS)])
def test_a_mutant_is_found(name: str) -> None:
    assert found(name, [QUICK.get(name, 0), *SEEDS]) is not None, f"{name} goes unseen"


@pytest.mark.parametrize(
    "kind",
    [
        "storm",
        "gossip",
        *(pytest.param(kind, marks=slow) for kind in ("amnesia", "rot", "half-deaf", "fork", "owner", "warm-up")),
    ],
)
def test_nothing_is_found_where_nothing_is_broken(kind: str) -> None:
    outcome = play(draw(0, NODES, MINUTES, kind))
    assert outcome.problem is None and outcome.commits
