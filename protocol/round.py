"""One decision: which record follows the head. Routes its messages and news to the parts. SPEC A*.

    Round ──▶ Voting ──▶ Acceptor    what this host owes as a voter; what it promised and accepted
          ├─▶ Leading ─▶ Leader      the attempt it leads, if any; the answers to it
          ├─▶ Exchange               its part in the transfers
          ├─▶ Broken                 word of transfers that failed, whoever says so
          └─▶ Attempts, Muster, Suspicion    when to try, with whom, and without whom

One object a head; the next head gets a new one. Refuses to know how bytes move and how records are stored.
"""

from intellectd.protocol.broken import Broken
from intellectd.protocol.catchup import Wanted
from intellectd.protocol.context import Context, WrongSender
from intellectd.protocol.decision import Decision
from intellectd.protocol.effects import Note, Out, PersistVote
from intellectd.protocol.entries import BadRecord, Entry
from intellectd.protocol.head import Head
from intellectd.protocol.ids import Ballot
from intellectd.protocol.leading import Leading
from intellectd.protocol.membership import Membership
from intellectd.protocol.messages import Abort, Accept, Accepted, Plan, Prepare, Promise, Ready, Refuse, Result
from intellectd.protocol.moments import soonest
from intellectd.protocol.quorum import Reach, reach
from intellectd.protocol.readiness import Standing
from intellectd.protocol.voting import Voting

AboutRound = Prepare | Promise | Refuse | Plan | Result | Abort | Accept | Accepted


