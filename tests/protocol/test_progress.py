"""The trainer's work: handed out, frozen, contributed, carried over, dropped; every token accounted for. SPEC P*."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import hash_of
from intellectd.protocol.messages import Ready
from intellectd.protocol.records import Entry
from tests.protocol.history import ready_of
from tests.protocol.playbook import History, Host, describe, run_config
from tests.protocol.test_branching import history

ROOT = hash_of("a delta of PZ")


def member(rounds: int = 0) -> tuple[History, Host]:
    """PZ has no vote in this run and is named for each round; what others decide without it is up to the test."""
    run = History(run_config())
    run.opening("PA")
    run.round("PA", able=["PA", "PZ"])
    for _ in range(rounds):
        run.round("PA", able=["PA", "PZ"])
    pz = Host(run, "PZ").meet("PA")
    return run, pz


def decide(run: History, pz: Host, *members: str, ready: dict[str, Ready] | None = None) -> Entry:
    """A round goes by: it is logged, applied, and what becomes of the arena is the next line."""
    said = ready or {peer: ready_of(run.head, peer, run.state) for peer in members}
    proposal = run.proposal(run.outcome(said), said, ["PA", "PZ"])
    entry = run.decide(proposal)
    pz.told(ev.MessageReceived("PA", pz.sealed("PA", entry)))
    pz.told(ev.UpdateHeld(entry.record.update_root))
    return entry


def train(pz: Host, round_: int, tokens: int = 100) -> None:
    pz >> ev.TrainerReady(round_, tokens, 10)
    pz << "freeze"
    pz >> ev.DeltaFrozen("3f800000", ROOT)
    pz.silent()


def own(pz: Host) -> Ready:
    ready = pz.node.progress.ready
    assert ready is not None
    return ready


def read(pz: Host, words: str) -> None:
    """Skip to this line."""
    while pz.unread:
        if describe(pz.unread.pop(0)) == words:
            return
    raise AssertionError(f"no {words!r}")


def test_work_that_counts_is_adopted() -> None:
    """SPEC P1-P3."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    train(pz, 2)
    ready = own(pz)
    assert (ready.at, ready.tokens, ready.delta_root) == (run.head.at, 100, ROOT)
    assert [(s.round, s.slot) for s in ready.streams] == [(2, 1)]
    decide(run, pz, ready={"PZ": ready})
    read(pz, "apply round 2, adopt")
    pz >> ev.Applied(2, run.state)
    pz << "train round 3 on 3/1"


def test_work_that_was_left_out_is_carried_over_with_its_tokens() -> None:
    """SPEC P4: local <- new anchor - u; the next contribution holds both rounds' data."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    train(pz, 2)
    decide(run, pz, "PA")
    read(pz, "apply round 2, carry")
    pz >> ev.Applied(2, run.state)
    pz << "train round 3 on 3/1, carrying over"
    train(pz, 3, tokens=50)
    ready = own(pz)
    assert ready.tokens == 150 and ready.steps == 20
    assert [(s.round, s.slot) for s in ready.streams] == [(2, 1), (3, 1)]


def test_a_slow_trainer_keeps_its_anchor_and_contributes_later() -> None:
    """SPEC P5: its round is decided without it; the delta is taken from where it began."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    decide(run, pz, "PA")
    read(pz, "apply round 2, keep")
    pz >> ev.Applied(2, run.state)
    train(pz, 2)
    assert [(s.round, s.slot) for s in own(pz).streams] == [(2, 1)], "what round 3 gave is not in it"
    decide(run, pz, ready={"PZ": own(pz)})
    assert [(s.round, s.slot) for s in run.head.blob.assignments[1].streams] == [(4, 1)] or run.head.blob.unconsumed
    read(pz, "apply round 3, adopt")


def test_work_older_than_two_rounds_is_dropped() -> None:
    """SPEC P6, R9: and its data goes back to be handed out again."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    for round_, word in ((2, "keep"), (3, "keep"), (4, "keep")):
        decide(run, pz, "PA")
        read(pz, f"apply round {round_}, {word}")
        pz.told(ev.Applied(round_, run.state))
    pz >> ev.TrainerReady(2, 100, 10)
    assert any(note.event == "progress_dropped" for note in pz.notes)
    given = [(s.round, s.slot) for a in run.head.blob.assignments for s in a.streams]
    assert (2, 1) in given or (2, 1) in [(s.round, s.slot) for s in run.head.blob.unconsumed]
    assert isinstance(pz.one(ef.StartTraining), ef.StartTraining)


def test_once_too_late_is_too_late() -> None:
    """SPEC P6: a later record does not make dropped work usable again."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    pz.told(ev.TrainerDetached("killed"), ev.TrainerAttached(2)).skip()  # it kept its work of round 2
    decide(run, pz, ready={"PZ": ready_of(run.head, "PZ", run.state)})  # which the life before had contributed
    read(pz, "apply round 2, keep")
    pz.told(ev.Applied(2, run.state)).skip()
    decide(run, pz, "PA")
    pz.told(ev.Applied(3, run.state)).skip()
    pz >> ev.TrainerReady(2, 100, 10)
    assert any(note.event == "progress_dropped" for note in pz.notes)


def test_a_trainer_that_comes_back_goes_on() -> None:
    """SPEC P8: if its round is still the one to do, and nothing was carried over into it."""
    _, pz = member()
    progress = pz.node.progress
    assert progress.resumes(pz.node.head, 1, 2)
    assert not progress.resumes(pz.node.head, 1, 1) and not progress.resumes(pz.node.head, 0, 2)
    pz >> ev.TrainerAttached(2)
    pz.silent()  # no StartTraining: it is at work
    train(pz, 2)
    assert own(pz).tokens == 100


