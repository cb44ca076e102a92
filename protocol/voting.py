"""The answers that this host owes as a voter, and what they still wait for. SPEC A4-A8.

Owns prepares and accepts that cannot be answered yet: the state does not stand at the head, or the update's bytes
are not held. The acceptor owns what was promised. Refuses to know how bytes are fetched.
"""

from intellectd.protocol.catchup import Wanted
from intellectd.protocol.decision import Decision
from intellectd.protocol.effects import Out
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Accept, Prepare
from intellectd.protocol.quorum import is_quorum
from intellectd.protocol.records import BadRecord


class Voting:
    def __init__(self, decision: Decision) -> None:
        self._decision = decision
        self._prepare: Prepare | None = None
        self._accept: Accept | None = None

    def on_prepare(self, sender: str, message: Prepare, now: float) -> list[Out]:
        """Answer, or keep it until the state stands at the head."""
        decision = self._decision
        digest = decision.muster.state_digest
        self._prepare = message if digest is None else None
        if digest is None:
            return []
        acceptor, me = decision.acceptor, decision.context.peer
        silent = [voter for voter in decision.head.voters if decision.members.silent(voter, now)]
        # To our own attempt we are not too busy: that was asked before it began.
        busy = None if sender == me else decision.attempts.busy(acceptor.promised, now)
        return acceptor.promise(message, digest, decision.exchange.completed(), silent, busy)

    def on_accept(self, message: Accept) -> list[Out]:
        """Refuse it, or owe it a vote. Raises BadRecord."""
        acceptor, owed = self._decision.acceptor, self._accept
        stale = acceptor.refuse_stale(message.ballot)
        if stale:
            return stale
        acceptor.check(message)
        if owed is not None and owed.ballot == message.ballot and owed.proposal != message.proposal:
            raise BadRecord(f"two values in ballot {message.ballot.attempt}.{message.ballot.leader}")
        self._accept = message
        return []

    def owed_prepare(self) -> Prepare | None:
        return self._prepare

    def vote(self, now: float) -> list[Out]:
        """Vote for the proposal at hand, once its bytes are held and our own state is the agreed one (A7)."""
        accept, decision = self._accept, self._decision
        digest = decision.muster.state_digest
        if accept is None or digest is None:
            return []
        record = accept.proposal.record
        if record.state_digest != digest:
            decision.diverged = decision.diverged or self._is_denied(accept)
            return []
        if not decision.holds_for(record):
            return []  # our own transfer brings the bytes, or the node fetches what is `wanted`
        self._accept = None
        decision.attempts.moved(now)
        return decision.acceptor.accept(accept)

    def _is_denied(self, accept: Accept) -> bool:
        """Does a quorum stand on this proposal's state instead of ours, as its leader and beacons say? One alone, whose
        word costs nothing, makes nobody drop a state; the next record will say so if it is right (K6)."""
        decision, digest = self._decision, accept.proposal.record.state_digest
        beacons = {v: decision.members.beacon(v) for v in decision.head.voters}
        ready = {v: b.ready for v, b in beacons.items() if b is not None and b.ready is not None}
        there = [v for v, r in ready.items() if r.at == decision.head.at and r.state_digest == digest]
        return is_quorum(decision.head.voters, dict.fromkeys([accept.ballot.leader, *there]))

    @property
    def wanted(self) -> Wanted | None:
        """The update that a vote waits for and that no transfer of ours will bring. Its signers have it, and so may
        everybody who has voted since, should the signers be gone."""
        accept, decision = self._accept, self._decision
        if accept is None or decision.holds_for(accept.proposal.record):
            return None
        record, members = accept.proposal.record, accept.proposal.blob.contributions
        if record.transfer == decision.exchange.running:
            return None
        signers = [vote.voter for vote in accept.proposal.results]
        others = [*(c.peer for c in members), accept.ballot.leader, *decision.head.voters]
        return Wanted(record.update_root, record.update_bytes, signers, others)

    def is_voting_on(self, ballot: Ballot) -> bool:
        """This ballot's transfer has its result: a value of it was accepted here, or waits to be."""
        owes = self._accept is not None and self._accept.ballot == ballot
        return owes or self._decision.acceptor.accepted_ballot == ballot