class Round:
    def __init__(
        self,
        context: Context,
        head: Head,
        membership: Membership,
        now: float,
        vote: PersistVote | None = None,
        held: dict[bytes, bool] | None = None,
    ) -> None:
        self.context, self.head = context, head
        self.parts = Decision(context, head, membership, now, vote, held if held is not None else {})
        self.leading, self.voting = Leading(self.parts), Voting(self.parts)
        self.broken = Broken(self.parts, self.leading, self.voting)
        self.finished = context.config.until.rounds is not None and head.round >= context.config.until.rounds
        self.reason = "starting"
        self._asked = False  # whether the reason is what `may_start` said
        self.paused = False  # a better line of history may be there (G8)
        self.decided: Entry | None = None
        self._may_since: float | None = None
        self._worked_at = float("-inf")  # when a transfer last moved

    # ---- what others see of it, and set

    @property
    def reducing(self) -> bytes | None:
        """The transfer under way here."""
        return self.parts.exchange.running

    @property
    def state_digest(self) -> bytes | None:
        """Of the state after the head, once that is applied here."""
        return self.parts.muster.state_digest

    @property
    def wanted(self) -> Wanted | None:
        """The update that a vote waits for."""
        return self.voting.wanted

    def standing(self, now: float) -> Standing:
        return self.parts.muster.standing(now)

    def told(self, now: float) -> str:
        """`reason` as it is now: whoever waits for the others waits less long than when it was last due to ask."""
        return self.parts.may_start(now)[1] if self._asked else self.reason

    def reach(self, now: float) -> Reach | None:
        """The voters of this decision that can vote, as this host hears them. None when that says nothing: the run is
        over, somebody's log is longer than ours (others may be voters by now), or they had no time to be heard."""
        members, abstains = self.parts.members, self.parts.acceptor.abstains
        behind = any(b.head_round > self.head.round for b in members.alive_beacons(now).values())
        if self.finished or behind:
            return None
        here = [voter for voter in self.parts.alive_voters(now) if voter != self.context.peer or not abstains]
        if members.sparse and self.context.peer not in self.head.voters:
            alive = members.alive_beacons(now)
            if any(alive[v].lineage.quorum for v in here):
                return Reach(tuple(self.head.voters), (), True)  # it hears few of them, and those hear the others
        found = reach(self.head.voters, here)
        return found if found.quorum or members.has_listened(now) else None

    def stuck_s(self, now: float) -> float:
        """For how long the round could have been decided, and nothing moved. Voters are heard, but do not vote."""
        return 0.0 if self._may_since is None else now - max(self._may_since, self._worked_at)

    def tell(self, own_ready: Ready | None, able: bool, leaving: bool, abstains: bool) -> None:
        """What the node knows of this host."""
        muster = self.parts.muster
        muster.own_ready, muster.able, muster.leaving = own_ready, able, leaving
        self.parts.acceptor.abstains = abstains

    def take_divergence(self) -> bool:
        """Has it shown that this host stands on another state than the agreed one? Asked once."""
        diverged, self.parts.diverged = self.parts.diverged, False
        if diverged:
            self.parts.muster.state_digest = None
        return diverged

    def take_doubt(self) -> bool:
        """Has it shown that the voters differ, and that this host may be the one that is wrong? Asked once."""
        doubtful, self.parts.doubtful = self.parts.doubtful, False
        return doubtful

    def forget_state(self) -> None:
        """It is being worked out anew, and nothing is led on it."""
        self.parts.muster.state_digest = self.leading.attempt = None
        self.leading.doubted = True

    # ---- time

    def evaluate(self, now: float) -> list[Out]:
        """Everything that time or news may have made due."""
        parts = self.parts
        self._asked = False
        if self.decided is not None or self.finished:
            self.reason = "the run is finished" if self.finished else "decided"
            return []
        out = self.leading.evaluate(now)
        if not parts.acceptor.votes or self.state_digest is None:
            self.reason = self._why_no_voter()
            return out
        may, self.reason = parts.may_start(now)
        self._asked = not self.paused
        self._may_since = None if not may else now if self._may_since is None else self._may_since
        parts.attempts.startable(may, now)
        if self.paused:
            may, self.reason = False, "another history with more in it is being looked at"
        if out or not may or self.leading.attempt is not None or parts.diverged:
            return out
        lead = dict.fromkeys(parts.who_may_lead(now))
        if parts.attempts.my_turn(parts.acceptor.promised, lead.__contains__, now):
            return self.leading.begin(self.reason, now)
        return []

    def deadline(self, now: float) -> float:
        """When `evaluate` has something to do again without news."""
        if self.decided is not None or self.finished:
            return float("inf")
        parts = self.parts
        ends = [parts.muster.deadline(now), parts.attempts.deadline(now)]
        ends += [parts.suspicion.deadline(now), self.leading.deadline(now), parts.members.listened_at]
        return soonest(ends, now)

    def _why_no_voter(self) -> str:
        if self.state_digest is None:
            return "catching up"
        if self.parts.acceptor.abstains:
            return "this host's votes are lost; it votes again when the others have named it anew"
        return "without a vote yet: the first contribution brings one"

    # ---- messages; the caller has checked that they are about this decision

    def take(self, sender: str, message: AboutRound, now: float) -> list[Out]:  # noqa: PLR0911 - one line a message
        """Raises WrongSender or BadRecord: the sender's fault."""
        match message:
            case Prepare():
                return self.on_prepare(sender, message, now)
            case Promise():
                return self.on_promise(sender, message, now)
            case Refuse():
                return self.leading.on_refuse(sender, message, now)
            case Plan():
                return self.on_plan(sender, message, now)
            case Result():
                return self.leading.on_result(sender, message, now)
            case Abort():
                return self.broken.on_abort(sender, message, now)
            case Accept():
                return self.on_accept(sender, message, now)
            case Accepted():
                return self.on_accepted(sender, message, now)

    def on_prepare(self, sender: str, message: Prepare, now: float) -> list[Out]:
        self.parts.rightful(sender, message.ballot)
        if self.parts.attempts.far_fetched(message.ballot, now):
            return [self._not_heeded(sender, message.ballot)]
        if not self.parts.acceptor.votes or self.finished:
            return []
        out = self.voting.on_prepare(sender, message, now)
        if self.parts.acceptor.promised == message.ballot:
            self._follow(message.ballot, 0, now)
        return out

    def on_promise(self, sender: str, message: Promise, now: float) -> list[Out]:
        self.parts.answered(sender, message.ballot)
        before = message.accepted_ballot
        if before is not None:
            self.parts.rightful(before.leader, before)
            if before > message.ballot:
                raise WrongSender(f"accepted in attempt {before.attempt}, and promises {message.ballot.attempt}")
        self.leading.on_promise(sender, message, now)
        return []

    def on_plan(self, sender: str, message: Plan, now: float) -> list[Out]:
        self.parts.rightful(sender, message.ballot)
        self.parts.exchange.check(message)
        if self.parts.attempts.far_fetched(message.ballot, now):
            return [self._not_heeded(sender, message.ballot)]
        stale = self.parts.acceptor.refuse_stale(message.ballot)
        if stale or self.context.peer not in [m.peer for m in message.members]:
            return stale
        self._follow(message.ballot, 1, now)
        return self.parts.exchange.follow(message, self.parts.muster.own_ready, now)

    def on_accept(self, sender: str, message: Accept, now: float) -> list[Out]:
        self.parts.rightful(sender, message.ballot)
        if self.parts.attempts.far_fetched(message.ballot, now):
            return [self._not_heeded(sender, message.ballot)]
        if not self.parts.acceptor.votes or self.decided is not None or self.finished:
            return []
        refused = self.voting.on_accept(message)
        if refused:
            return refused
        self._follow(message.ballot, 2, now)
        return self.voting.vote(now)

    def on_accepted(self, sender: str, message: Accepted, now: float) -> list[Out]:
        self.parts.answered(sender, message.ballot)
        entry = self.leading.on_accepted(sender, message, now)
        if entry is None or self.decided is not None:
            return []
        self.decided = entry
        return self.leading.took()

    # ---- news from this host

    def on_applied(self, digest: bytes, now: float) -> list[Out]:
        """The state stands at the head, with this digest."""
        self.parts.muster.state_digest = digest
        owed = self.voting.owed_prepare()
        out = self.on_prepare(owed.ballot.leader, owed, now) if owed else []
        return out + self.voting.vote(now)

    def on_transfer_moved(self, transfer: bytes, now: float) -> None:
        if transfer == self.reducing:
            self._moved(now)

    def on_peer_moved(self, peer: str, transfer: bytes, done_bytes: int, now: float) -> None:
        if self.parts.exchange.peer_moved(peer, transfer, done_bytes, self.leading.collective):
            self._worked_at = now
            self.parts.attempts.heard(now)

    def on_transfer_ended(self, transfer: bytes, root: bytes, update_bytes: int, now: float) -> list[Out]:
        out = self.parts.exchange.ended(transfer, root, update_bytes)
        if out:
            self._moved(now)
        return [*out, *self.voting.vote(now)]

    def on_transfer_broke(
        self, transfer: bytes, suspect: str | None, silent: bool, reason: str, now: float
    ) -> list[Out]:
        return self.broken.here(transfer, suspect, silent, reason, now)

    def on_update_held(self, now: float) -> list[Out]:
        return self.voting.vote(now)

    # ---- inside

    def _moved(self, now: float) -> None:
        self._worked_at = now
        self.parts.attempts.moved(now)

    def _not_heeded(self, sender: str, ballot: Ballot) -> Note:
        text = f"attempt {ballot.attempt} of {sender} is not heeded: it is {self.parts.attempts.number} here"
        return Note("attempt_far_fetched", text, "debug")

    def _follow(self, ballot: Ballot, phase: int, now: float) -> None:
        """A ballot at least as high as ours is under way."""
        self.parts.attempts.follow(ballot, phase, now)
        self.leading.follow(ballot)


__all__ = ["BadRecord", "Round", "WrongSender"]
