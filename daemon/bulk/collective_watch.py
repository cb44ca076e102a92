"""What passes by without a word: neighbours that fall silent or take nothing, and a collective in which nothing moves.

Owns these judgements, of books and a time; collective.py acts on them. A neighbour says four times per stall_s that it
lives, so that only those beside the one that fell silent accuse it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from intellectd.daemon.bulk.errors import Failure
from intellectd.daemon.bulk.limits import (
    HEARTBEATS_PER_STALL,
    NUDGE_DOUBLINGS_MAX,
    NUDGE_S,
    NUDGE_SIGNS,
    STARVED_STALLS,
    STUCK_STALLS,
)
from intellectd.daemon.bulk.neighbour import Neighbour


@dataclass(frozen=True)
class Watch:
    stall_s: float

    def judge(self, neighbours: Iterable[Neighbour], chunk_at: float, now: float) -> Failure | None:
        """Under the collective's lock. `chunk_at`: when a chunk last came."""
        owed = False
        for neighbour in neighbours:
            failure = self._judge_one(neighbour, now) if neighbour.counts else None
            if failure is not None:
                return failure
            owed = owed or neighbour.arrivals > 0
        starved_s = now - chunk_at
        if owed and starved_s > STARVED_STALLS * self.stall_s:
            words = f"the neighbours live, but no chunk has come in {starved_s:.1f} s"
            return Failure(None, words, silent=True)
        return None

    def _judge_one(self, neighbour: Neighbour, now: float) -> Failure | None:
        if neighbour.waits_here and neighbour.channel.width:
            neighbour.heard_at = neighbour.flowed_at = now  # it is this host's threads that do not listen
        if not neighbour.waiting or neighbour.ready is None:
            neighbour.moved_at = now
        if now - neighbour.heard_at > self.stall_s:
            if neighbour.why is not None:
                return neighbour.why  # it does not come again, and has said so
            said = f"nothing came from it in {self.stall_s:g} s"
            if not neighbour.met:
                said = f"it did not take part in {self.stall_s:g} s"
            why = f" ({neighbour.lost})" if neighbour.lost else _through(neighbour)
            return Failure(neighbour.peer, f"{neighbour.peer}: {said}{why}", silent=True)
        stuck_s = now - neighbour.moved_at
        if stuck_s > STUCK_STALLS * self.stall_s:
            words = f"{neighbour.peer}: it lives, and took nothing for {stuck_s:.1f} s{_through(neighbour)}"
            return Failure(neighbour.peer, words, silent=True)
        return None

    def to_nudge(self, neighbours: Iterable[Neighbour], now: float) -> list[Neighbour]:
        """Those that should hear what has come, though nothing broke: of several wires one may have fallen far behind
        (a window that collapsed takes seconds to open), with the very chunk that all wait for, and others are idle."""
        found = []
        for neighbour in neighbours:
            since = max(neighbour.flowed_at, neighbour.nudged_at)
            late = now - since >= self._quiet_s(neighbour) * 2 ** min(neighbour.nudges, NUDGE_DOUBLINGS_MAX)
            if neighbour.arrivals > 0 and neighbour.met and neighbour.channel.width > 1 and late:
                neighbour.nudges, neighbour.nudged_at = neighbour.nudges + 1, now
                found.append(neighbour)
        return found

    def _quiet_s(self, neighbour: Neighbour) -> float:
        """A pause that is longer than what it usually takes until some of its bytes come."""
        longest = max(NUDGE_S, self.stall_s / HEARTBEATS_PER_STALL)
        return longest if neighbour.sign_s is None else min(max(NUDGE_S, NUDGE_SIGNS * neighbour.sign_s), longest)

    def to_tell(self, neighbours: Iterable[Neighbour], now: float) -> list[Neighbour]:
        """Those who have heard nothing for a while of how this host lives."""
        every_s = self.stall_s / HEARTBEATS_PER_STALL
        found = [n for n in neighbours if (n.counts or n.unsure) and now - n.told_at >= every_s]
        for neighbour in found:
            neighbour.told_at = now
        return found


def _through(neighbour: Neighbour) -> str:
    """It may be the relay that passes nothing on, for all that either of the two can see."""
    return f" (through {neighbour.channel.relay})" if neighbour.channel.relay else ""
