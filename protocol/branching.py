"""When a quorum is lost, and when a better line of history shows itself. SPEC G3, G6-G9.

Owns the clock of a lost quorum and the rival line under examination. A claim in a beacon only makes this host ask;
what it follows is proven by records. Refuses to know how a switch is carried out (keeper.py) and a branch's form
(branch.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from intellectd.protocol import limits
from intellectd.protocol.branch import fork
from intellectd.protocol.context import Context
from intellectd.protocol.donors import Retry
from intellectd.protocol.effects import AskEntries, Note, Out, PeerFault
from intellectd.protocol.entries import BadRecord, Entry
from intellectd.protocol.head import Head
from intellectd.protocol.ids import encode, hash_of
from intellectd.protocol.membership import Membership
from intellectd.protocol.messages import Beacon
from intellectd.protocol.quorum import is_quorum
from intellectd.protocol.records import check_entry
from intellectd.protocol.trail import Trail


@dataclass
class Rival:
    """Another line, as far as it has been fetched from one peer and found valid. One that is too long to be kept is
    proven by its newest point alone: then ours is left for the point where they part, and it is read from there on."""

    generation: bytes
    peer: str
    base: Head  # where it may have parted from ours
    head: Head
    since: float
    entries: list[Entry] = field(default_factory=list)
    entries_bytes: int = 0
    skimmed: bool = False  # they became too many to be kept: they are read again once the line is proven
    steps: int = 0  # rounds that `base` lies back
    found: bool = False  # the point where it parted lies at `base` or after it
    asked: bool = False


@dataclass
class Bound:
    """A line that was proven without being kept, and is read again. On the way it is not the better one yet."""

    generation: bytes
    rank: tuple[int, int]  # as far as it was proven
    at: bytes  # our newest head
    until: float  # for that to grow


@dataclass(frozen=True)
class Switch:
    """Our line is left at `base`, and these follow."""

    base: Head
    entries: tuple[Entry, ...]


class Branching:
    def __init__(self, context: Context, members: Membership, genesis: Head, now: float) -> None:
        self._context, self._members = context, members
        self.trail = Trail(genesis)
        self.quorum = False  # of our line, alive to this host
        self.led = False  # or to a voter that it hears, where not everybody hears all of them (B11)
        self._lost_since: float | None = now
        self._rival: Rival | None = None
        self._bound: Bound | None = None
        self._others: list[
            tuple[str, Beacon]
        ] = []  # who are alive and follow another line, as of which turn and of ours
        self._looked_at: tuple[int, bytes] = (-1, b"")
        self._seen: tuple[int, bytes, bool] = (-1, b"", False)  # what `quorum` and `led` follow from
        self._alone = False  # nobody alive follows another line than ours
        self._retry = Retry()
        self._distrust: dict[str, tuple[float, int]] = {}  # until when, how often
        self._vain: dict[str, int] = {}  # who was asked so often, for whatever reason, since it last proved something
        self._pause_ends = self._heeds_at = float("-inf")
        self._pauses = 0  # since a claim was last proven

    @property
    def settled(self) -> bool:
        """Is there one line, with a quorum alive? Then nothing here becomes due by time."""
        return self.led and self._alone and self._rival is None

    # ---- the quorum

    def look(self, head: Head, votes: bool, now: float) -> None:
        """Who of the voters is alive on our own line?"""
        alive, members, mine = self._members.alive_beacons(now), self._members, head.generation
        if self._seen != (members.turns, head.hash, votes):
            self._seen = (members.turns, head.hash, votes)
            here = [v for v in head.voters if (b := alive.get(v)) and b.generation == mine and b.lineage.votes]
            self.quorum = is_quorum(head.voters, [*here, self._context.peer] if votes else here)
            self.led = self.quorum or (members.sparse and any(alive[v].lineage.quorum for v in here))
        if self.led:
            self._lost_since = None
        elif self._lost_since is None:
            self._lost_since = now

    def lost_s(self, now: float) -> float:
        """For how long no quorum of our line has been alive, to a host that listened (B6)."""
        return 0.0 if self._lost_since is None else min(now - self._lost_since, self._members.listened_s(now))

    def voting(self, able: Sequence[str], votes: bool, now: float) -> list[str]:
        """Those of them that may vote in a branch; `votes`: this host may."""
        alive, me = self._members.alive_beacons(now), self._context.peer
        return [p for p in able if (votes if p == me else alive[p].lineage.votes)][: limits.ASSIGNMENTS_MAX]

    def opens(
        self, head: Head, able: Sequence[str], votes: bool, state_digest: bytes | None, now: float
    ) -> Entry | None:
        """The branch that it is this host's turn to open, if any (G3). `able` may work on the next round, `votes`:
        this host may vote in a branch."""
        config, me = self._context.config, self._context.peer
        over = config.until.rounds is not None and head.round >= config.until.rounds
        if config.swarm.on_quorum_loss != "fork" or head.round < 0 or over or self._lost_since is None:
            return None
        named = self.voting(able, votes, now)
        if state_digest is None or me not in named or self.claims(head, now) or head.branches >= limits.BRANCHES_MAX:
            return None
        alive = self._members.alive_beacons(now)
        if any(b.generation == head.generation and b.head_round > head.round for b in alive.values()):
            return None
        cut_off = [p for p in named if p == me or not alive[p].lineage.quorum]
        order = sorted(cut_off, key=lambda p: hash_of("leader", head.hash, p.encode()))
        waits = config.timers.fork_s + order.index(me) * config.timers.attempt_s
        if len(order) < max(1, config.swarm.min_peers) or self.lost_s(now) < waits:
            return None
        return fork(head, sorted(order), state_digest, me, self._context.crypto)

    # ---- other lines

    def pauses(self, head: Head, now: float) -> bool:
        """Somebody claims a line with more in it: ours is not made longer until that is settled (G8). Not for long: a
        claim costs nothing."""
        if not any(_rank(beacon) > head.rank for beacon in self.claims(head, now).values()):
            return False
        if now >= self._heeds_at:
            self._pause_ends = now + limits.PAUSE_S_MAX
            doublings = min(self._pauses, limits.EXCLUSION_DOUBLINGS_MAX)
            self._heeds_at = self._pause_ends + limits.DISTRUST_MIN_S * 2**doublings
            self._pauses += 1
        return now < self._pause_ends

    def follows(self, head: Head, entry: Entry, now: float) -> bool:
        """A valid branch at our very head: is it ours now?"""
        return self._beats(head.next(entry), head, False, now)

    def evaluate(self, head: Head, now: float) -> list[Out]:
        """Examine the best line that is claimed."""
        rival = self._rival
        if rival is not None and rival.generation == head.generation:
            rival = self._rival = None  # it has become ours in another way
        if rival is not None and now > rival.since + limits.RIVAL_S_MAX:
            self._doubt(rival.peer, now)
            return []
        if rival is not None and (rival.asked or now < self._retry.at):
            return []
        if rival is None:
            claims = self.claims(head, now)
            if not claims or now < self._retry.at:
                return []
            # Not always who claims most: it may be one that cannot be asked, or does not mean it.
            peer = max(sorted(claims), key=lambda p: (-self._vain.get(p, 0), _rank(claims[p])))
            self._vain = {p: count for p, count in self._vain.items() if p in self._members.peers}
            self._vain[peer] = self._vain.get(peer, 0) + 1
            base = self.trail.back(0)
            rival = self._rival = Rival(claims[peer].generation, peer, base, base, now)
        rival.asked = True
        return [AskEntries(rival.peer, rival.generation, rival.head.round + 1)]

    def on_failed(self, peer: str, generation: bytes, now: float) -> None:
        """The peer did not answer: it may have died."""
        if self._rival is not None and (peer, generation) == (self._rival.peer, self._rival.generation):
            self._doubt(peer, now, lied=False)

    def on_entries(
        self, peer: str, generation: bytes, entries: Sequence[Entry], head: Head, now: float
    ) -> tuple[list[Out], Switch | None]:
        """What the peer has of its line. `head` may have moved: what went on from there as ours was taken before."""
        rival = self._rival
        if rival is None or (peer, generation) != (rival.peer, rival.generation):
            return [], None
        rival.asked = False
        if not rival.found and any(e.record.parent == head.hash for e in entries):
            rival.base = rival.head = head  # it goes on from the very point where we stand
        fresh = [e for e in entries if e.record.round > rival.head.round]
        if not fresh or fresh[0].record.parent != rival.head.hash:
            return self._nothing_follows(rival, bool(entries), head, now)
        try:
            for entry in fresh:
                check_entry(rival.head, entry, self._context.crypto)
                self._prolong(rival, entry)
        except BadRecord as error:
            self._doubt(peer, now)
            return [PeerFault(peer, "record", f"record {entry.record.round} of another line: {error}")], None
        bound = self._bound_for(head, now)
        if bound is not None and bound.generation == rival.generation:
            stands = bool(rival.entries)  # as far as it has come: ours was left for it
        else:
            stands = self._beats(rival.head, head, self._has_quorum(rival.generation, now), now)
            stands = stands and (bound is None or rival.head.rank > bound.rank)
        if stands:
            self._rival, self._pauses = None, 0
            if rival.skimmed:
                self._bound = Bound(rival.generation, rival.head.rank, head.hash, now + limits.RIVAL_S_MAX)
            self._distrust.pop(peer, None)
            self._vain.pop(peer, None)
            self._retry.succeeded()
            return [], Switch(rival.base, tuple(rival.entries))
        if len(rival.entries) > limits.RIVAL_ENTRIES_MAX or rival.entries_bytes > limits.RIVAL_BYTES_MAX:
            rival.entries, rival.entries_bytes, rival.skimmed = [], 0, True
        return [], None

    def leaves(self, head: Head, now: float) -> bool:
        """Is it another line that is to be read, and nothing more of this one?"""
        bound = self._bound_for(head, now)
        return bound is not None and bound.generation != head.generation

    def switched(self, base: Head) -> None:
        self.trail.cut(base)
        self._rival, self._lost_since = None, None
        self.quorum = self.led = False
        self._seen = (-1, b"", False)

    # ---- inside

    def _bound_for(self, head: Head, now: float) -> Bound | None:
        """The line for which ours was left, while it is read: not as far as it was proven to go, and somebody shows
        it, and it grows here."""
        bound = self._bound
        if bound is None:
            return None
        if head.hash != bound.at:
            bound.at, bound.until = head.hash, now + limits.RIVAL_S_MAX
        shown = any(b.generation == bound.generation for b in self._members.alive_beacons(now).values())
        if head.rank >= bound.rank or now >= bound.until or not shown:
            bound = self._bound = None
        return bound

    def claims(self, head: Head, now: float) -> dict[str, Beacon]:
        """The beacons of living peers whose line we should follow, if they speak true."""
        alive, ours = self._members.alive_beacons(now), head.generation
        if self._looked_at != (self._members.turns, ours):
            self._looked_at = (self._members.turns, ours)
            self._others = [(peer, beacon) for peer, beacon in alive.items() if beacon.generation != ours]
        others = self._others
        self._alone = not others
        if self._alone:
            return {}
        lost = self.lost_s(now) >= self._context.config.timers.suspect_s
        bound = self._bound_for(head, now)
        return {
            peer: beacon
            for peer, beacon in others
            if self._distrust.get(peer, (now, 0))[0] <= now
            and (bound is None or beacon.generation == bound.generation or _rank(beacon) > bound.rank)
            and _beats(
                (_rank(beacon), beacon.lineage.branches, beacon.generation),
                self._has_quorum(beacon.generation, now),
                head,
                self.led,
                lost,
            )
        }

    def _beats(self, theirs: Head, head: Head, their_quorum: bool, now: float) -> bool:
        lost = self.lost_s(now) >= self._context.config.timers.suspect_s
        line = (theirs.rank, theirs.branches, theirs.generation)
        return _beats(line, their_quorum, head, self.led, lost)

    def _has_quorum(self, generation: bytes, now: float) -> bool:
        alive = self._members.alive_beacons(now).values()
        return any(b.generation == generation and b.lineage.quorum for b in alive)

    def _prolong(self, rival: Rival, entry: Entry) -> None:
        rival.head, rival.found = rival.head.next(entry), True
        if self.trail.knows(rival.head):  # so far it is our own line: it parts later
            rival.base, rival.entries, rival.entries_bytes, rival.skimmed = rival.head, [], 0, False
        elif not rival.skimmed:
            rival.entries.append(entry)
            rival.entries_bytes += len(encode(entry))

    def _nothing_follows(self, rival: Rival, answered: bool, head: Head, now: float) -> tuple[list[Out], Switch | None]:
        """The peer's line goes on from an older point than we thought; or there is no more of it."""
        if not rival.found and rival.base.round >= 0:
            rival.steps = max(1, 2 * rival.steps)
            rival.base = rival.head = self.trail.back(rival.steps)
            return [], None
        self._doubt(rival.peer, now)
        more = "another history" if answered else "nothing"
        return [Note("rival_lost", f"{rival.peer} claims a better history and shows {more}", "warning")], None

    def refuse(self, peers: Sequence[str], until: float) -> None:
        """What these claim is not heard until then: what they have shown is not wanted."""
        self._bound = None
        if self._rival is not None and self._rival.peer in peers:
            self._rival = None
        if len(self._distrust) + len(peers) > limits.PEERS_MAX:
            self._distrust.clear()
        for peer in peers:
            self._distrust[peer] = (until, self._distrust.get(peer, (0.0, 0))[1])

    def _doubt(self, peer: str, now: float, lied: bool = True) -> None:
        self._rival = None
        self._retry.failed(now)
        if len(self._distrust) >= limits.PEERS_MAX:
            self._distrust.clear()
        often = min(self._distrust.get(peer, (0.0, 0))[1], limits.EXCLUSION_DOUBLINGS_MAX)
        self._distrust[peer] = (now + limits.DISTRUST_MIN_S * 2**often, often + lied)


Line = tuple[tuple[int, int], int, bytes]  # rank, branches, generation


def _rank(beacon: Beacon) -> tuple[int, int]:
    return beacon.lineage.recoveries, beacon.lineage.tokens


def _beats(line: Line, their_quorum: bool, head: Head, our_quorum: bool, lost: bool) -> bool:
    """Is that line to be followed instead of ours? The order of G6; every host comes to the same answer."""
    rank, branches, generation = line
    if rank != head.rank:
        return rank > head.rank
    if generation == head.generation:
        return False
    if their_quorum != our_quorum:
        return their_quorum and lost
    if their_quorum:  # both go on: the one that changed less
        return (branches, generation) < (head.branches, head.generation)
    return lost and (-branches, generation) < (-head.branches, head.generation)
