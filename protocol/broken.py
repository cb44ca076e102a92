"""Word of transfers that failed: what stops, which attempt it ends, and who is accused. SPEC A10, E4.

Owns what was said of the transfers of one decision, and by whom. Refuses to know how long a suspect is left out
(suspicion.py), and how bytes move.
"""

from typing import Literal

from intellectd.protocol import limits
from intellectd.protocol.collectives import DIRECT, neighbours
from intellectd.protocol.context import WrongSender
from intellectd.protocol.decision import Decision
from intellectd.protocol.effects import Note, Out, To
from intellectd.protocol.ids import Ballot
from intellectd.protocol.leading import Leading
from intellectd.protocol.messages import Abort
from intellectd.protocol.seat import NO_BALLOT
from intellectd.protocol.voting import Voting


class Broken:
    def __init__(self, parts: Decision, leading: Leading, voting: Voting) -> None:
        self._parts, self._leading, self._voting = parts, leading, voting
        self._head, self._me = parts.head, parts.context.peer
        self._ballots: dict[Ballot, None] = {}  # whose transfers were aborted last
        self._groups: dict[tuple[str, ...], None] = {}  # likewise, of a round in groups, by their members
        self._groups_of: Ballot | None = None  # the plan of those
        self._accused: dict[str, Ballot] = {}  # by suspect: under which it was accused last
        self._spoke: dict[str, Ballot] = {}  # by accuser: likewise

    def on_abort(self, sender: str, message: Abort, now: float) -> list[Out]:
        """Somebody's transfer failed: stop ours, leave the suspect out, and let the next leader try (A10)."""
        members = self._members(message.ballot)
        self._parts.rightful(message.ballot.leader, message.ballot)
        if sender not in members and self._head.assignment(sender) is None:
            raise WrongSender(f"{sender} is no member of that transfer")
        if self._past_transfer(message.ballot) or sender not in members:
            # A majority has the result, which who lost it fetches; or it is of an attempt unknown here, or of another
            # plan than its leader told this host.
            return []
        return self._take(sender, message.suspect if message.suspect in members else None, message, now)

    def here(self, transfer: bytes, suspect: str | None, silent: bool, reason: str, now: float) -> list[Out]:
        """Our own part of it failed."""
        exchange = self._parts.exchange
        plan = exchange.plan
        if plan is None or transfer != exchange.running:
            return []
        exchange.leave()
        if self._past_transfer(plan.ballot):  # the others finished it: no reason to abort, the bytes can be fetched
            text = f"the transfer broke here: {reason}; the others have the result: it is fetched"
            return [Note("collective_broke", text)]
        message = Abort(self._head.at, plan.ballot, suspect, silent, reason[: limits.TEXT_CHARS_MAX // 2])
        # Of many members the others hear it by the next plan: a thousand need not tell a thousand.
        members = exchange.part_of(plan.ballot, self._me)
        near = members if len(members) <= limits.ROSTER_DENSE_MAX else []
        told = dict.fromkeys([*near, *self._head.voters, plan.ballot.leader])
        out: list[Out] = [To(peer, message) for peer in told if peer != self._me]
        return [*out, *self._take(self._me, suspect, message, now)]

    # ---- inside

    def _take(self, accuser: str, suspect: str | None, message: Abort, now: float) -> list[Out]:
        if self._head.groups:
            return self._group_broke(accuser, suspect, message, now)
        parts, ballot = self._parts, message.ballot
        # Each member tells of the same one: it failed once, and who says so after others is not what failures share.
        again = ballot in self._ballots
        self._ballots[ballot] = None
        while len(self._ballots) > len(self._head.voters):  # of older ones nothing is heard
            del self._ballots[min(self._ballots)]
        saw = suspect is not None and self._saw(ballot, accuser, suspect)
        if suspect is not None and saw:
            parts.suspicion.part(accuser, suspect)
        seen = suspect if saw or not message.silent else None
        plan, where = parts.exchange.plan, "here" if accuser == self._me else f"for {accuser}"
        of = f"attempt {ballot.attempt} in round {self._head.round + 1}"
        text = f"the transfer of {of} broke {where}: {message.reason}"
        if ballot < self._newest():  # word of an attempt that a later one has ended already
            self._accuse(accuser, again, seen, message, now)
            stopped = parts.exchange.stop() if plan is not None and plan.ballot == ballot else []
            return [Note("transfer_aborted", text, "debug"), *stopped]
        deaf = [] if again else self._deaf(ballot)
        self._leading.aborted(ballot)
        parts.attempts.failed(ballot.attempt, now, again)
        parts.suspicion.leave_out(deaf, parts.attempts.resumes_at(now))
        self._accuse(accuser, again, seen, message, now)
        return [Note("transfer_aborted", text, "debug" if again else "warning"), *parts.exchange.stop()]

    def _group_broke(self, accuser: str, suspect: str | None, message: Abort, now: float) -> list[Out]:
        """The ring of one group failed: its members stop theirs, and the attempt goes on with the others (E4)."""
        parts, ballot = self._parts, message.ballot
        saw = suspect is not None and self._saw(ballot, accuser, suspect)
        if suspect is not None and saw:
            parts.suspicion.part(accuser, suspect)
        group = tuple(parts.exchange.part_of(ballot, accuser))
        if group and ballot != self._groups_of:  # of the plan before nothing is found any more
            self._groups, self._groups_of = {}, ballot
        again = not group or group in self._groups
        self._groups |= {group: None} if group else {}
        self._accuse(accuser, again, suspect if saw or not message.silent else None, message, now)
        deaf = [] if again else [peer for peer in self._deaf(ballot) if peer in group]
        parts.suspicion.leave_out(deaf, parts.attempts.resumes_at(now))
        self._leading.broke(ballot, accuser)
        plan, where = parts.exchange.plan, "here" if accuser == self._me else f"for {accuser}"
        mine = plan is not None and plan.ballot == ballot and self._me in group
        of = f"attempt {ballot.attempt} in round {self._head.round + 1}"
        text = f"a group's ring of {of} broke {where}: {message.reason}"
        level: Literal["debug", "warning"] = "warning" if mine and not again else "debug"
        return [Note("transfer_aborted", text, level), *(parts.exchange.stop() if mine else [])]

    def _accuse(self, accuser: str, again: bool, suspect: str | None, message: Abort, now: float) -> None:
        """Whoever is left out misses the next attempt, however long the pause before it. Words may come twice and late:
        of each accuser one counts a ballot, and none that it said before one that counted."""
        spoke, parts = self._spoke.get(accuser), self._parts
        if suspect == self._me or (spoke is not None and message.ballot <= spoke):
            return
        self._spoke[accuser] = message.ballot
        stale, at = suspect is not None and parts.members.overdue(suspect, now), parts.attempts.resumes_at(now)
        parts.suspicion.accuse(None if again else accuser, suspect, message.silent, stale, at)

    def _deaf(self, ballot: Ballot) -> list[str]:
        """Who did not hear of the transfer that broke, as far as this host can tell: it led it, or was told of it."""
        parts, led = self._parts, self._leading.attempt
        if led is not None and led.ballot == ballot:
            return self._leading.deaf(ballot)
        plan = parts.exchange.followed
        if plan is None or plan.ballot != ballot:
            return []
        return parts.deaf(dict(parts.exchange.named(plan.collective)), parts.exchange.told_at)

    def _saw(self, ballot: Ballot, accuser: str, suspect: str) -> bool:
        """Is it no hearsay, as far as it is known here? Who gives up tells its neighbours whom it suspects, and they
        pass that on: of a ring only neighbours can know, of a direct exchange whoever is the first to say so."""
        first = self._accused.get(suspect) != ballot
        self._accused[suspect] = ballot
        plan = self._parts.exchange.followed
        if plan is None or plan.ballot != ballot:
            return accuser != suspect
        if plan.collective.schedule == DIRECT:
            return first
        return any(pair in ((accuser, suspect), (suspect, accuser)) for pair in neighbours(plan.collective))

    def _newest(self) -> Ballot:
        """Of the attempts that this host takes part in."""
        parts, led = self._parts, self._leading.attempt
        found = [parts.acceptor.promised, parts.exchange.newest, led.ballot if led else None]
        return max((ballot for ballot in found if ballot is not None), default=NO_BALLOT)

    def _members(self, ballot: Ballot) -> list[str]:
        """Who takes part in this ballot's transfer, as far as it is known here, given up or not."""
        plan = self._parts.exchange.followed
        if plan is not None and plan.ballot == ballot:
            return [m.peer for m in plan.members]
        if found := self._leading.members(ballot):
            return [m.peer for m in found]
        promised = self._parts.acceptor.promised
        if promised is None or not 0 <= promised.attempt - ballot.attempt < len(self._head.voters):
            return []
        # A voter that is no member knows no plan. And a member may see its transfer stall when the leader has given it
        # up a moment ago: unheard, that suspect would be in each attempt until its leader's next turn.
        return [a.peer for a in self._head.blob.assignments]

    def _past_transfer(self, ballot: Ballot) -> bool:
        """This ballot's transfer has its result: it is being voted on."""
        return self._leading.is_voting_on(ballot) or self._voting.is_voting_on(ballot)
