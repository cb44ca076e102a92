"""Whom the next plan of a round leaves out, and for how long; who must not stand beside whom. SPEC A10, C8.

Owns the accusations of one decision. Suspicion is free and it ends by itself: a peer left out for good would stop
a run that needs it. Refuses to know transfers and ballots.
"""

from collections.abc import Sequence

from intellectd.protocol import limits
from intellectd.protocol.manifest import Timers
from intellectd.protocol.moments import soonest


class Suspicion:
    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._accused: dict[str, int] = {}
        self._accusing: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._parted: dict[str, dict[str, None]] = {}  # by accuser, the newest last
        self.since = float("inf")  # when somebody was left out first

    def part(self, accuser: str, suspect: str) -> None:
        """A collective broke between these two, as one of them says: the link may be cut although both are well. For
        the rest of the decision they are better apart, whoever is at fault."""
        parted = self._parted.setdefault(accuser, {})
        parted.pop(suspect, None)
        parted[suspect] = None
        if len(parted) > limits.PARTED_MAX:
            del parted[next(iter(parted))]

    def parted(self, members: Sequence[str]) -> list[tuple[int, int]]:
        """(Accuser, accused) among these, by their places."""
        if not self._parted:
            return []
        places = {peer: place for place, peer in enumerate(members)}
        pairs = [(one, other) for one, others in self._parted.items() for other in others]
        return [(places[one], places[other]) for one, other in pairs if one in places and other in places]

    def accuse(self, accuser: str | None, suspect: str | None, silent: bool, stale: bool, now: float) -> None:
        """`silent`: no progress in time, which needs a second witness, because a stall upstream looks like a silent
        neighbour: a `stale` beacon or a second accusation. Otherwise the connection itself named the peer. `accuser`
        is None when others have told of that collective before. `now`: when the next attempt may begin at the
        earliest."""
        if accuser is not None:
            self._accusing[accuser] = self._accusing.get(accuser, 0) + 1
            if self._accusing[accuser] > limits.ACCUSATIONS_MAX:
                self._exclude(accuser, now)  # whoever sees every transfer fail is what they have in common
        if suspect is None:
            return
        self._accused[suspect] = self._accused.get(suspect, 0) + 1
        if not silent or stale or self._accused[suspect] > 1:
            self._exclude(suspect, now)

    def leave_out(self, peers: Sequence[str], now: float) -> None:
        """They need no second witness: the host saw it. Once for each attempt."""
        for peer in peers:
            if not self.excluded(peer, now):
                self._exclude(peer, now)

    def excluded(self, peer: str, now: float) -> bool:
        return now < self._until.get(peer, float("-inf"))

    def left(self, peers: list[str], now: float) -> list[str]:
        """Those of them that are not excluded."""
        return [peer for peer in peers if not self.excluded(peer, now)] if self._until else peers

    def deadline(self, now: float) -> float:
        """When the next one is let in again."""
        return soonest(self._until.values(), now)

    def _exclude(self, peer: str, now: float) -> None:
        self.since = min(self.since, now)
        times = self._times[peer] = self._times.get(peer, 0) + 1
        longer = 2 ** min(times - 1, limits.EXCLUSION_DOUBLINGS_MAX)
        self._until[peer] = now + self._timers.suspect_s * longer
