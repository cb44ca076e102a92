"""May this host use its vote? Not when the journal of what it promised and accepted is gone. SPEC A13.

Owns that one judgement. A voter without memory could vote twice, so it gives its seat up (as one who leaves) and
gets a new one by contributing. Refuses to know rounds.
"""

from collections.abc import Mapping

from intellectd.protocol.effects import PersistVote
from intellectd.protocol.entries import Head, Record
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Beacon
from intellectd.protocol.quorum import is_quorum

# Promises nothing: below every ballot of a real leader. It begins the journal: what was voted before, it does not know.
NO_BALLOT = Ballot(0, "11")
ABSTAINING = "abstaining"  # the state, in beacons, of a host whose votes are lost


def first_mark(head: Head) -> PersistVote:
    """What a journal begins with; the founder's when it makes the run."""
    return PersistVote(head.at, NO_BALLOT, None, None)


class Seat:
    def __init__(self, peer: str, head: Head, vote: PersistVote | None) -> None:
        """`head` is the end of the log on disk, `vote` the newest in the journal (None: there is no journal)."""
        self._peer = peer
        self._journal = vote is not None
        self.lost = peer in head.voters and not self._journal

    def on_record(self, before: Head, record: Record) -> None:
        """A record is about to join the log."""
        if self._peer not in record.next_voters:
            self.lost = False
        elif self._peer not in before.voters:
            # A new seat. Nobody is named without a journal: who has none and reads of it held it in a forgotten life.
            self.lost = not self._journal

    def stands(self, head: Head, applied: int, alive: Mapping[str, Beacon]) -> list[PersistVote]:
        """If this host is no voter and stands at the head, as a quorum of the voters say that they do, what is decided
        from here on is decided in this life: the journal begins, before any seat can come of it."""
        if self.may_be_named(head) or self.lost or applied != head.round:
            return []
        said = {v: alive[v] for v in head.voters if v in alive and alive[v].state != ABSTAINING}
        there = [v for v, beacon in said.items() if beacon.head == head.hash and beacon.applied == head.round]
        if not is_quorum(head.voters, there):
            return []
        self._journal = True
        return [first_mark(head)]

    def may_be_named(self, head: Head) -> bool:
        """Whoever contributes or is named gets a seat (R10): its journal must have begun before."""
        return self._journal or self._peer in head.voters

    def voted(self) -> None:
        self._journal = True
