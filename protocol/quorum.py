"""When is a set of voters enough. SPEC Q1-Q2. Knows nothing of rounds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

FEW = 8  # are sooner looked through than put into a table


def is_quorum(voters: Sequence[str], present: Collection[str]) -> bool:
    """More than half of `voters`, or exactly half including the most senior, which is the first.

    The second rule lets a run of two go on when the junior one dies (dynamic-linear voting); any two
    quorums of one list still intersect.
    """
    there = dict.fromkeys(present) if isinstance(present, list) and len(present) > FEW else present
    count = sum(1 for voter in voters if voter in there)
    if 2 * count > len(voters):
        return True
    return len(voters) > 0 and 2 * count == len(voters) and voters[0] in there


def is_majority(members: Sequence[str], present: Collection[str]) -> bool:
    """Strictly more than half of `members`."""
    there = dict.fromkeys(present) if isinstance(present, list) and len(present) > FEW else present
    return 2 * sum(1 for member in members if member in there) > len(members)


@dataclass(frozen=True)
class Reach:
    """Which voters are missing, and whether the others are enough."""

    voters: tuple[str, ...]
    missing: tuple[str, ...]
    quorum: bool


def reach(voters: Sequence[str], present: Collection[str]) -> Reach:
    missing = tuple(voter for voter in voters if voter not in present)
    return Reach(tuple(voters), missing, is_quorum(voters, present))
