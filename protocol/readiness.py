"""When may a round be decided? Pure functions from what is known to (yes or no, why). SPEC A3.

Refuses to know ballots and messages: the same judgement serves leader, follower and `status`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from intellectd.protocol.manifest import Timers
from intellectd.protocol.words import counted


@dataclass(frozen=True)
class Standing:
    """One moment of one round, as one host sees it."""

    expected: Sequence[str]  # named eligible by the head
    alive: Sequence[str]  # of the expected, without suspects
    ready: Sequence[str]  # of the alive, with a frozen delta on this head
    able: Sequence[str]  # alive, synced, with a trainer, named or not; looked for where a roster is named (A3)
    opening: bool
    all_silent: bool  # for expel_s, fewer than min_peers of the expected were here to work
    grace_ends_at: float  # when it stops waiting for those not ready; infinity while nobody is
    judges_at: float = float("-inf")  # until then others, who hear more of the roster, judge (A16)


def grace_s(timers: Timers, interval_s: float) -> float:
    """How long a quorum waits for the slower: a share of the round so far, within bounds."""
    return min(max(timers.grace_fraction * interval_s, timers.grace_min_s), timers.grace_max_s)


def choose_start(standing: Standing, start_peers: int, min_peers: int, now: float) -> tuple[bool, str]:
    """May an attempt begin now, and why (not)."""
    ready, able = len(standing.ready), len(standing.able)
    possible = enough(standing, start_peers, min_peers)
    if standing.opening:
        return possible, f"{able} of {start_peers} peers are here to start"
    if now < standing.judges_at:
        return False, "most of the roster tells others how far it is"
    if names_roster(standing):
        why = "too few of the roster are left; naming a new one"
        return possible, why if possible else f"{counted(able, 'peer')} can train, the run asks for {max(1, min_peers)}"
    if not possible:
        asked = f", the run asks for {min_peers}" if min_peers > 1 else ""
        return False, f"{ready} of {len(standing.expected)} have done their steps{asked}"
    if ready == len(standing.alive):
        return True, f"all that are here ({ready} of {len(standing.expected)}) have done their steps"
    waiting = f"waiting {max(0.0, standing.grace_ends_at - now):.1f} s for the others"
    return now >= standing.grace_ends_at, f"{ready} of {len(standing.alive)} have done their steps, {waiting}"


def enough(standing: Standing, start_peers: int, min_peers: int) -> bool:
    """Could a record be made at all, graces aside?"""
    if standing.opening:
        return len(standing.able) >= start_peers
    return len(standing.able if names_roster(standing) else standing.ready) >= max(1, min_peers)


def names_roster(standing: Standing) -> bool:
    """Is the next record one without an update, that only says who works on?"""
    return standing.opening or standing.all_silent


def grace_ends_at(timers: Timers, began_at: float, half_ready_at: float | None, some_ready_at: float | None) -> float:
    """When a round that began then, and had half and some of the expected ready then, waits no longer."""
    if half_ready_at is not None:
        return half_ready_at + grace_s(timers, half_ready_at - began_at)
    if some_ready_at is not None:
        # Fewer than half: a round of a minority is better than none, but only after the longest grace.
        return some_ready_at + timers.grace_max_s
    return float("inf")
