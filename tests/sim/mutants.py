"""The machines, broken on purpose: each of these must be found out, or the simulator does not see.

Owns the registry: a name, and what to replace while it is in force. The rules of `truth.py` are its own and stay.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from intellectd.protocol import decision, leader, proposal, records
from intellectd.protocol import effects as ef
from intellectd.protocol.acceptor import Acceptor
from intellectd.protocol.decision import Decision
from intellectd.protocol.entries import Blob
from intellectd.protocol.leader import Leader
from intellectd.protocol.node import Node
from intellectd.protocol.progress import Progress
from intellectd.protocol.round import Round
from intellectd.protocol.seat import Seat
from tests.sim.faults import Faults
from tests.sim.test_sim import swarm
from tests.sim.truth import Violation
from tests.sim.world import World

STORM_S, STORM_ATTEMPT_S = 150.0, 2.0
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
    return [(Decision, "holds", lambda self, root: True)]


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
        return Blob(blob.contributions, blob.assignments, blob.pending[1:], blob.unconsumed)

    return [(leader, "next_blob", lossy), (records, "next_blob", lossy)]


# Each with the kind of weather that it needs.
MUTANTS: dict[str, tuple[Callable[[], list[Patch]], str]] = {
    "votes-not-persisted": (_votes_are_not_persisted, "storm"),
    "votes-forgotten": (_votes_are_forgotten_in_a_restart, "storm"),
    "accepted-ignored": (_accepted_values_are_ignored, "storm"),
    "quorum-of-members": (_quorum_is_counted_over_the_members, "storm"),
    "quorum-of-half": (_any_half_is_a_quorum, "storm"),
    "promises-broken": (_promises_do_not_bind, "storm"),
    "no-first-phase": (_the_first_phase_is_skipped, "storm"),
    "apply-before-commit": (_results_are_applied_before_they_are_decided, "storm"),
    "vote-without-bytes": (_votes_do_not_wait_for_the_bytes, "storm"),
    "journal-not-needed": (_a_lost_journal_is_no_reason, "amnesia"),
    "work-after-jump": (_work_survives_a_jump_of_the_state, "rot"),
    "carried-unaccounted": (_carried_data_is_not_accounted_for, "storm"),
    "data-lost": (_data_given_back_is_lost, "storm"),
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


def storm(seed: int, kind: str = "storm") -> World:
    """A small swarm with short rounds in the worst weather."""
    rng = Random(seed * 7919)
    # Attempts shorter than a slow message takes: several ballots are under way at once.
    world = swarm(seed, rng.choice([3, 4, 5]), 1, attempt_s=STORM_ATTEMPT_S)
    world.training.round_s = 3.0
    faults = Faults(world, rng, STORM_S)
    faults.storm(kind)
    faults.schedule()
    world.run(STORM_S)
    return world


def found(name: str, seeds: int) -> tuple[int, str] | None:
    """The first seed at which an invariant breaks, and how; None within so many."""
    make, kind = MUTANTS[name]
    for seed in range(seeds):
        with in_force(make()):
            try:
                storm(seed, kind)
            except Violation as violation:
                return seed, str(violation)
    return None
