"""The parts of one decision, made together, and the two questions that all of them ask. SPEC A2, A3.

Owns nothing that moves but through its parts. Refuses to know messages.
"""

from collections.abc import Mapping

from intellectd.protocol import limits
from intellectd.protocol.acceptor import Acceptor
from intellectd.protocol.attempts import Attempts
from intellectd.protocol.context import Context, WrongSender, leader_of
from intellectd.protocol.effects import PersistVote
from intellectd.protocol.entries import GOSSIP, Collective, Record
from intellectd.protocol.exchange import Exchange
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, Ballot
from intellectd.protocol.membership import Membership
from intellectd.protocol.muster import Muster
from intellectd.protocol.quorum import is_quorum
from intellectd.protocol.readiness import choose_start
from intellectd.protocol.suspicion import Suspicion


class Decision:
    def __init__(
        self,
        context: Context,
        head: Head,
        members: Membership,
        now: float,
        vote: PersistVote | None,
        held: dict[bytes, bool],
    ) -> None:
        self.context, self.head, self.members, self.held = context, head, members, held
        self.timers = context.config.timers
        self.acceptor = Acceptor(context, head, vote)
        self.attempts = Attempts(context.peer, head, self.timers, self.acceptor.promised, now)
        self.suspicion = Suspicion(self.timers)
        self.muster = Muster(context, head, members, self.suspicion, now)
        self.exchange = Exchange(context, head)
        self._looked_at, self._alive = -1, list[str]()  # the voters, as of which turn
        self.diverged = False  # a quorum stands on another state than this host
        self.doubtful = False  # the voters stand on different states, none of them a quorum

    def holds_for(self, record: Record) -> bool:
        """Is on this host's disk what a vote for it asks for? Of a gossip round that is nothing: only its members'
        own anchors go by a group's result, and a majority of them has said to hold it (E4)."""
        return record.schedule == GOSSIP or record.update_root == NO_HASH or record.update_root in self.held

    def alive_voters(self, now: float) -> list[str]:
        """Those that can vote here: who follows another line of history does not, nor who has forgotten its votes."""
        alive, members = self.members.alive_beacons(now), self.members
        if self._looked_at != members.turns:  # asked several times an event
            self._looked_at, mine, me = members.turns, self.head.generation, self.context.peer
            found = [(v, alive.get(v)) for v in self.head.voters]
            self._alive = [
                v for v, b in found if v == me or (b is not None and b.generation == mine and b.lineage.votes)
            ]
        return self._alive

    def who_may_lead(self, now: float) -> list[str]:
        """Those of them whose turn is worth waiting for: one that says that it hears no quorum begins nothing (A11)."""
        alive, me = self.members.alive_beacons(now), self.context.peer
        return [v for v in self.alive_voters(now) if v == me or alive[v].lineage.quorum]

    def deaf(self, transfers: Mapping[bytes, Collective], told_at: float) -> list[str]:
        """Who lives, and does not hear who leads these transfers, of which it was first told then: of the members whose
        beacons come, long enough after that, those that have shown nothing of theirs (A10). Until then the plan was
        said three times (A12), and a beacon came with the result of it."""
        enough = told_at + max(self.timers.beacon_s, 2 * limits.REPEAT_FRACTION * self.timers.attempt_s)
        peers, moved = self.members.peers, self.exchange.shown
        return [
            m.peer
            for transfer, part in transfers.items()
            for m in part.members
            if (view := peers.get(m.peer)) and (view.heard_at or 0.0) >= enough and moved(m.peer) != transfer
        ]

    def may_start(self, now: float) -> tuple[bool, str]:
        """May an attempt begin now, and why (not)? Without a quorum in sight it would only burn ballots."""
        swarm = self.context.config.swarm
        may, reason = choose_start(self.muster.standing(now), swarm.start_peers, swarm.min_peers, now)
        here = self.alive_voters(now)
        if not is_quorum(self.head.voters, here):
            return False, f"only {len(here)} of {len(self.head.voters)} voters are here: no quorum"
        if self.acceptor.accepted is not None and self.members.has_listened(now):
            # Nothing else can be proposed: whoever is ready makes no difference. But who leads is heard first.
            return True, "this host has accepted a value that may be decided"
        return may, reason

    def rightful(self, sender: str, ballot: Ballot) -> None:
        """Raises WrongSender unless this attempt is the sender's to lead (A2)."""
        if sender != ballot.leader or leader_of(self.head.voters, self.head.hash, ballot.attempt) != sender:
            raise WrongSender(f"attempt {ballot.attempt} is not {sender}'s to lead")

    def answered(self, sender: str, ballot: Ballot) -> None:
        """Raises WrongSender unless a voter answers an attempt of this host's."""
        if sender not in self.head.voters:
            raise WrongSender(f"{sender} has no vote")
        if ballot.leader != self.context.peer:
            raise WrongSender(f"an answer to {ballot.leader}")
        self.rightful(ballot.leader, ballot)
