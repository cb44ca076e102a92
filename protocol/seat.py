"""May this host use its vote? Not when the journal of what it promised and accepted is gone. SPEC A13.

Owns that one judgement. A voter without memory could vote twice, so it gives its seat up (as one who leaves) and
gets a new one by contributing. Refuses to know rounds.
"""

from intellectd.protocol.effects import PersistVote
from intellectd.protocol.entries import Head, Record
from intellectd.protocol.ids import Ballot

# Promises nothing: below every ballot of a real leader. It says in the journal that the seat was taken knowingly.
NO_BALLOT = Ballot(0, "11")


class Seat:
    def __init__(self, peer: str, head: Head, applied: int, vote: PersistVote | None) -> None:
        """`head` is the end of the log on disk, `applied` the state that was found there."""
        self._peer = peer
        self._known_round = head.round
        self._journal = vote is not None
        founds = head.entry is None and applied >= -1  # the founder has made the first parameters
        self.lost = peer in head.voters and not self._journal and not founds

    def on_record(self, before: Head, record: Record, applied: int) -> list[PersistVote]:
        """A record is about to join the log; what must be on disk before it does."""
        if self._peer not in record.next_voters:
            self.lost = False
            return []
        if self._peer in before.voters:
            return []
        # A new seat. Who was there when it was given knows the round before it; who reads of it while catching
        # up from nothing held it in a life that was forgotten.
        read_of = self._known_round < before.round or before.entry is None
        if not self._journal and applied < before.round and read_of:
            self.lost = True
            return []
        self._journal = True
        return [PersistVote(before.at, NO_BALLOT, None, None)]

    def voted(self) -> None:
        self._journal = True