def test_a_trainer_that_comes_back_a_moment_too_late_is_said_to_lose_its_work() -> None:
    """SPEC P6, P8: it was told that it may go on, and then a record came before the node heard of it."""
    run, pz = member()
    assert pz.node.progress.resumes(pz.node.head, 1, 2)
    decide(run, pz, "PA")
    pz.told(ev.Applied(2, run.state)).skip()
    pz.notes.clear()
    pz >> ev.TrainerAttached(2)
    pz << "train round 3 on 3/1"
    assert [note.event for note in pz.notes] == ["progress_dropped"]


def test_a_trainer_with_carried_work_of_an_earlier_life_starts_over() -> None:
    """SPEC P8: its parameters hold the data of two rounds, but this host knows only of one: it would count twice."""
    run, pz = member()
    decide(run, pz, "PA")
    pz.told(ev.Applied(2, run.state)).skip()
    assert run.head.pending_streams("PZ") and not pz.node.progress.resumes(pz.node.head, 2, 3)
    pz >> ev.TrainerAttached(3)
    pz << "train round 3 on 3/1"


def test_a_delta_that_cannot_be_used() -> None:
    """SPEC P9: the trainer starts over from the anchor; a refusal that comes after it left says nothing."""
    _, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    pz >> ev.TrainerReady(2, 100, 10)
    pz << "freeze"
    pz >> ev.DeltaRefused("tensor 'w' holds a NaN")
    pz << "train round 2 on 2/1"
    pz >> ev.TrainerReady(2, 100, 10)
    pz << "freeze"
    pz >> ev.TrainerDetached("killed")
    pz >> ev.DeltaRefused("the trainer is gone")
    pz >> ev.DeltaFrozen("3f800000", ROOT)
    pz.silent()
    assert pz.node.progress.state == "absent"


def test_a_state_that_jumps_leaves_no_work_behind() -> None:
    """SPEC P7: after a snapshot the old anchor is gone, so a delta from it would be nonsense."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    pz.told(ev.SnapshotInstalled(1, run.states[1])).skip()
    pz >> ev.TrainerReady(2, 100, 10)
    pz << "train round 2 on 2/1"  # from the anchor, not "freeze"
    train(pz, 2)
    pz.told(ev.SnapshotInstalled(1, run.states[1]))
    pz << "train round 2 on 2/1"


def test_no_tokens_no_contribution() -> None:
    """SPEC P2."""
    _, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    train(pz, 2, tokens=0)
    assert pz.node.progress.ready is None


def test_late_words_of_a_trainer_are_not_heard() -> None:
    """SPEC P1."""
    _, pz = member()
    pz >> ev.TrainerReady(2, 100, 10)
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    pz >> ev.TrainerReady(1, 100, 10)
    pz.silent()


def test_work_that_would_lapse_is_offered_as_it_is() -> None:
    """SPEC P4: left out twice, it is not late a third time; a host that is a little slow would never count else."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    pz << "train round 2 on 2/1"
    train(pz, 2)
    decide(run, pz, "PA")
    read(pz, "apply round 2, carry")
    pz >> ev.Applied(2, run.state)
    pz << "train round 3 on 3/1, carrying over"
    train(pz, 3)
    decide(run, pz, "PA")
    read(pz, "apply round 3, carry")
    pz >> ev.Applied(3, run.state)
    pz.silent()  # no training: ready for round 4 from its beginning
    ready = own(pz)
    assert ready.at == run.head.at and ready.tokens == 200 and len(ready.streams) == 2
    decide(run, pz, "PA")
    read(pz, "apply round 4, adopt")
    pz >> ev.Applied(4, run.state)
    assert isinstance(pz.one(ef.StartTraining), ef.StartTraining)


def test_where_there_may_be_several_lines_no_trainer_resumes() -> None:
    """SPEC P8: it names its round, and the round of another line has the same number and another anchor."""
    run = history("fork")
    pa = Host(run)
    assert not pa.node.progress.resumes(run.head, run.head.round, run.head.round + 1)
    run = history("wait")
    pa = Host(run)
    assert pa.node.progress.resumes(run.head, run.head.round, run.head.round + 1)


def given_back(run: History) -> tuple[Entry, Entry]:
    """PA leaves, and its last round names nobody; the record after it names PZ alone."""
    return run.round("PA", able=[], gone=["PA"]), run.round(able=["PZ"])


def come(pz: Host, *entries: Entry) -> None:
    pz.told(ev.EntriesReceived("PA", entries), *(ev.UpdateHeld(entry.record.update_root) for entry in entries))


def apply(run: History, pz: Host, *rounds: int) -> None:
    for round_ in rounds:
        pz.told(ev.Applied(round_, run.states[round_]))


def given(run: History) -> list[tuple[int, int]]:
    assignment = run.head.assignment("PZ")
    assert assignment is not None
    return [(stream.round, stream.slot) for stream in assignment.streams]


def test_data_that_was_given_back_and_comes_again_is_not_worked_off_twice() -> None:
    """SPEC P4, R9, A3: PZ has done its work, and hears of two records at once: one gives its data back, one gives it
    the same again. Twice the same data would make it ready for nobody, for ever."""
    run, pz = member()
    pz >> ev.TrainerAttached(None)
    before = given(run)
    pz << "train round 2 on 2/1"
    train(pz, 2)
    come(pz, *given_back(run))
    assert given(run) == before == [(2, 1)]
    apply(run, pz, 2, 3)
    assert [(s.round, s.slot) for s in own(pz).streams] == before and own(pz).at == run.head.at
    assert own(pz).tokens == 100 and pz.node.round.parts.muster.ready("PZ") is not None
