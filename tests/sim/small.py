"""A small world in which time is only a choice: what can happen to a host, what it keeps, and what it hears of others.

Owns everything around the production machines that a search over all interleavings leaves open. The clock stands
still; what timers decide (when to lead, when to wait no longer) happens whenever the search says so.
"""

from dataclasses import dataclass, replace
from typing import Any

from intellectd.protocol import effects as ef
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.attempts import Attempts
from intellectd.protocol.entries import Entry, record_hash
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, hash_of
from intellectd.protocol.links import Links
from intellectd.protocol.manifest import Manifest, Tensor, canonical, config_from_toml

RUN, THETA0 = hash_of("small-run"), hash_of("small-theta-0")
NOW = 1000.0  # longer after the round began than any grace
WAITED = NOW + limits.PROMISE_GRACE_S
TOKENS = 100


@dataclass(frozen=True)
class Take:
    """A message arrives: any that was ever sent to this host, as often as one likes."""

    sender: str
    message: m.AnyMessage


@dataclass(frozen=True)
class Learn:
    """A decided record arrives, pushed or asked for."""

    entry: Entry


@dataclass(frozen=True)
class Lead:
    """This host's timers say that it is its turn."""

    attempt: int


@dataclass(frozen=True)
class Wait:
    """A leader has waited for more promises than a quorum's long enough."""


@dataclass(frozen=True)
class Fetch:
    """The bytes that a vote waits for have come."""

    root: bytes


Event = Take | Learn | Lead | Wait | Fetch


@dataclass(frozen=True)
class Disk:
    """What survives a crash."""

    entries: tuple[Entry, ...] = ()
    vote: ef.PersistVote | None = None
    held: tuple[bytes, ...] = ()

    def after(self, effect: ef.Out) -> "Disk":
        if isinstance(effect, ef.PersistVote):
            return replace(self, vote=effect)
        if isinstance(effect, ef.AppendEntry):
            return Disk((*self.entries, effect.entry))  # what was voted on that decision binds nobody any more
        if isinstance(effect, ef.StartTransfer):  # what it brings is on disk before anything is said of it
            return self.holding(update_of(effect.transfer))
        return self

    def holding(self, root: bytes) -> "Disk":
        return replace(self, held=tuple(sorted({*self.held, root})))


class Whenever(Attempts):
    """Any timing at all: the clocks that choose among what is safe are taken out, and asked from outside."""

    over, turn = False, -1

    def busy(self, promised: Any, now: float) -> str | None:
        return None

    def expired(self, now: float) -> bool:
        return self.over

    def my_turn(self, promised: Any, alive: Any, now: float) -> bool:
        if self.turn < 0:
            return False
        self.number, self.turn = self.turn, -1
        return True


class Company:
    """What this host hears of the others: all are alive; who is fit or ready depends on the attempt, so that no two
    attempts would come to the same record of themselves."""

    turns = 0  # of who is alive: never
    listened_at = 0.0

    def __init__(self, world: "Small", me: str) -> None:
        self._world, self._me, self.attempt = world, me, 0
        self.head: Head | None = None
        self.links = Links(me)
        self.peers: dict[str, m.Beacon] = {}  # nobody's beacon shows a transfer, or that it does not hear of one

    def alive(self, peer: str, now: float) -> bool:
        return True

    def silent(self, peer: str, now: float) -> bool:
        return False

    def has_listened(self, now: float) -> bool:
        return True

    def heard_s(self, peer: str, now: float) -> float:
        return 0.0

    def alive_beacons(self, now: float) -> dict[str, m.Beacon]:
        return {peer: self._beacon(peer) for peer in self._world.hosts if peer != self._me}

    def beacon(self, peer: str) -> m.Beacon:
        return self._beacon(peer)

    def _beacon(self, peer: str) -> m.Beacon:
        head, voters = self.head, self._world.manifest.first_voters
        assert head is not None
        # Those without a vote first: one opening gives it to them, and one does not.
        others = sorted((p for p in self._world.hosts if p != self._me), key=voters.__contains__)
        unfit = head.round == -1 and peer == others[self.attempt % len(others)]
        ready = self._world.ready(head, peer)
        state = "synced" if unfit else "ready"
        where = (head.generation, max(head.round, -1), head.hash, max(head.round, -1))
        line = m.Lineage(0, 0, head.tokens_total, True, peer in head.voters)
        return m.Beacon(1, 1, *where, state, False, False, [], "bulk", b"", ready, None, [], 0, line, [])


class Small:
    """What all hosts of one search have in common."""

    def __init__(self, voters: int, hosts: int, ring: int, refusals: bool) -> None:
        self.hosts = ["P" + "ABCDEF"[n] for n in range(hosts)]
        self.ring, self.refusals = ring, refusals
        config = config_from_toml({"name": "small"})
        tensors = [Tensor("w", [256])]
        self.manifest = Manifest(1, canonical(config), "PA", bytes(32), self.hosts[:voters], tensors, THETA0)
        self.config = config
        self.genesis = Head(self.manifest, RUN, None)
        self.voters = {self.genesis.at: self.genesis.voters}
        self._heads: dict[bytes, Head] = {}
        self.digests = {self.genesis.hash: THETA0}  # of the state after each head

    def head(self, entries: tuple[Entry, ...]) -> Head:
        """Heads are told apart by their record: which quorum signed it makes no difference to what follows."""
        if not entries:
            return self.genesis
        key = record_hash(entries[-1].record)
        if key not in self._heads:
            before, root = self.head(entries[:-1]), entries[-1].record.update_root
            state = self.digests[before.hash]
            head = self._heads[key] = before.next(entries[-1])
            self.voters[head.at] = list(entries[-1].record.next_voters)
            self.digests[key] = state if root == NO_HASH else hash_of("state", state, root)
        return self._heads[key]

    def ready(self, head: Head, peer: str) -> m.Ready | None:
        """Whoever is assigned has done its steps."""
        given, digest = head.assignment(peer), self.digests[head.hash]
        root = hash_of("delta", peer.encode(), head.hash)
        return m.Ready(head.at, digest, TOKENS, given.steps, "3f800000", root, given.streams) if given else None


def update_of(transfer: bytes) -> bytes:
    return hash_of("update", transfer)
