"""One attempt, led by this host: prepare, plan, collect, accept, certify. SPEC A2-A9.

Owns the attempt's answers and its phases. Refuses to know when to begin or give up (attempts.py), and what
other attempts do.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence

from intellectd.protocol import limits
from intellectd.protocol.collectives import allowed, misfit, parts, together
from intellectd.protocol.context import Context, WrongSender
from intellectd.protocol.effects import Out, To
from intellectd.protocol.entries import (
    BadRecord,
    Certificate,
    Collective,
    Contribution,
    Entry,
    Member,
    Proposal,
    Vote,
    groups_root,
    record_hash,
)
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, Ballot
from intellectd.protocol.messages import Accept, Accepted, Plan, Prepare, Promise, Ready, Refuse, Result
from intellectd.protocol.moments import soonest
from intellectd.protocol.proposal import NOTHING, Outcome, build_record, contributions, next_blob, next_voters
from intellectd.protocol.quorum import is_majority, is_quorum
from intellectd.protocol.readiness import grace_s
from intellectd.protocol.records import accepted_bytes, check_proposal, check_results, result_bytes, transfer_id
from intellectd.protocol.warmup import weighed

PREPARE, REDUCE, ACCEPT, DONE = "prepare", "reduce", "accept", "done"


class Leader:
    def __init__(self, context: Context, head: Head, ballot: Ballot, now: float, began_at: float | None = None) -> None:
        """`began_at`: when the round did, if not now."""
        self._context, self._head, self.ballot = context, head, ballot
        self.phase = PREPARE
        self.promises: dict[str, Promise] = {}
        self.refused: dict[str, Ballot] = {}
        self.quorum_at: float | None = None
        self.collective: Collective | None = None
        self.transfers: dict[bytes, Collective] = {}  # one, or one a group
        self._done: dict[bytes, bytes] = {}  # roots of those that a majority of their members has
        self._broken: dict[bytes, None] = {}  # those that are not waited for
        self._half_done_at: float | None = None
        self._began_at = now if began_at is None else began_at
        self._ready: dict[str, Ready] = {}
        self._results: dict[str, Result] = {}
        self.proposal: Proposal | None = None
        self._votes: dict[str, Vote] = {}
        self.state_digest = NO_HASH
        self.told_of_states = False  # that no quorum agrees on one
        self.all_differ = False  # all voters answered, and none does
        self.doubted = False  # whether this host's state may be the wrong one was asked
        self._said_at = now
        self.planned_at = now  # when the members were first told
        self._repeated = 0  # plans said again
        self.predicted_s: float | None = None  # for the transfer, if links are known
        self.result_at: float | None = None  # when a majority had it

    # ---- phase 1

    def begin(self) -> list[Out]:
        """Ourselves first: our own promise is on disk before anybody hears of the ballot."""
        voters = [self._context.peer, *(v for v in self._head.voters if v != self._context.peer)]
        message = Prepare(self._head.at, self.ballot)
        return [To(voter, message) for voter in voters]

    def on_promise(self, sender: str, promise: Promise, now: float) -> None:
        """Raises BadRecord when what it reports could never have been accepted."""
        if self.phase != PREPARE or promise.ballot != self.ballot or sender not in self._head.voters:
            return
        if (promise.accepted is None) != (promise.accepted_ballot is None):
            raise BadRecord("a promise with half of an accepted value")
        if promise.accepted is not None:
            check_proposal(self._head, promise.accepted.record, promise.accepted.blob)
            check_results(self._head, promise.accepted, self._context.crypto)
        self.promises[sender] = promise
        if self.quorum_at is None and is_quorum(self._head.voters, self.promises):
            self.quorum_at = now

    def on_refuse(self, sender: str, refuse: Refuse) -> bool:
        """True when so many refused, having promised more, that no quorum is left for this ballot."""
        if refuse.ballot == self.ballot and sender in self._head.voters and refuse.promised > self.ballot:
            self.refused[sender] = refuse.promised
        return not is_quorum(self._head.voters, [v for v in self._head.voters if v not in self.refused])

    def promised_enough(self, alive_voters: Sequence[str], now: float) -> bool:
        """A quorum promised, this host with it, and every living voter answered or had its moment to. Without its own
        promise, which is on disk, a later life of this host might lead this very ballot to another value."""
        if self.phase != PREPARE or self.quorum_at is None or self._context.peer not in self.promises:
            return False
        all_answered = all(voter in self.promises or voter in self.refused for voter in alive_voters)
        return all_answered or now >= self.quorum_at + limits.PROMISE_GRACE_S

    @property
    def states(self) -> Counter[bytes]:
        """How many voters have promised on each state, by its digest."""
        return Counter(promise.state_digest for promise in self.promises.values())

    def agreed_digest(self) -> bytes | None:
        """The state digest that a quorum of the voters reports; None while there is none (SPEC A4)."""
        for digest, _ in self.states.most_common():
            if is_quorum(self._head.voters, [v for v, p in self.promises.items() if p.state_digest == digest]):
                return digest
        return None

    def locked(self) -> Proposal | None:
        """The value accepted under the highest ballot that any promise reports: it must be proposed again."""
        found = [p for p in self.promises.values() if p.accepted is not None and p.accepted_ballot is not None]
        if not found:
            return None
        return max(found, key=lambda p: p.accepted_ballot or self.ballot).accepted

    def nothing_decided(self) -> bool:
        """Have so many promised that accepted nothing that the others are no quorum? Then no value has one, nor will
        any get one below this ballot, whatever the others accepted."""
        none = dict.fromkeys(voter for voter, promise in self.promises.items() if promise.accepted is None)
        return not is_quorum(self._head.voters, [v for v in self._head.voters if v not in none])

    def completed(
        self, known: dict[str, Ready], here: Sequence[str], parted: Callable[[Collective], bool]
    ) -> Collective | None:
        """The largest transfer whose result already lies on disks, if naming its members again can work: they are
        `known` to stand as they did then, and either all are `here` and no neighbours `parted`, or a majority of them
        holds the result."""
        best: Collective | None = None
        there = dict.fromkeys(here)
        for promise in self.promises.values():
            done = promise.completed
            if done is None or misfit(done, allowed(self._head.config.outer)):
                continue
            peers = [m.peer for m in done.members]
            stand = [Member(p, known[p].tokens, known[p].delta_root) for p in peers if p in known]
            same = done.members == weighed(stand, self._head.warming)
            holders = [v for v, p in self.promises.items() if p.completed == done]
            reached = is_majority(peers, holders) or (all(peer in there for peer in peers) and not parted(done))
            unique = len(dict.fromkeys(peers)) == len(peers)
            if same and reached and unique and (best is None or len(done.members) > len(best.members)):
                best = done
        return best

    # ---- the transfer

    @property
    def members(self) -> list[Member]:
        return self.collective.members if self.collective else []

    def plan(self, collective: Collective, ready: dict[str, Ready], predicted_s: float | None, now: float) -> Plan:
        """What to tell the members."""
        self.predicted_s = predicted_s
        self.phase, self.collective, self._ready = REDUCE, collective, dict(ready)
        self.planned_at = self._said_at = now
        self.transfers = {transfer_id(self._head.at, p, self._head.codec): p for p in parts(collective)}
        return self._plan(collective)

    def on_result(self, sender: str, result: Result, now: float) -> tuple[bool, Outcome | None]:
        """Count a member's result: (is it news, the outcome when a majority holds the same bytes)."""
        part = self.transfers.get(result.transfer)
        if self.phase != REDUCE or part is None:
            return False, None
        peers = [m.peer for m in part.members]
        if sender not in peers:
            raise WrongSender(f"{sender} is no member of that transfer")
        message = result_bytes(self._head.run, self._head.at, result.transfer, result.root)
        if not self._context.crypto.verify(sender, message, result.signature):
            raise BadRecord("the result's signature is false")
        if result.update_bytes != self._head.update_bytes or result.root == NO_HASH:
            raise BadRecord(f"a result of {result.update_bytes} bytes, an update has {self._head.update_bytes}")
        if self._done.get(result.transfer, result.root) != result.root:
            return False, None  # what a majority has signed stands, whatever one of them signs after it
        news = sender not in self._results
        self._results[sender] = result
        same = [p for p, r in self._results.items() if r.root == result.root and r.transfer == result.transfer]
        if not is_majority(peers, same):
            return news, None
        if self._head.groups:
            self._done[result.transfer] = result.root
            if 2 * len(self._done) > len(self.transfers) and self._half_done_at is None:
                self._half_done_at = now
            return news, self.settled(now)
        return news, Outcome(self.collective, result.root, result.update_bytes)

    def has_result(self, peer: str) -> bool:
        return peer in self._results

    # ---- a round in groups (E4)

    def broke(self, transfer: bytes) -> None:
        """This group's ring failed: it is not waited for."""
        self._broken[transfer] = None

    def settled(self, now: float) -> Outcome | None:
        """What the groups came to that are done, if no other is worth waiting for."""
        left = [t for t in self.transfers if t not in self._done and t not in self._broken]
        if self.phase != REDUCE or not self._done or (left and now < self._groups_end_at()):
            return None
        done = [t for t in self.transfers if t in self._done]
        roots = tuple(self._done[t] for t in done)
        whole = together([self.transfers[t] for t in done])
        return Outcome(whole, groups_root(roots), self._head.update_bytes, roots)

    @property
    def failed(self) -> bool:
        """Every group broke."""
        return self.phase == REDUCE and not self._done and len(self._broken) == len(self.transfers) > 0

    def _groups_end_at(self) -> float:
        """More than half of the groups are done: the others get what peers get that are late to be ready (A3)."""
        if self._half_done_at is None:
            return float("inf")
        return self._half_done_at + grace_s(self._context.config.timers, self._half_done_at - self._began_at)

    # ---- phase 2

    def propose(self, outcome: Outcome, able: Sequence[str], gone: list[str], here: Sequence[str]) -> list[Out]:
        """`here`: who is alive now and can vote next. A promise may be as old as the transfer took."""
        contributed = contributions(outcome, self._ready)
        blob = next_blob(self._head, contributed, able, gone)
        voters = self._seated(contributed, able, gone, here)
        record = build_record(self._head, outcome, blob, voters, self.state_digest)
        roots = outcome.roots or (outcome.root,)
        votes = [Vote(peer, r.signature) for peer, r in sorted(self._results.items()) if r.root in roots]
        return self.propose_again(Proposal(record, blob, votes if outcome.members else []))

    def _seated(
        self, contributed: list[Contribution], able: Sequence[str], gone: list[str], here: Sequence[str]
    ) -> list[str]:
        """Who votes next. Who leaves and can vote does so until the others are a quorum without it: else its last vote
        could leave the run to one who is not there, for good."""
        there = dict.fromkeys([*here, *(able if self._head.round == -1 else [])])
        voters = next_voters(self._head, contributed, gone, able)
        if is_quorum(voters, there):
            return voters
        return next_voters(self._head, contributed, [p for p in gone if p not in self.promises], able)

    def propose_roster(self, able: Sequence[str], gone: list[str], here: Sequence[str]) -> list[Out]:
        """A record without an update: the opening, or a roster whose members are all gone."""
        return self.propose(NOTHING, able, gone, here)

    def propose_again(self, proposal: Proposal) -> list[Out]:
        self.phase, self.proposal = ACCEPT, proposal
        message = Accept(self._head.at, self.ballot, proposal)
        return [To(voter, message) for voter in self._head.voters]

    def on_accepted(self, sender: str, accepted: Accepted) -> tuple[bool, Entry | None]:
        """Count a vote: (is it news, the decided entry when a quorum has voted)."""
        if self.phase != ACCEPT or self.proposal is None or accepted.ballot != self.ballot:
            return False, None
        record = record_hash(self.proposal.record)
        message = accepted_bytes(self._head.run, self._head.at, self.ballot, record)
        if sender not in self._head.voters:
            return False, None
        if accepted.record != record or not self._context.crypto.verify(sender, message, accepted.signature):
            raise BadRecord("a vote for another record, or with a false signature")
        news = sender not in self._votes
        self._votes[sender] = Vote(sender, accepted.signature)
        if not is_quorum(self._head.voters, self._votes):
            return news, None
        self.phase = DONE
        votes = [vote for _, vote in sorted(self._votes.items())]
        return True, Entry(self.proposal.record, self.proposal.blob, Certificate(self.ballot, votes))

    def gone(self, leaving: Sequence[str]) -> list[str]:
        """Whoever leaves, and voters whose silence a quorum of the voters confirms (SPEC R10)."""
        out = list(leaving)
        for voter in self._head.voters:
            witnesses = [v for v, p in self.promises.items() if voter in p.silent]
            if voter not in self.promises and voter not in out and is_quorum(self._head.voters, witnesses):
                out.append(voter)
        return out

    # ---- what may have been lost on the way

    def repeat(self, following: Collection[str], now: float) -> list[Out]:
        """Say the phase's message again to those who have not answered; `following` have the plan."""
        self._said_at = now
        me = self._context.peer
        if self.phase == PREPARE:
            left = [v for v in self._head.voters if v not in self.promises and v not in self.refused and v != me]
            return [To(voter, Prepare(self._head.at, self.ballot)) for voter in left]
        if self.phase == REDUCE and self.collective:
            broken = [m.peer for transfer in self._broken for m in self.transfers[transfer].members]
            done = dict.fromkeys([*self._results, *following, *broken, me])
            left = [m.peer for m in self.members if m.peer not in done]
            first = self._repeated % max(1, len(left))  # so that of very many each has its turn
            self._repeated += limits.SPREAD_MAX
            message = self._plan(self.collective)
            return [To(peer, message) for peer in (left[first:] + left[:first])[: limits.SPREAD_MAX]]
        if self.phase == ACCEPT and self.proposal is not None:
            left = [v for v in self._head.voters if v not in self._votes and v != me]
            return [To(voter, Accept(self._head.at, self.ballot, self.proposal)) for voter in left]
        return []

    @property
    def repeats_at(self) -> float:
        return self._said_at + self._context.config.timers.attempt_s * limits.REPEAT_FRACTION

    def deadline(self, now: float) -> float:
        """When something is due here without an answer: a repetition, or the end of the wait for late promises."""
        waits = self.phase == PREPARE and self.quorum_at is not None
        ends = [self.repeats_at, *([(self.quorum_at or now) + limits.PROMISE_GRACE_S] if waits else [])]
        ends += [self._groups_end_at()] if self.phase == REDUCE else []
        return soonest(ends, now)

    def _plan(self, collective: Collective) -> Plan:
        return Plan(self._head.at, self.ballot, collective, self._head.codec)
