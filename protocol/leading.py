"""When this host leads: it begins an attempt, takes it from phase to phase, and gives it up. SPEC A2-A9, A11.

Owns the attempt that is led here, if any. Refuses to count answers, which is leader.py's.
"""

from collections.abc import Sequence

from intellectd.protocol import limits
from intellectd.protocol.collectives import AUTO, DIRECT_ONLY, RING, allowed, neighbours, parts, together
from intellectd.protocol.context import can_be_dialled
from intellectd.protocol.decision import Decision
from intellectd.protocol.effects import Halt, Note, Out, Through, To
from intellectd.protocol.entries import GOSSIP
from intellectd.protocol.ids import NO_HASH, Ballot, hash_of, state_name
from intellectd.protocol.leader import ACCEPT, DONE, PREPARE, REDUCE, Leader
from intellectd.protocol.messages import Accepted, Introduce, Promise, Ready, Refuse, Result
from intellectd.protocol.planner import chart
from intellectd.protocol.proposal import Outcome
from intellectd.protocol.readiness import enough, names_roster
from intellectd.protocol.records import Collective, Entry, Member, Proposal
from intellectd.protocol.warmup import weighed


class Leading:
    def __init__(self, decision: Decision) -> None:
        self._decision = decision
        self.attempt: Leader | None = None
        self._proposed_again = NO_HASH  # the update of the newest value that was
        self.doubted = False  # this host's state: it was worked out anew
        self._disagreed = 0  # attempts in which all voters differed
        self._left_to_senior: Ballot | None = None  # an attempt, as it alone says that this host is wrong

    # ---- time

    def begin(self, reason: str, now: float) -> list[Out]:
        decision = self._decision
        ballot = Ballot(decision.attempts.number, decision.context.peer)
        self.attempt = Leader(decision.context, decision.head, ballot, now, decision.muster.began_at)
        decision.attempts.moved(now)
        return [Note("attempt", f"leading attempt {ballot.attempt}: {reason}", "debug"), *self.attempt.begin()]

    def evaluate(self, now: float) -> list[Out]:
        """What the attempt needs next."""
        leader, decision = self.attempt, self._decision
        if leader is None:
            return []
        if decision.attempts.expired(now):
            deaf = self.deaf(leader.ballot)
            if leader.told_of_states:
                self._doubt(leader)
            out = self._give_up(f"attempt {leader.ballot.attempt} made no progress in {leader.phase}", now)
            decision.suspicion.leave_out(deaf, decision.attempts.resumes_at(now))
            return out
        if leader.promised_enough(decision.alive_voters(now), now):
            out = self._promised(leader, now)
            if leader.phase != PREPARE:
                decision.attempts.moved(now)
            return out
        if leader.failed:
            return self._give_up(f"every group of attempt {leader.ballot.attempt} broke", now)
        outcome = leader.settled(now) if decision.head.groups else None
        if outcome is not None:
            return self._propose(leader, outcome, now)
        return leader.repeat(self._following(leader), now) if now >= leader.repeats_at else []

    def _following(self, leader: Leader) -> list[str]:
        """Members whose beacon has shown the transfer since it was planned."""
        views = self._decision.members.peers
        return [
            m.peer
            for m in leader.members
            if (view := views.get(m.peer)) and view.beacon and view.beacon.transfer
            if view.beacon.transfer.transfer in leader.transfers and (view.heard_at or 0.0) > leader.planned_at
        ]

    def _promised(self, leader: Leader, now: float) -> list[Out]:
        """Phase 1 is over: on which state, and is a value locked?"""
        decision = self._decision
        digest = leader.agreed_digest()
        if digest is None:
            return self._no_digest(leader)
        if digest != decision.muster.state_digest:
            if self._even(leader, digest) and self._left_to_senior in (None, leader.ballot):
                self._left_to_senior = leader.ballot  # until its time is over, as the others count that, too
            else:
                decision.diverged, self.attempt = True, None
            return []
        if self._doubt(leader):  # of two the senior's own word is a quorum's
            voters = len(decision.head.voters)
            return [self._differ(leader, f"of {voters} voters as many stand on another state as here")]
        leader.state_digest = digest
        locked = leader.locked()
        if locked is None or self._out_of_reach(leader, locked):
            return self._reduce(leader, now)
        self._proposed_again = locked.record.update_root
        return leader.propose_again(locked)

    def _out_of_reach(self, leader: Leader, locked: Proposal) -> bool:
        """Was it proposed again once, in vain, as those that have its bytes are heard and cannot be asked? It may be
        left if it is sure that nobody has decided it (A6)."""
        again = locked.record.update_root == self._proposed_again
        return again and not self._decision.holds_for(locked.record) and leader.nothing_decided()

    def deadline(self, now: float) -> float:
        return float("inf") if self.attempt is None else self.attempt.deadline(now)

    # ---- answers

    def on_promise(self, sender: str, message: Promise, now: float) -> None:
        if self.attempt:
            self.attempt.on_promise(sender, message, now)

    def on_refuse(self, sender: str, message: Refuse, now: float) -> list[Out]:
        """One voter's no ends nothing while the others may make a quorum (A11)."""
        leader, decision = self.attempt, self._decision
        decision.answered(sender, message.ballot)
        decision.rightful(message.promised.leader, message.promised)
        if leader is None or message.ballot != leader.ballot:
            return []
        if message.promised > message.ballot:
            decision.attempts.higher(message.promised, now)
        note = Note("attempt_refused", f"{sender} refused attempt {message.ballot.attempt}: {message.reason}", "debug")
        if leader.on_refuse(sender, message):
            return [note, *self._give_up(f"attempt {message.ballot.attempt} was refused by too many", now)]
        return [note]

    def on_result(self, sender: str, message: Result, now: float) -> list[Out]:
        leader = self.attempt
        if leader is None:
            return []
        news, outcome = leader.on_result(sender, message, now)
        if news:
            self._decision.attempts.moved(now)
        return [] if outcome is None else self._propose(leader, outcome, now)

    def on_accepted(self, sender: str, message: Accepted, now: float) -> Entry | None:
        if self.attempt is None:
            return None
        news, entry = self.attempt.on_accepted(sender, message)
        if news:
            self._decision.attempts.moved(now)
        return entry

    def _propose(self, leader: Leader, outcome: Outcome, now: float) -> list[Out]:
        if len(outcome.members) < self._decision.context.config.swarm.min_peers:  # what is left of the groups
            return self._give_up(f"too few groups of attempt {leader.ballot.attempt} came to an end", now)
        leader.result_at = now
        decision, known = self._decision, self._decision.members
        newcomers = [m.peer for m in outcome.members if m.peer not in decision.head.voters and known.alive(m.peer, now)]
        here = [*decision.alive_voters(now), *newcomers]
        return leader.propose(outcome, decision.muster.able_peers(now), self._gone(leader, now), here)

    def took(self) -> list[Out]:
        """For whoever looks after the model of time: what it said of the transfer that was led here, and what came
        true, from the plan until a majority had the result on disk."""
        leader = self.attempt
        if leader is None or leader.collective is None or leader.result_at is None:
            return []
        schedule, actual_s = leader.collective.schedule, leader.result_at - leader.planned_at
        said = f", {leader.predicted_s:.2f} s predicted" if leader.predicted_s is not None else ""
        text = f"the {schedule} of {len(leader.members)} took {actual_s:.2f} s{said}"
        fields: dict[str, object] = {"schedule": schedule, "actual_s": actual_s, "predicted_s": leader.predicted_s}
        return [Note("transfer_took", text, "info" if said else "debug", fields)]

    # ---- what others do to it

    def follow(self, ballot: Ballot) -> None:
        """A ballot that this host takes part in: ours is over if it is lower."""
        if self.attempt is not None and self.attempt.ballot < ballot:
            self.attempt = None

    def broke(self, ballot: Ballot, peer: str) -> None:
        """The ring of this member's group failed, in an attempt that goes on with the others (E4)."""
        if self.attempt is not None and self.attempt.ballot == ballot:
            for transfer, part in self.attempt.transfers.items():
                if any(m.peer == peer for m in part.members):
                    self.attempt.broke(transfer)

    def aborted(self, ballot: Ballot) -> None:
        if self.attempt is not None and self.attempt.ballot == ballot:
            self.attempt = None

    def deaf(self, ballot: Ballot) -> list[str]:
        """Members that did not hear of the transfer that is led under this ballot (A10)."""
        leader = self.attempt
        if leader is None or leader.ballot != ballot or leader.phase != REDUCE:
            return []
        return [p for p in self._decision.deaf(leader.transfers, leader.planned_at) if not leader.has_result(p)]

    def is_voting_on(self, ballot: Ballot) -> bool:
        leader = self.attempt
        return leader is not None and leader.ballot == ballot and leader.phase in (ACCEPT, DONE)

    def members(self, ballot: Ballot | None = None) -> list[Member]:
        """Of the collective that is led here (under this ballot)."""
        leader = self.attempt
        return leader.members if leader is not None and ballot in (None, leader.ballot) else []

    @property
    def collective(self) -> Collective | None:
        """That is computed under the attempt led here."""
        return None if self.attempt is None else self.attempt.collective

    # ---- inside

    def _no_digest(self, leader: Leader) -> list[Out]:
        """What others of the voters may still settle is waited for, and told."""
        voters = len(self._decision.head.voters)
        all_answered = len(leader.promises) == voters
        if all_answered and not leader.all_differ:
            leader.all_differ, self._disagreed = True, self._disagreed + 1
            if self._disagreed >= limits.DIVERGENCES_MAX:
                self.attempt = None
                return [Halt(f"no quorum of the voters agrees on {state_name(self._decision.head.round)}")]
        if leader.told_of_states:
            return []
        leader.told_of_states = True
        if all_answered:  # nobody is left who could settle it
            self._doubt(leader)
        rest = "" if all_answered else ", and the others have not answered"
        return [self._differ(leader, f"of {voters} voters no quorum agrees{rest}")]

    def _differ(self, leader: Leader, what: str) -> Note:
        told = ", ".join(f"{count} on {digest.hex()[:8]}" for digest, count in leader.states.most_common())
        return Note("states_differ", f"{state_name(self._decision.head.round)}: {what}: {told}", "warning")

    def _even(self, leader: Leader, digest: bytes) -> bool:
        """Is a quorum on it by the most senior voter alone, as many being on this host's?"""
        return leader.states[leader.promises[self._decision.context.peer].state_digest] >= leader.states[digest]

    def _doubt(self, leader: Leader) -> bool:
        """Nobody can tell yet who is wrong. Not those of whom there are more than of any others, nor who has accepted a
        value: a quorum stood there then; each of the rest finds out when it leads. Whether it is news."""
        decision, on = self._decision, leader.states
        digest, accepted = leader.promises[decision.context.peer].state_digest, decision.acceptor.accepted
        settled = on.pop(digest) > max(on.values(), default=0) or (accepted and accepted.record.state_digest == digest)
        if settled or self.doubted or leader.doubted:
            return False
        leader.doubted = decision.doubtful = True
        return True

    def _reduce(self, leader: Leader, now: float) -> list[Out]:
        """Nothing is locked: what is there to decide?"""
        decision = self._decision
        swarm, standing, known = (
            decision.context.config.swarm,
            decision.muster.standing(now),
            decision.muster.all_ready(),
        )
        done = None if decision.head.groups else leader.completed(known, standing.ready, self._has_parted)
        if done and len(done.members) >= swarm.min_peers:
            return self._plan(leader, done, {m.peer: known[m.peer] for m in done.members}, None, now)
        if not enough(standing, swarm.start_peers, swarm.min_peers):
            return self._give_up(f"attempt {leader.ballot.attempt} came to nothing: {decision.may_start(now)[1]}", now)
        if names_roster(standing):
            return leader.propose_roster(standing.able, self._gone(leader, now), decision.alive_voters(now))
        ring = sorted(standing.ready, key=lambda peer: hash_of("ring", decision.head.hash, peer.encode()))
        members = [Member(p, known[p].tokens, known[p].delta_root) for p in ring]
        going = decision.exchange.plan.collective if decision.exchange.plan else None
        if going and _same(going.members, members):  # it is under way, and goes on
            return self._plan(leader, going, known, None, now)
        collective, seconds, out = (self._in_groups if decision.head.groups else self._chart)(members, now)
        if len(collective.members) < max(1, swarm.min_peers):
            return [*out, *self._give_up(f"attempt {leader.ballot.attempt} cannot connect enough members", now)]
        return [*out, *self._plan(leader, collective, known, seconds, now)]

    def _in_groups(self, members: list[Member], now: float) -> tuple[Collective, float | None, list[Out]]:
        """A ring for each group that was drawn, of those in it that are ready (E1)."""
        rings: list[Collective] = []
        out: list[Out] = []
        slowest: float | None = None
        for group in self._decision.head.groups:
            ready = [m for peer in group for m in members if m.peer == peer]
            if ready:
                collective, seconds, said = self._chart(ready, now)
                rings.append(collective)
                slowest = seconds if slowest is None else max(slowest, seconds or 0.0)
                out += said
        return together([ring for ring in rings if ring.members]), slowest, out

    def _chart(self, members: list[Member], now: float) -> tuple[Collective, float | None, list[Out]]:
        """Of these, in which order, and by which schedule? (C8) What that should take, and what is to be said of it."""
        decision, ring = self._decision, [m.peer for m in members]
        context, others = decision.context, decision.members
        beacons = {p: b for p in ring if p != context.peer and (b := others.beacon(p))}
        said = {p: b.links for p, b in beacons.items()}
        open_ = {p: can_be_dialled(b.bulk, b.certificate) for p, b in beacons.items()}
        dialable = [open_.get(p, context.dialable if p == context.peer else True) for p in ring]
        links = others.links.known(ring, said, now)
        places = {peer: place for place, peer in enumerate(ring)}
        last = [places[c.peer] for c in decision.head.blob.contributions if c.peer in places]
        stood = decision.head.entry is None or decision.head.entry.record.schedule != GOSSIP
        last = last if len(last) == len(ring) and stood else []
        parted = decision.suspicion.parted(ring)
        manifest, least = allowed(context.config.outer), context.config.swarm.min_peers
        if manifest == GOSSIP:  # groups are rings; an exact round may be whatever is best
            manifest, least = (RING, 1) if decision.head.groups else (AUTO, least)
        course = chart(dialable, links, decision.head.transfer_bytes, manifest, last, parted, least)
        out: list[Out] = []
        direct = f"only {limits.DIRECT_MEMBERS_MAX} can exchange directly, one of them without being dialled"
        for left, why in (
            (course.left, direct if manifest == DIRECT_ONLY else f"only {dialable.count(True)} can be dialled"),
            (course.parted, "some found no way to each other"),
        ):
            names = " ".join(ring[place] for place in left)
            text = f"of {len(ring)} members {why}: {names} must wait for a round"
            out += [Note("unconnected", text, "warning")] if left else []
        chosen = weighed([members[place] for place in course.order], decision.head.warming)
        collective = Collective(chosen, course.schedule, course.shape)
        return collective, course.seconds, out

    def _has_parted(self, collective: Collective) -> bool:
        """Are two neighbours in it between whom a collective of this decision broke?"""
        peers = [m.peer for m in collective.members]
        parted = [(peers[i], peers[j]) for i, j in self._decision.suspicion.parted(peers)]
        return bool(parted) and any((i, j) in parted or (j, i) in parted for i, j in neighbours(collective))

    def _plan(
        self, leader: Leader, collective: Collective, ready: dict[str, Ready], predicted_s: float | None, now: float
    ) -> list[Out]:
        """Tell every member: one by one, or where they are many by way of the voters (W11), each with its
        neighbours' beacons, whom it may never have met."""
        plan, peers = leader.plan(collective, ready, predicted_s, now), [m.peer for m in collective.members]
        if len(peers) <= limits.ROSTER_DENSE_MAX:
            return [To(peer, plan) for peer in peers]
        me, known = self._decision.context.peer, self._decision.members
        out: list[Out] = []
        for ring in [[m.peer for m in part.members] for part in parts(collective)]:
            for peer, before, after in zip(ring, [ring[-1], *ring], [*ring[1:], ring[0]], strict=False):
                beacons = [b for p in (before, after) if (b := known.introduction(p))]
                out += [To(peer, Introduce(beacons))] if beacons and peer != me else []
        groups: dict[str, list[str]] = {v: [] for v in self._decision.alive_voters(now) if v != me}
        for peer in peers:
            guides = [] if peer == me or peer in groups else known.audience.near(peer)[: limits.GUIDES]
            way = next((v for v in guides if v in groups and len(groups[v]) < limits.SPREAD_MAX), None)
            if way is None:
                out.append(To(peer, plan))
            else:
                groups[way].append(peer)
        return [*out, *(Through(way, tuple(group), plan) for way, group in groups.items() if group)]

    def _give_up(self, text: str, now: float) -> list[Out]:
        assert self.attempt is not None
        self._decision.attempts.failed(self.attempt.ballot.attempt, now)
        self.attempt = None
        return [Note("attempt_lost", text)]

    def _gone(self, leader: Leader, now: float) -> list[str]:
        return leader.gone(self._decision.muster.leaving_peers(leader.promises, now))


def _same(planned: Sequence[Member], ready: Sequence[Member]) -> bool:
    """Is it planned of these deltas, with the tokens that are said of them? Who warms up is planned with none (R15)."""
    known = {m.peer: m for m in ready}
    return len(planned) == len(known) and all(
        (said := known.get(m.peer)) is not None and m.delta_root == said.delta_root and m.tokens in (0, said.tokens)
        for m in planned
    )
