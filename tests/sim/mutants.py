"""The machines, broken on purpose: each of these must be found out, or the simulator does not see.

Owns the registry: a name, and what to replace while it is in force. The rules of `truth.py` are its own and stay.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from intellectd.protocol import branching, decision, head, leader, proposal, records
from intellectd.protocol import effects as ef
from intellectd.protocol.acceptor import Acceptor
from intellectd.protocol.attempts import Attempts
from intellectd.protocol.branch import lives_of
from intellectd.protocol.catchup import Catchup
from intellectd.protocol.decision import Decision
from intellectd.protocol.entries import Blob
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH
from intellectd.protocol.leader import Leader
from intellectd.protocol.membership import Membership
from intellectd.protocol.node import Node
from intellectd.protocol.progress import Progress
from intellectd.protocol.round import Round
from intellectd.protocol.seat import Seat
from intellectd.protocol.states import States
from tests.sim.drawing import draw
from tests.sim.play import play

NODES, MINUTES = (3, 5), 2.5  # small swarms with short rounds, in which a fault comes each few seconds
Patch = tuple[Any, str, Any]  # owner, name, replacement


def _votes_are_not_persisted() -> list[Patch]:
    handle = Node.handle
    return [(Node, "handle", lambda *a: [e for e in handle(*a) if not isinstance(e, ef.PersistVote)])]


def _votes_are_forgotten_in_a_restart() -> list[Patch]:
    build = Acceptor.__init__
    return [(Acceptor, "__init__", lambda self, context, head, vote: build(self, context, head, None))]


def _accepted_values_are_ignored() -> list[Patch]:
    return [(Leader, "locked", lambda self: None)]


def _quorum_is_counted_over_the_members() -> list[Patch]:
    """As if whoever took part could decide: the voters that stayed away are not asked."""

    def count(self: Leader, sender: str, accepted: Any) -> Any:
        voters, members = self._head.voters, [m.peer for m in self.members]
        self._head.voters = [v for v in voters if v in members] or voters
        try:
            return on_accepted(self, sender, accepted)
        finally:
            self._head.voters = voters

    on_accepted = Leader.on_accepted
    return [(Leader, "on_accepted", count), (records, "is_quorum", lambda voters, present: len(present) > 0)]


def _any_half_is_a_quorum() -> list[Patch]:
    half: Callable[[Any, Any], bool] = lambda voters, present: 2 * sum(v in present for v in voters) >= len(voters)  # noqa: E731
    return [(module, "is_quorum", half) for module in (records, leader, decision)]


def _promises_do_not_bind() -> list[Patch]:
    return [(Acceptor, "refuse_stale", lambda self, ballot: [])]


def _the_first_phase_is_skipped() -> list[Patch]:
    def enough(self: Leader, alive: Any, now: float) -> bool:
        return self.phase == leader.PREPARE and len(self.promises) > 0

    return [
        (Leader, "promised_enough", enough),
        (Leader, "agreed_digest", lambda self: next(iter(self.promises.values())).state_digest),
    ]


def _results_are_applied_before_they_are_decided() -> list[Patch]:
    ended = Round.on_transfer_ended

    def apply(self: Round, transfer: bytes, root: bytes, update_bytes: int, now: float) -> Any:
        early = ef.ApplyUpdate(self.head.round + 1, root, "int8", "3f800000", "3f800000", "adopt")
        return [*ended(self, transfer, root, update_bytes, now), early]

    return [(Round, "on_transfer_ended", apply)]


def _votes_do_not_wait_for_the_bytes() -> list[Patch]:
    return [(Decision, "holds_for", lambda self, record: True)]


def _a_lost_journal_is_no_reason() -> list[Patch]:
    def never(self: Seat, *rest: Any) -> Any:
        out = on_record(self, *rest)
        self.lost = False
        return out

    on_record, build = Seat.on_record, Seat.__init__

    def born(self: Seat, *rest: Any) -> None:
        build(self, *rest)
        self.lost = False

    return [(Seat, "on_record", never), (Seat, "__init__", born)]


def _work_survives_a_jump_of_the_state() -> list[Patch]:
    return [(Progress, "on_jump", lambda self: None)]


def _carried_data_is_not_accounted_for() -> list[Patch]:
    start = Progress.start

    def forget(self: Progress, head: Any, applied: int) -> Any:
        if self.state == "idle":
            self._streams = []
        return start(self, head, applied)

    return [(Progress, "start", forget)]


def _data_given_back_is_lost() -> list[Patch]:
    honest = proposal.next_blob

    def lossy(*rest: Any) -> Blob:
        blob = honest(*rest)
        return Blob(blob.contributions, blob.assignments, blob.pending[1:], blob.unconsumed, blob.lives)

    return [(leader, "next_blob", lossy), (records, "next_blob", lossy)]


def _turns_do_not_pass() -> list[Patch]:
    return [(Attempts, "_stalled", lambda self, now: False)]


def _the_first_attempt_bars_all_others() -> list[Patch]:
    return [(Attempts, "busy", lambda self, promised, now: "busy" if promised else None)]


def _snapshots_are_not_asked_for() -> list[Patch]:
    return [(States, "ask", lambda self, head, applied, now: [])]


def _records_are_not_asked_for() -> list[Patch]:
    return [(Catchup, "_ask_records", lambda self, head, now: [])]


def _dropped_work_is_not_mentioned() -> list[Patch]:
    return [(Progress, "take_dropped", lambda self: [])]


def _records_are_logged_late() -> list[Patch]:
    """What follows from a record is done before it is on disk."""
    decide = Node._decide

    def late(self: Node, entry: Any, now: float) -> Any:
        out = decide(self, entry, now)
        self.owed = [item for item in out if isinstance(item, ef.AppendEntry)]  # type: ignore[attr-defined]
        return [item for item in out if not isinstance(item, ef.AppendEntry)]

    def handle(self: Node, event: Any, now: float) -> Any:
        late = getattr(self, "owed", [])
        self.owed = []  # type: ignore[attr-defined]
        return [*honest(self, event, now), *late]

    honest = Node.handle
    return [(Node, "_decide", late), (Node, "handle", handle)]


def _the_voters_before_go_on_voting() -> list[Patch]:
    """The seats that a record gives are not taken: its successor is decided by who decided it."""
    build = Head.__init__

    def late(self: Head, manifest: Any, run: bytes, entry: Any, before: Any = None) -> None:
        build(self, manifest, run, entry, before)
        self.named = self.voters  # type: ignore[attr-defined]
        self.voters = before.named if before is not None and before.entry is not None else self.voters

    return [(Head, "__init__", late)]


def _work_that_counted_is_carried_over() -> list[Patch]:
    honest = Progress.before_apply

    def again(self: Progress, decided: Any, head: Any) -> Any:
        tokens, local = self._tokens, honest(self, decided, head)
        if decided.mine and local == "adopt":
            self._carried_tokens = tokens
            return "carry"
        return local

    return [(Progress, "before_apply", again)]


def _the_newest_result_is_applied() -> list[Patch]:
    """Whatever lies on disk last, instead of what the record names."""
    honest = Node._apply

    def newest(self: Node, decided: Any) -> ef.ApplyUpdate:
        effect = honest(self, decided)
        root = next(reversed(self.catchup.held), None) if effect.root else None
        return replace(effect, root=root)

    return [(Node, "_apply", newest)]


def _tokens_are_counted_twice() -> list[Patch]:
    twice: Callable[[Any, Any], int] = lambda head, done: head.tokens_total + 2 * sum(c.tokens for c in done)  # noqa: E731
    return [(proposal, "tokens_after", twice), (records, "tokens_after", twice)]


def _nothing_is_forgotten() -> list[Patch]:
    """Each beacon that was sent is kept."""
    send = Membership.send_beacon

    def keep(self: Membership, beacon: Any, waits_s: float, journal: bool, now: float) -> Any:
        self.sent = [*getattr(self, "sent", []), beacon]  # type: ignore[attr-defined]
        return send(self, beacon, waits_s, journal, now)

    return [(Membership, "send_beacon", keep)]


def _the_lighter_line_stands() -> list[Patch]:
    honest = branching._beats

    def lighter(line: Any, their_quorum: bool, head: Any, our_quorum: bool, lost: bool) -> bool:
        return line[0] < head.rank if line[0] != head.rank else honest(line, their_quorum, head, our_quorum, lost)

    return [(branching, "_beats", lighter)]


def _votes_of_other_lines_are_forgotten() -> list[Patch]:
    """One journal for all: what was voted on a line is gone when another is taken, and the seat there is not."""
    switch = Node._switch

    def forget(self: Node, *rest: Any) -> Any:
        out = switch(self, *rest)
        self._votes.clear()
        self.seat.lost = False
        self.round = self._new_round(rest[-1])
        return out

    return [(Node, "_switch", forget)]


def _any_life_is_meant_by_a_recovery() -> list[Patch]:
    return [(Seat, "_is_meant", lambda self, head: bool(head.entry) and self._peer in (lives_of(head.entry) or {}))]


def _the_state_of_a_left_line_is_kept() -> list[Patch]:
    def cut(self: Catchup, round_: int) -> bool:
        self.window.cut(round_)
        self.applied = min(self.applied, round_)
        return True

    return [(Catchup, "cut", cut)]


def _groups_are_drawn_by_name() -> list[Patch]:
    """The same ones stay together for ever, instead of whoever the record before draws."""
    honest = head.draw_groups
    return [(head, "draw_groups", lambda parent, peers, size: honest(NO_HASH, peers, size))]


def _no_round_is_exact() -> list[Patch]:
    build = Head.__init__

    def forget(self: Head, *rest: Any) -> None:
        build(self, *rest)
        self.since_exact = 0

    return [(Head, "__init__", forget)]


def _an_exact_round_is_taken_as_a_groups() -> list[Patch]:
    """It forgets that anchors differ: the update is taken from each one's own, and the state stays as it was."""
    honest = Node._apply

    def apart(self: Node, decided: Any) -> ef.ApplyUpdate:
        before = self.catchup.window.get(decided.record.round - 1)
        effect = honest(self, decided)
        return replace(effect, anchor="group") if before is not None and before.apart else effect

    return [(Node, "_apply", apart)]


