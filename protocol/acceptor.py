"""A voter's memory of one decision: what it promised and accepted, durable before it is said. SPEC A4-A8.

Owns safety, and nothing else: whether a round makes progress is not decided here.
"""

from intellectd.protocol.context import Context
from intellectd.protocol.effects import Out, PersistVote, To
from intellectd.protocol.head import Head
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Accept, Accepted, Prepare, Promise, Refuse
from intellectd.protocol.records import (
    BadRecord,
    Collective,
    Proposal,
    accepted_bytes,
    check_proposal,
    check_results,
    record_hash,
)
from intellectd.protocol.seat import NO_BALLOT


class Acceptor:
    def __init__(self, context: Context, head: Head, vote: PersistVote | None) -> None:
        self._context, self._head = context, head
        self.abstains = False  # the journal of this host's votes is lost: it gives its seat up (A13)
        # It has voted further along this very line: what it said between is no longer in the journal (G9).
        self.behind = vote is not None and vote.at.generation == head.generation and vote.at.round > head.at.round
        if vote is not None and (vote.at != head.at or vote.promised == NO_BALLOT):
            vote = None  # a vote on another decision says nothing about this one, and a mark says nothing at all
        self.promised: Ballot | None = vote.promised if vote else None
        self.accepted_ballot: Ballot | None = vote.accepted_ballot if vote else None
        self.accepted: Proposal | None = vote.accepted if vote else None

    @property
    def votes(self) -> bool:
        return self._context.peer in self._head.voters and not self.abstains and not self.behind

    @property
    def voted(self) -> bool:
        """May this decision, or a later one, have been decided by a vote of this host's?"""
        return self.accepted is not None or self.behind

    def promise(
        self, prepare: Prepare, state_digest: bytes, completed: Collective | None, silent: list[str], busy: str | None
    ) -> list[Out]:
        """Answer a Prepare from the rightful leader of its ballot."""
        ballot = prepare.ballot
        if self.promised is not None and ballot < self.promised:
            return [self._refuse(ballot, "a higher ballot was promised")]
        if busy and ballot != self.promised:
            return [self._refuse(ballot, busy)]
        out: list[Out] = []
        if ballot != self.promised:
            self.promised = ballot
            out.append(self._persist())
        # A value that was accepted goes before every result: both lists together could be too long for a message.
        done = completed if self.accepted is None else None
        answer = Promise(self._head.at, ballot, state_digest, self.accepted_ballot, self.accepted, done, silent)
        return [*out, To(ballot.leader, answer)]

    def refuse_stale(self, ballot: Ballot) -> list[Out]:
        """The Refuse for a ballot below the promised one; nothing when the ballot is good."""
        if self.promised is not None and ballot < self.promised:
            return [self._refuse(ballot, "a higher ballot was promised")]
        return []

    def check_single(self, accept: Accept) -> None:
        """A ballot has one value: a leader that sends another has lost its memory or lies. Raises BadRecord."""
        if accept.ballot == self.accepted_ballot and accept.proposal != self.accepted:
            raise BadRecord(f"two values in ballot {accept.ballot.attempt}.{accept.ballot.leader}")

    def check(self, accept: Accept) -> None:
        """Raises BadRecord when the proposal may not be accepted by anybody."""
        self.check_single(accept)
        check_proposal(self._head, accept.proposal.record, accept.proposal.blob)
        check_results(self._head, accept.proposal, self._context.crypto)

    def accept(self, accept: Accept) -> list[Out]:
        """Vote. The caller has checked the proposal and holds the bytes of its update. Raises BadRecord."""
        stale = self.refuse_stale(accept.ballot)
        if stale:
            return stale
        self.check_single(accept)
        out: list[Out] = []
        if accept.ballot != self.accepted_ballot:
            self.promised = accept.ballot
            self.accepted_ballot, self.accepted = accept.ballot, accept.proposal
            out.append(self._persist())
        record = record_hash(accept.proposal.record)
        signature = self._context.crypto.sign(accepted_bytes(self._head.run, self._head.at, accept.ballot, record))
        return [*out, To(accept.ballot.leader, Accepted(self._head.at, accept.ballot, record, signature))]

    def _persist(self) -> PersistVote:
        assert self.promised is not None
        return PersistVote(self._head.at, self.promised, self.accepted_ballot, self.accepted)

    def _refuse(self, ballot: Ballot, reason: str) -> To:
        assert self.promised is not None
        return To(ballot.leader, Refuse(self._head.at, ballot, self.promised, reason))
