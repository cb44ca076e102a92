"""May this host use its vote? Not where the journal of what it promised and accepted is gone. SPEC A13, G9.

Owns that one judgement, for each generation. A voter without memory could vote twice, so it gives its seat up (as
one who leaves) and gets a new one by contributing. Refuses to know rounds.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from intellectd.protocol import limits
from intellectd.protocol.branch import lives_of
from intellectd.protocol.effects import Note, PersistVote
from intellectd.protocol.head import Head
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Beacon
from intellectd.protocol.quorum import is_quorum

# Promises nothing: below every ballot of a real leader. It begins the journal: what was voted before, it does not know.
NO_BALLOT = Ballot(0, "11")
ABSTAINING = "abstaining"  # the state, in beacons, of a host whose votes are lost
OLD_JOURNAL = (
    "a record holds a vote of this host that its journal lacks: the run's folder is older than its votes, as from a "
    "backup, or another daemon uses a copy of it; this host gives its seat up and gets a new one by contributing"
)


def first_mark(head: Head) -> PersistVote:
    """What a generation's journal begins with; that of the first generation at the founder's when it makes the run."""
    return PersistVote(head.at, NO_BALLOT, None, None)


def forgot(vote: PersistVote | None, peer: str, before: Head, after: Head) -> bool:
    """Does a vote of this host stand in the certificate of `after` that is newer than `vote`, the newest in its journal
    of that generation? A vote is on disk before it is sent: so the journal is an older copy. It says of no decision
    since then what was promised, nor of the one that comes next."""
    entry = after.entry
    if entry is None or after.generation != before.generation or all(v.voter != peer for v in entry.certificate.votes):
        return False
    known = (vote.at.round, vote.accepted_ballot or NO_BALLOT) if vote is not None else (-1, NO_BALLOT)
    return known < (after.round, entry.certificate.ballot)


class Seat:
    def __init__(self, peer: str, incarnation: int, head: Head, votes: dict[bytes, PersistVote]) -> None:
        """`head` is the end of the log on disk, `votes` the newest vote of each generation: the journal, which the
        node keeps. What proves to be an older copy of one is taken out of it."""
        self._peer, self._incarnation, self._votes = peer, incarnation, votes
        self._begun = b""  # a generation whose mark is on its way to the disk
        self.lost = peer in head.voters and not self._journal(head)

    def _journal(self, head: Head) -> bool:
        return head.generation in self._votes or head.generation == self._begun

    def _drop(self, generations: Sequence[bytes]) -> list[Note]:
        """These journals are older copies."""
        gone = [g for g in generations if g in self._votes]
        for generation in gone:
            del self._votes[generation]
        self._begun = b"" if self._begun in generations else self._begun
        return [Note("journal_old", OLD_JOURNAL, "error")] if gone else []

    def on_record(self, before: Head, after: Head) -> list[PersistVote | Note]:
        """A record is about to join the log; what must be on disk before it does."""
        if after.generation != before.generation:
            return [*self._on_branch(before, after)]
        said = self._drop([after.generation]) if self._is_behind(before, after) else []
        if self._peer not in after.voters:
            self.lost = False
        elif self._peer not in before.voters or said:
            # A new seat. Nobody is named without a journal: who has none and reads of it held it in a forgotten life.
            self.lost = not self._journal(after)
        return [*said]

    def _is_behind(self, before: Head, after: Head) -> bool:
        return forgot(self._votes.get(after.generation), self._peer, before, after)

    def _on_branch(self, before: Head, after: Head) -> list[PersistVote]:
        """A branch at our very head. No forgotten life was in it if the journal began before that head did, or if it
        was drafted in this very life."""
        first = self.may_branch(before) or self._is_meant(after)
        begins = not self._journal(after) and first and len(self._votes) < limits.LINES_VOTED_MAX
        if begins:
            self._begun = after.generation
        self.lost = self._peer in after.voters and not self._journal(after)
        return [first_mark(after)] if begins else []

    def _is_meant(self, head: Head) -> bool:
        """Does this recovery name this life of this host? Then there was none of it before this life began."""
        lives = lives_of(head.entry) if head.entry is not None else None
        return lives is not None and lives.get(self._peer) == self._incarnation

    def on_switch(self, heads: Sequence[Head]) -> list[PersistVote | Note]:
        """Another line was taken, from the first of these points, where it parts from ours, to the last. A seat on it
        counts if this life has voted there, if the owner named it on the way, or if the journal began before the lines
        parted: then all that is on it came later. What must be on disk before it is ours."""
        marks: list[PersistVote] = []
        behind = [head.generation for before, head in pairwise(heads) if self._is_behind(before, head)]
        said = self._drop(behind)
        older = not behind and heads[0].generation in self._votes and self._remembers(heads[0])
        for before, head in zip((heads[0], *heads), heads, strict=False):
            meant = self._is_meant(head) or (older and head.generation != before.generation)
            if head.generation in behind:
                continue
            if meant and not self._journal(head) and len(self._votes) + len(marks) < limits.LINES_VOTED_MAX:
                self._begun = head.generation
                marks.append(first_mark(head))
        self.lost = self._peer in heads[-1].voters and not self._journal(heads[-1])
        return [*said, *marks]

    def may_branch(self, head: Head) -> bool:
        """May this host vote in a branch at its head? Not if its journal began later on this line than the head."""
        return self._remembers(head) and not (self.lost and self._peer in head.voters)

    def _remembers(self, head: Head) -> bool:
        """The journal is older than this head, and says that nothing was voted further along in this generation."""
        vote = self._votes.get(head.generation)
        if self._peer in head.voters:
            return vote is None or vote.at.round <= head.at.round
        return vote is not None and vote.at.round <= head.round

    def stands(
        self, head: Head, applied: int, alive: Mapping[str, Beacon], lives: Mapping[str, int]
    ) -> list[PersistVote]:
        """If this host is no voter and stands at the head, as a quorum of the voters say that they do, none of which
        has voted there, what is decided from here on is decided in this life: the journal begins, before any seat can
        come of it. Had one voted, the next record might be decided, a seat of a forgotten life in it. `lives`: the
        incarnations whose word came in this life of ours; what a third has kept may be older than that."""
        if self.may_be_named(head) or self.lost or applied != head.round or len(self._votes) >= limits.LINES_VOTED_MAX:
            return []
        heard = {v: b for v in head.voters if (b := alive.get(v)) and lives.get(v) == b.incarnation}
        said = {v: b for v, b in heard.items() if b.state != ABSTAINING}
        stand = {v: b for v, b in said.items() if b.head == head.told and b.applied == head.round}
        there = [v for v, beacon in stand.items() if not beacon.voted]
        return [first_mark(head)] if is_quorum(head.voters, there) else []

    def may_be_named(self, head: Head) -> bool:
        """Whoever contributes or is named gets a seat (R10): its journal must have begun before."""
        return self._journal(head) or self._peer in head.voters