def _differences_are_measured_from_an_older_state() -> list[Patch]:
    """A delta goes into an exact round, or into what follows it, with what was averaged before."""

    def keep(self: Progress, head: Any) -> Any:
        if self._again and self.state == "freezing":
            self.state, self._frozen, self._again = "frozen", self.mutated, False  # type: ignore[attr-defined]
        return []

    def frozen(self: Progress, event: Any) -> None:
        self.mutated = event  # type: ignore[attr-defined]
        on_frozen(self, event)

    on_frozen = Progress.on_frozen
    return [(Progress, "freeze_again", keep), (Progress, "on_frozen", frozen)]


def _a_groups_result_is_taken_from_one_member() -> list[Patch]:
    one: Callable[[Any, Any], bool] = lambda members, present: len(present) > 0  # noqa: E731
    return [(leader, "is_majority", one), (records, "is_majority", one)]


def _newcomers_count_at_once() -> list[Patch]:
    return [(head, "warming_after", lambda *rest: {})]


@dataclass(frozen=True)
class Mutant:
    patches: Callable[[], list[Patch]]
    weather: str  # the kind that it needs, as in drawing.py
    says: str


# Each breaks one rule; `says` names it.
MUTANTS: dict[str, Mutant] = {
    "votes-not-persisted": Mutant(_votes_are_not_persisted, "storm", "A4, A7: a vote is on disk before it is sent"),
    "votes-forgotten": Mutant(_votes_are_forgotten_in_a_restart, "storm", "A4: in no life"),
    "accepted-ignored": Mutant(_accepted_values_are_ignored, "storm", "A6: a value that may be chosen is proposed"),
    "quorum-of-members": Mutant(_quorum_is_counted_over_the_members, "storm", "A9: a quorum is of the voters"),
    "quorum-of-half": Mutant(_any_half_is_a_quorum, "storm", "Q1: half is a quorum with the senior only"),
    "promises-broken": Mutant(_promises_do_not_bind, "storm", "A4: it takes part in no lower ballot"),
    "no-first-phase": Mutant(_the_first_phase_is_skipped, "storm", "A6: a quorum promised first"),
    "apply-before-commit": Mutant(
        _results_are_applied_before_they_are_decided, "storm", "A9: nothing is applied that is not in the log"
    ),
    "apply-newest": Mutant(_the_newest_result_is_applied, "storm", "K3: what is applied is what the record names"),
    "vote-without-bytes": Mutant(_votes_do_not_wait_for_the_bytes, "storm", "A7: the update's bytes are on disk"),
    "voters-before": Mutant(_the_voters_before_go_on_voting, "storm", "R10: the voters are those the record names"),
    "journal-not-needed": Mutant(_a_lost_journal_is_no_reason, "amnesia", "A13: a lost journal is no vote"),
    "logged-late": Mutant(_records_are_logged_late, "storm", "N2: an entry is on disk before the next effect begins"),
    "work-dropped-silently": Mutant(_dropped_work_is_not_mentioned, "storm", "P6: the host says what is lost"),
    "work-after-jump": Mutant(_work_survives_a_jump_of_the_state, "rot", "P7: work from another state is dropped"),
    "work-counted-again": Mutant(_work_that_counted_is_carried_over, "storm", "P3: nothing of it is left over"),
    "carried-unaccounted": Mutant(_carried_data_is_not_accounted_for, "storm", "P4: carried work keeps its data"),
    "data-lost": Mutant(_data_given_back_is_lost, "storm", "R9: every stream is somewhere"),
    "tokens-twice": Mutant(_tokens_are_counted_twice, "storm", "R5: the total is the sum of what was contributed"),
    "turns-do-not-pass": Mutant(_turns_do_not_pass, "half-deaf", "A11: the next leader's turn comes"),
    "busy-forever": Mutant(_the_first_attempt_bars_all_others, "half-deaf", "A5: only while it makes progress"),
    "no-snapshots": Mutant(_snapshots_are_not_asked_for, "half-deaf", "K5: who has no state fetches one"),
    "no-records": Mutant(_records_are_not_asked_for, "half-deaf", "K1: who sees a higher head asks for what it lacks"),
    "lighter-line": Mutant(_the_lighter_line_stands, "fork", "G6: of two lines the one with more tokens stands"),
    "left-state-kept": Mutant(_the_state_of_a_left_line_is_kept, "fork", "G8: a state of the left part is dropped"),
    "votes-of-one-line": Mutant(_votes_of_other_lines_are_forgotten, "fork", "G9: votes are kept for each generation"),
    "any-life-recovers": Mutant(_any_life_is_meant_by_a_recovery, "owner", "G9: it votes in what it has not forgotten"),
    "groups-by-name": Mutant(_groups_are_drawn_by_name, "gossip", "E1: the record before draws the groups"),
    "never-exact": Mutant(_no_round_is_exact, "gossip", "E2: one round of so many is exact"),
    "exact-as-group": Mutant(_an_exact_round_is_taken_as_a_groups, "gossip", "E6: an exact round makes all equal"),
    "older-differences": Mutant(
        _differences_are_measured_from_an_older_state, "gossip", "E6: a delta is measured from the state at the head"
    ),
    "group-of-one-word": Mutant(
        _a_groups_result_is_taken_from_one_member, "gossip", "E4: a majority of each group has its result"
    ),
    "newcomers-count": Mutant(_newcomers_count_at_once, "warm-up", "R15: a newcomer's first rounds weigh nothing"),
    "nothing-forgotten": Mutant(_nothing_is_forgotten, "storm", "L1: every table is bounded"),
}


@contextmanager
def in_force(patches: list[Patch]) -> Iterator[None]:
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, name, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


def found(name: str, seeds: Iterable[int]) -> tuple[int, str] | None:
    """The first seed at which an invariant breaks, and how; None if it breaks at none of them."""
    mutant = MUTANTS[name]
    for seed in seeds:
        with in_force(mutant.patches()):
            problem = play(draw(seed, NODES, MINUTES, mutant.weather)).problem
        if problem:
            assert not problem.startswith(("TypeError", "AttributeError", "NameError")), (
                f"{name} itself is broken: {problem}"
            )
            return seed, problem
    return None
