"""What this host remembers of decided rounds: enough to apply them, and what they prove. SPEC K2.

Owns the newest WINDOW_ROUNDS of the log in short form, and which updates lie on this disk. The log itself is the
shell's. Bounded: an older state is replaced by a snapshot, not replayed.
"""

from dataclasses import dataclass

from intellectd.protocol import limits
from intellectd.protocol.entries import Contribution, Entry, Record
from intellectd.protocol.ids import NO_HASH


@dataclass(frozen=True)
class Decided:
    record: Record
    mine: Contribution | None  # what this host put in


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
        self._rounds[record.round] = Decided(record, mine)
        self._proven[record.round - 1] = record.state_digest
        old = record.round - limits.WINDOW_ROUNDS
        self._rounds.pop(old, None)
        if old > 0:
            self._proven.pop(old - 1, None)

    def get(self, round_: int) -> Decided | None:
        return self._rounds.get(round_)

    def newest_delta(self, first: int) -> bytes:
        """Root of this host's delta that was decided last, in this round or later; else zero."""
        rounds = [r for r, decided in self._rounds.items() if r >= first and decided.mine]
        mine = self._rounds[max(rounds)].mine if rounds else None
        return mine.delta_root if mine else NO_HASH

    def proven(self, round_: int) -> bytes | None:
        """The digest that the log proves for the state after this round."""
        return self._proven.get(round_)

    def holds(self, record: Record) -> bool:
        return record.update_root == NO_HASH or record.update_root in self.held

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
                self.held.pop(decided.record.update_root, None)

    def cut(self, round_: int) -> None:
        """What came after this round is no longer the log, and what was held for it may go from the disk unheard."""
        self._rounds = {r: decided for r, decided in self._rounds.items() if r <= round_}
        self._proven = {r: digest for r, digest in self._proven.items() if r <= round_}
        kept = {decided.record.update_root: True for decided in self._rounds.values()}
        for root in [root for root in self.held if root not in kept]:
            del self.held[root]

    def __len__(self) -> int:
        return len(self._rounds)
