"""Who is expected in a round, alive, ready, able: one host's view of one decision. SPEC A3, B4.

Owns the moments at which enough were ready or too few were left. Refuses to know ballots; `readiness.py` says
what follows from the view.
"""

from collections.abc import Collection

from intellectd.protocol import limits
from intellectd.protocol.context import Context
from intellectd.protocol.head import Head
from intellectd.protocol.membership import ABLE_STATES, Membership
from intellectd.protocol.messages import Beacon, Ready
from intellectd.protocol.moments import soonest
from intellectd.protocol.readiness import Standing, grace_ends_at
from intellectd.protocol.suspicion import Suspicion


class Muster:
    def __init__(self, context: Context, head: Head, members: Membership, suspicion: Suspicion, now: float) -> None:
        self._context, self._head, self._members, self._suspicion = context, head, members, suspicion
        self.own_ready: Ready | None = None
        self.state_digest: bytes | None = None  # of the state after the head, once applied
        self.able = False  # this host is synced and has a trainer
        self.leaving = False
        self._expected = [a.peer for a in head.blob.assignments]
        self._named = dict.fromkeys(self._expected)
        self._judged: dict[str, tuple[Ready | None, bytes | None, Ready | None]] = {}  # (said, on this state): counts
        self.began_at = now
        self._half_ready_at: float | None = None
        self._some_ready_at: float | None = None
        self._short_since: float | None = None

    def standing(self, now: float) -> Standing:
        beacons, me = self._members.alive_beacons(now), self._context.peer
        if self._some_ready_at is None and any(p in self._named and self.ready(p) for p in (*beacons, me)):
            self._some_ready_at = now
        judges_at = self._judges_at(len(beacons) + 1, now)
        if now < judges_at:  # it would look through a roster of hundreds to see few
            return Standing(self._expected, [], [], [], False, False, float("inf"), judges_at)
        here = [p for p in self._expected if p in beacons or p == me]
        alive = self._suspicion.left(here, now)
        ready = [p for p in alive if self.ready(p) is not None]
        if 2 * len(ready) > len(self._expected) and self._half_ready_at is None:
            self._half_ready_at = now
        self._watch_short(self._can_work(here, len(ready), now), now)
        opening, all_silent = self._head.round == -1, self._all_silent(now) or self._all_suspect(len(alive), now)
        return Standing(
            expected=self._expected,
            alive=alive,
            ready=ready,
            able=self.able_peers(now) if opening or all_silent else [],
            opening=opening,
            all_silent=all_silent,
            grace_ends_at=self._grace_ends_at(),
            judges_at=self._judges_at(len(here), now),
        )

    def _judges_at(self, here: int, now: float) -> float:
        """When a host judges that hears no more than half of a large roster (A16). Those whom everybody tells judge at
        once; while one of them is alive, the others leave it to them, until they had all the time they may take."""
        if len(self._expected) <= limits.ROSTER_DENSE_MAX or 2 * here > len(self._expected):
            return float("-inf")
        first, me = self._members.audience.first(), self._context.peer
        if me in first or not any(self._members.alive(leader, now) for leader in first):
            return float("-inf")
        return self._patience_ends_at()

    def _patience_ends_at(self) -> float:
        timers, since = self._context.config.timers, self._some_ready_at
        return float("inf") if since is None else since + timers.grace_max_s + timers.expel_s

    def _said(self, peer: str) -> Ready | None:
        beacon = self._members.beacon(peer)
        return self.own_ready if peer == self._context.peer else (beacon.ready if beacon else None)

    def ready(self, peer: str) -> Ready | None:
        """The peer's readiness for this very decision, on the state that is ours and data that is its own."""
        said = self._said(peer)
        if said is None:
            return None
        known = self._judged.get(peer)
        if known is None or known[0] is not said or known[1] != self.state_digest:
            # Asked several times an event, said once a beacon.
            known = self._judged[peer] = (said, self.state_digest, self._judge(peer, said))
        return known[2]

    def _astray(self, peer: str) -> bool:
        """It has done its work of this decision on another state: it waits for others that stand there."""
        said = self._said(peer)
        if said is None or said.at != self._head.at or self.state_digest is None:
            return False
        return said.state_digest != self.state_digest

    def _judge(self, peer: str, ready: Ready) -> Ready | None:
        if ready.at != self._head.at or ready.tokens <= 0:
            return None
        if self.state_digest is not None and ready.state_digest != self.state_digest:
            return None
        allowed = self._head.allowed_streams(peer)
        once = len(dict.fromkeys(ready.streams)) == len(ready.streams)
        return ready if once and all(stream in allowed for stream in ready.streams) else None

    def all_ready(self) -> dict[str, Ready]:
        """Whoever said to be ready, alive or not."""
        return {peer: r for peer in self._expected if (r := self.ready(peer))}

    def able_peers(self, now: float) -> list[str]:
        """Alive, at the head or one record behind, and with a trainer: who can be named for the next round."""
        able = [self._context.peer] if self.able and not self.leaving else []
        able += [peer for peer, beacon in self._members.alive_beacons(now).items() if self._is_able(beacon)]
        return sorted(able)

    def _is_able(self, beacon: Beacon) -> bool:
        near = beacon.generation == self._head.generation and beacon.applied >= self._head.round - 1
        return beacon.state in ABLE_STATES and near and not beacon.leaving

    def _may_work(self, beacon: Beacon, now: float) -> bool:
        """Able, and it knows of this decision, or has had little time to: who lives and hears nothing never will."""
        known = beacon.head_round >= self._head.round or now < self.began_at + self._context.config.timers.expel_s
        return known and self._is_able(beacon)

    def leaving_peers(self, promised: Collection[str], now: float) -> list[str]:
        """Whoever leaves, and voters, but the `promised`, who have forgotten their votes: one that reads the log anew
        does not know yet that it was a voter (SPEC R10). A voter's newest word counts though it is silent since: kept
        for a moment's silence, one that has forgotten may be half of the next quorum, for good."""
        leaving = {p: None for p, b in self._members.alive_beacons(now).items() if b.leaving}
        heard = {v: b for v in self._head.voters if v != self._context.peer and (b := self._members.beacon(v))}
        leaving |= {v: None for v, b in heard.items() if b.leaving or (v not in promised and self._has_forgotten(v, b))}
        return [*leaving, self._context.peer] if self.leaving else [*leaving]

    def _has_forgotten(self, voter: str, beacon: Beacon) -> bool:
        """It stands before the head and says that it remembers no votes there. Who is ready says otherwise."""
        return not beacon.lineage.votes and beacon.head_round < self._head.round and self.ready(voter) is None

    def deadline(self, now: float) -> float:
        """When the slow are waited for no longer, or a roster that is too short for a round is given up."""
        ends = [self._grace_ends_at(), self._patience_ends_at()]
        for since in (self._short_since, self._suspicion.since, self.began_at):
            if since is not None:
                ends.append(since + self._context.config.timers.expel_s)
        return soonest(ends, now)

    def _grace_ends_at(self) -> float:
        timers = self._context.config.timers
        return grace_ends_at(timers, self.began_at, self._half_ready_at, self._some_ready_at)

    def _can_work(self, here: list[str], ready: int, now: float) -> bool:
        """Are there enough to make a round, ready or able? So many are known to be ready."""
        asked = max(1, self._context.config.swarm.min_peers)
        if ready >= asked:
            return True
        beacons, me, count = self._members.alive_beacons(now), self._context.peer, 0
        for peer in here:
            able = self.able and not self.leaving if peer == me else self._may_work(beacons[peer], now)
            count += self.ready(peer) is not None or (able and not self._astray(peer))
            if count >= asked:
                return True
        return False

    def _watch_short(self, can_work: bool, now: float) -> None:
        if can_work:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now

    def _all_silent(self, now: float) -> bool:
        """Too few of the named could make a round for so long that others should be named (A3)."""
        if not self._expected:
            return True
        waited = self._short_since is not None and now - self._short_since >= self._context.config.timers.expel_s
        return self._head.round >= 0 and waited

    def _all_suspect(self, left: int, now: float) -> bool:
        """Transfers have broken for as long, and without the suspects too few are left (A3): of two that live, one may
        hear nothing, and they would try again for ever while others could work."""
        asked = max(1, self._context.config.swarm.min_peers)
        broken_s = now - self._suspicion.since
        return self._head.round >= 0 and left < asked and broken_s >= self._context.config.timers.expel_s
