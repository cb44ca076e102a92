"""What this host remembers of decided rounds: enough to apply them, and what they prove. SPEC K2.

Owns the newest WINDOW_ROUNDS of the log in short form, and which updates lie on this disk. The log itself is the
shell's. Bounded: an older state is replaced by a snapshot, not replayed.
"""

from dataclasses import dataclass
from typing import Literal

from intellectd.protocol import limits
from intellectd.protocol.collectives import parts
from intellectd.protocol.entries import GOSSIP, Contribution, Entry, Record, groups_of, transfer_id
from intellectd.protocol.ids import NO_HASH, At, hash_of
from intellectd.protocol.records import collective_of


@dataclass(frozen=True)
class Decided:
    record: Record
    mine: Contribution | None  # what this host put in
    # Of a gossip round: (root, members) of its groups, in the order in which this host takes them (E5).
    groups: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
    apart: bool = False  # are anchors other than the state, each group's own, after it?
    transfer: bytes = NO_HASH  # that computed what this host applies

    @property
    def anchor(self) -> Literal["state", "group"]:
        """What this host's rounds begin from after it."""
        return "group" if self.apart else "state"

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Updates each of which is enough to apply it."""
        return tuple(root for root, _ in self.groups) or (self.record.update_root,)


class Window:
    def __init__(self, peer: str, first_state: bytes) -> None:
        self._peer = peer
        self._rounds: dict[int, Decided] = {}
        self._proven: dict[int, bytes] = {-1: first_state}  # digest of the state after each round
        self.held: dict[bytes, bool] = {}  # updates on disk here, oldest first

    def add(self, entry: Entry) -> None:
        """The log grew by this entry."""
        record = entry.record
        mine = next((c for c in entry.blob.contributions if c.peer == self._peer), None)
        groups = _in_turn(entry, self._peer)
        before = self._rounds.get(record.round - 1)
        apart = bool(groups) or (before is not None and before.apart and not entry.blob.contributions)
        self._rounds[record.round] = Decided(record, mine, groups, apart, transfer_of(entry, self._peer))
        self._proven[record.round - 1] = record.state_digest
        if groups or record.update_root == NO_HASH:  # it changes no state (E5)
            self._proven[record.round] = record.state_digest
        old = record.round - limits.WINDOW_ROUNDS
        self._rounds.pop(old, None)
        if old > 0:
            self._proven.pop(old - 1, None)

    def get(self, round_: int) -> Decided | None:
        return self._rounds.get(round_)

    def newest_delta(self, first: int) -> bytes:
        """Root of this host's delta that counted last, in this round or later; else zero."""
        rounds = [r for r, decided in self._rounds.items() if r >= first and decided.mine and decided.mine.tokens]
        mine = self._rounds[max(rounds)].mine if rounds else None
        return mine.delta_root if mine else NO_HASH

    def proven(self, round_: int) -> bytes | None:
        """The digest that the log proves for the state after this round."""
        return self._proven.get(round_)

    def holds(self, decided: Decided) -> bool:
        return self.chosen(decided) is not None

    def chosen(self, decided: Decided) -> bytes | None:
        """The first of its updates that lies here; no bytes if it has none; None if one is needed and none is here."""
        if decided.record.update_root == NO_HASH:
            return b""
        return next((root for root in decided.roots if root in self.held), None)

    def reach(self, at: int) -> int:
        """The newest round whose state can be made from the one after this round, by what lies on this disk."""
        while (next_ := self.get(at + 1)) and (next_.groups or self.holds(next_)):
            at += 1
        return at

    def hold(self, root: bytes) -> None:
        self.held.pop(root, None)
        self.held[root] = True
        while len(self.held) > limits.HELD_MAX:
            del self.held[next(iter(self.held))]

    def lost(self, root: bytes) -> None:
        self.held.pop(root, None)

    def pruned(self, updates_from: int) -> None:
        """The disk keeps updates from this round on."""
        for round_, decided in self._rounds.items():
            if round_ < updates_from:
                for root in decided.roots:
                    self.held.pop(root, None)

    def cut(self, round_: int) -> None:
        """What came after this round is no longer the log, and what was held for it may go from the disk unheard."""
        self._rounds = {r: decided for r, decided in self._rounds.items() if r <= round_}
        self._proven = {r: digest for r, digest in self._proven.items() if r <= round_}
        kept = {root: True for decided in self._rounds.values() for root in decided.roots}
        for root in [root for root in self.held if root not in kept]:
            del self.held[root]

    def __len__(self) -> int:
        return len(self._rounds)


def transfer_of(entry: Entry, peer: str) -> bytes:
    """What this peer would have taken part in: of a gossip round its group's transfer; zero if it is in none."""
    record = entry.record
    if record.schedule != GOSSIP:
        return record.transfer
    at = At(record.generation, record.round, record.parent)
    for part in parts(collective_of(record, entry.blob)):
        if any(m.peer == peer for m in part.members):
            return transfer_id(at, part, record.codec)
    return NO_HASH


def _in_turn(entry: Entry, peer: str) -> tuple[tuple[bytes, tuple[str, ...]], ...]:
    """The groups of a gossip round: the peer's own first, the others as lots say (SPEC E5)."""
    found = [(root, tuple(members)) for root, members in groups_of(entry.record, entry.blob)]
    lot = entry.record.parent, peer.encode()
    return tuple(sorted(found, key=lambda group: (peer not in group[1], hash_of("visit", *lot, group[0]))))
