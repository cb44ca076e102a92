"""Quorums against a dumb alternative: any two of one list share a voter. SPEC Q1-Q3."""

from itertools import chain, combinations

import pytest

from intellectd.protocol.quorum import is_majority, is_quorum, reach

VOTERS = ["PA", "PB", "PC", "PD", "PE", "PF"]


def subsets(voters: list[str]) -> list[tuple[str, ...]]:
    return list(chain.from_iterable(combinations(voters, size) for size in range(len(voters) + 1)))


def dumb_quorum(voters: list[str], present: tuple[str, ...]) -> bool:
    """Give the most senior voter half a vote more; then it is a plain majority."""
    votes = {voter: 2.5 if voter == voters[0] else 2.0 for voter in voters}
    return sum(votes[voter] for voter in present) > sum(votes.values()) / 2


@pytest.mark.parametrize("count", range(1, 7))
def test_like_the_dumb_one_and_never_two_apart(count: int) -> None:
    """SPEC Q1, Q2."""
    voters = VOTERS[:count]
    good = [present for present in subsets(voters) if is_quorum(voters, present)]
    assert good == [present for present in subsets(voters) if dumb_quorum(voters, present)]
    assert all(set(one) & set(two) for one in good for two in good)


def test_nobody_is_no_quorum_of_nobody() -> None:
    assert not is_quorum([], []) and not is_quorum([], ["PA"]) and not is_majority([], ["PA"])


def test_strangers_do_not_count() -> None:
    assert not is_quorum(["PA", "PB", "PC"], ["PA", "PX", "PY", "PZ"])
    assert not is_majority(["PA", "PB"], ["PA", "PX"])


def test_two_go_on_as_one_only_with_the_senior() -> None:
    """SPEC Q1."""
    assert is_quorum(["PA", "PB"], ["PA"]) and not is_quorum(["PA", "PB"], ["PB"])
    assert not is_majority(["PA", "PB"], ["PA"])


def test_of_two_the_junior_one_is_enough_for_nothing() -> None:
    """SPEC Q1."""
    assert reach(["PA", "PB"], ["PA"]).quorum
    alone = reach(["PA", "PB"], ["PB", "PX"])
    assert (alone.quorum, alone.missing, alone.voters) == (False, ("PA",), ("PA", "PB"))


class Listed(list[str]):
    """Counts how often it is searched."""

    searched = 0

    def __contains__(self, item: object) -> bool:
        Listed.searched += 1
        return super().__contains__(item)


def test_a_list_of_very_many_is_not_searched_for_each_of_them() -> None:
    """SPEC W3: of a thousand members' results each is counted, and a search each time would be a thousand million."""
    members = [f"P{number}" for number in range(1000)]
    for judge in (is_majority, is_quorum):
        Listed.searched = 0
        assert judge(members, Listed(members[:501])) and not judge(members, Listed(members[1:500]))
        assert Listed.searched == 0
