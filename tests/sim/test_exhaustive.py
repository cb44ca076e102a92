"""No interleaving of a small agreement breaks it, and the search sees when one could. SPEC A4-A9, Q2."""

import pytest

from intellectd.protocol.leading import Leading
from tests.sim.exhaustive import look
from tests.sim.mutants import in_force
from tests.sim.small_search import Case

OPENING = Case(rounds=1)


def test_no_schedule_of_three_voters_and_a_crash_breaks_the_opening() -> None:
    """SPEC A4, A6-A9."""
    found, _ = look(OPENING)
    assert found.violation is None and found.complete
    assert found.decided["1 1 1"] >= 2, "the search never saw a decision, or only ever one record"


@pytest.mark.parametrize(
    "mutant",
    ["promises-broken", *(pytest.param(m, marks=pytest.mark.slow) for m in ("accepted-ignored", "votes-forgotten"))],
)
def test_a_broken_machine_is_shown_by_a_short_schedule(mutant: str) -> None:
    found, schedule = look(OPENING, mutant)
    assert found.violation is not None, f"{mutant} goes unseen"
    assert len(schedule) <= 12, schedule


@pytest.mark.slow
def test_a_value_that_is_left_though_it_may_be_decided_is_shown() -> None:
    """SPEC A6: nobody asks whether those that accepted it, and those that were not heard, are a quorum."""
    careless = [(Leading, "_out_of_reach", lambda self, _, locked: not self._decision.holds_for(locked.record))]
    with in_force(careless):
        found, schedule = look(Case(voters=2, hosts=3, ballots=3, crashes=0))
    assert found.violation is not None and len(schedule) <= 18, schedule


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(refusals=True),
        Case(voters=4, rounds=1),
        Case(ring=2, crashes=0),
        Case(voters=2, hosts=3),
        Case(voters=2, hosts=2, ballots=5),
    ],
    ids=["two rounds", "four voters", "rings of two", "a new voter", "values that are left"],
)
def test_no_schedule_breaks_more(case: Case) -> None:
    """SPEC R10: the voters of a round are those that the record before it names."""
    found, _ = look(case)
    assert found.violation is None and found.complete
    assert any(key.split() == [str(case.rounds)] * found.case.hosts for key in found.decided)
