"""Whom a host tells of itself where not everybody can tell everybody. SPEC B9-B12.

A sparse swarm is one whose roster or table of peers is too long for that. There each host tells those who may have to
lead the next decision, and two voters that answer; voters tell each other; news of a record goes to a few by lot, and
from them on. Owns these choices. Refuses to know what a beacon says.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from random import Random

from intellectd.protocol import limits
from intellectd.protocol.context import leader_order
from intellectd.protocol.head import Head
from intellectd.protocol.ids import hash_of
from intellectd.protocol.manifest import Timers


def place(peer: str) -> int:
    """Of a host on the circle on which guides are found."""
    return int.from_bytes(hash_of("guide", peer.encode())[:8], "big")


class Audience:
    def __init__(self, me: str, timers: Timers, rng: Random) -> None:
        self._me, self._timers, self._rng = me, timers, rng
        self._voters: dict[str, None] = {}
        self._order: list[str] = []  # of the leaders of this decision
        self._roster = 0
        self._circle: list[tuple[int, str]] = []  # the voters, by place
        self._places: dict[str, int] = {}  # of hosts that were asked for; bounded like the table of peers
        self._tried: dict[str, float] = {}  # guides, since when they are told

    def follow(self, head: Head) -> None:
        if head.voters != list(self._voters):
            self._voters = dict.fromkeys(head.voters)
            self._circle = sorted((place(voter), voter) for voter in head.voters)
            self._tried = {v: at for v, at in self._tried.items() if v in head.voters}
        self._order = leader_order(head.voters, head.hash)
        self._roster = len(head.blob.assignments)

    # ---- judgements

    def sparse(self, peers: int) -> bool:
        return self._roster > limits.ROSTER_DENSE_MAX or peers > limits.BEACON_FANOUT_MAX

    def seats(self, peer: str) -> bool:
        return peer in self._voters

    def expects(self, peer: str, peers: int) -> bool:
        """Should this host hear that one directly?"""
        return not self.sparse(peers) or (self.seats(self._me) and self.seats(peer))

    # ---- the choice

    def choose(
        self,
        known: Collection[str],
        names: Sequence[str],
        alive: Collection[str],
        waits_s: float,
        journal: bool,
        record: bool,
        now: float,
    ) -> list[str]:
        """Of the known peers, which are listed in `names` too. `waits_s`: for how long this host's delta has been
        ready; `journal`: it could vote here; `record`: the head is news."""
        if not self.sparse(len(known)):
            return sorted(known)
        if self.seats(self._me) or self._roster <= limits.ROSTER_DENSE_MAX or not journal:
            told = [*self._voters, *self._answered(alive)]
        else:
            told = [*self._leaders(waits_s), *self._guides(known, alive, now)]
        chosen = dict.fromkeys(p for p in told if p in known and p != self._me)
        wanted = min(len(chosen) + (limits.RECORD_LOTS if record else limits.BEACON_LOTS), len(known))
        for _ in range(limits.LOTS_TRIED_MAX if names else 0):  # of a thousand, few are chosen already
            if len(chosen) >= wanted:
                break
            chosen[self._rng.choice(names)] = None
        return sorted(chosen)

    def first(self) -> list[str]:
        """The leaders that everybody tells from the beginning of a decision (B10)."""
        return self._order[: limits.LEADERS_TOLD]

    def _leaders(self, waits_s: float) -> list[str]:
        """Who led so far had its time: the longer a round is not decided, the more of them are told."""
        over = max(0.0, waits_s - self._timers.grace_max_s) / self._timers.attempt_s
        return self._order[: limits.LEADERS_TOLD + int(over)]

    def _guides(self, known: Collection[str], alive: Collection[str], now: float) -> list[str]:
        """Two voters that answer this host: the next on the circle, but who does not answer is passed over for a
        while."""
        found: list[str] = []
        for voter in self.near(self._me):
            if voter in known and self._answers(voter, voter in alive, now):
                found.append(voter)
            if len(found) == limits.GUIDES:
                break
        return found

    def _answers(self, voter: str, alive: bool, now: float) -> bool:
        since = self._tried.setdefault(voter, now)
        if alive or now - since > self._timers.suspect_s + self._timers.expel_s:
            self._tried[voter] = now
            return True
        return now - since <= self._timers.suspect_s

    def _answered(self, alive: Collection[str]) -> list[str]:
        """Of those that tell this voter: all that chose it, and not those that only tell a leader."""
        if not self.seats(self._me):
            return []
        others = [peer for peer in alive if peer not in self._voters]
        if self._me not in self.first():
            return others
        return [peer for peer in others if self._me in self.near(peer)[: 2 * limits.GUIDES]]

    def near(self, peer: str) -> list[str]:
        """The voters, from this host's place on the circle on."""
        at = self._places.get(peer)
        if at is None:
            if len(self._places) >= limits.PEERS_MAX:
                self._places.clear()
            at = self._places[peer] = place(peer)
        begin = bisect_right(self._circle, (at, ""))
        return [voter for _, voter in (*self._circle[begin:], *self._circle[:begin])]
