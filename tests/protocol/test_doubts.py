"""The voters' states differ, and none is a quorum's: who works out anew what it stands on. SPEC A4, K6."""

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.records import Entry
from tests.protocol import puppets as say
from tests.protocol.playbook import History, Host, describe, opened, run_config, swarm

WRONG, OTHER = hash_of("a bit flipped"), hash_of("another one did")
THREE = ("PA", "PB", "PC")


def host(
    *order: str,
    rounds: int = 1,
    digest: bytes | None = WRONG,
    own: tuple[int, ...] = (0,),
    holds: bool = True,
    absent: tuple[str, ...] = (),
) -> tuple[History, Host]:
    """PA stands on this state after so many rounds, the right one if None is given, and its attempt is due; `own`: of
    which rounds states lie on its disk."""
    run = swarm(*order, rounds=rounds, config=run_config(grace_max_s=1.0))
    updates = [entry.record.update_root for entry in run.entries[1:]] if holds else []
    pa = Host(run, applied_digest=digest or run.state, held_updates=tuple(updates))
    pa.told(ev.SnapshotsHeld(own, 0)).meet(*(peer for peer in order[1:] if peer not in absent)).work()
    pa.told(*(pa.ready(peer) for peer in order[1:] if peer not in absent))
    return run, pa


def leads(pa: Host) -> Ballot:
    """Time passes until it does; of the others nobody begins anything."""
    there = [peer for peer in pa.node.head.voters if peer != pa.peer and pa.node.membership.alive(peer, pa.now)]
    for _ in range(120):
        sent = [opened(effect) for effect in pa.skip() if isinstance(effect, ef.Send)]
        found = [message.ballot for message in sent if isinstance(message, m.Prepare)]
        if found:
            return found[-1]
        pa.told(*(pa.ready(peer) for peer in there), pa.after(1.0))
    raise AssertionError(f"it leads no more: {pa.node.round.reason}")


def promised(run: History, pa: Host, **states: bytes) -> list[str]:
    """What it does when these have said where they stand, until its attempt's time is over."""
    ballot = leads(pa)
    pa.told(*(pa.says(peer, say.promise(run, ballot, state=state)) for peer, state in states.items()))
    for _ in range(round(pa.node.context.config.timers.attempt_s) + 1):
        pa.told(*(pa.ready(peer) for peer in states), pa.after(1.0))
    return [describe(effect) for effect in pa.skip()]


def reworked(run: History, pa: Host, digest: bytes) -> None:
    pa.told(ev.SnapshotInstalled(-1, run.states[-1]), ev.Applied(0, run.states[0]), ev.Applied(1, digest))


def doubts(pa: Host) -> int:
    return sum(1 for note in pa.notes if note.event == "state_doubted")


def test_of_two_that_differ_while_a_third_is_away_each_works_its_state_out_anew() -> None:
    """SPEC A4, K6: by what is proven and on its own disk; then they agree."""
    run, pa = host(*THREE, absent=("PC",))
    done = promised(run, pa, PB=run.state)
    assert "fetch state -1 from PA" in done
    assert [note.event for note in pa.notes if note.event.startswith("state")] == ["states_differ", "state_doubted"]
    assert "progress_dropped" in [note.event for note in pa.notes]  # the work began from what may be wrong
    assert pa.node.round.leading.attempt is None and pa.node.catchup.reach == 1  # what it can make if it leaves now
    pa >> pa.says("PB", say.prepare(run, Ballot(1, "PB")))
    pa.silent()  # it has no state to promise with
    reworked(run, pa, run.state)
    assert "to PB: promise 1.PB" in [describe(effect) for effect in pa.skip()]
    pa.work()
    ballot = leads(pa)
    pa.told(pa.says("PB", say.promise(run, ballot)))
    pa.told(pa.after(limits.PROMISE_GRACE_S))
    assert sorted(pa.one(ef.StartTransfer).members) == ["PA", "PB"]


def test_what_others_may_still_settle_is_waited_for() -> None:
    """SPEC A4, K6: the third answers late, and is a quorum with the one that is right: that is no doubt any more."""
    run, pa = host(*THREE)
    ballot = leads(pa)
    pa.told(pa.says("PB", say.promise(run, ballot)))
    pa.told(pa.after(limits.PROMISE_GRACE_S))
    assert [note.event for note in pa.notes if note.event.startswith("state")] == ["states_differ"]
    pa.told(pa.says("PC", say.promise(run, ballot)))
    assert "diverged" in [note.event for note in pa.notes] and not doubts(pa)
    assert "fetch state -1 from PA" in [describe(effect) for effect in pa.skip()]


def test_those_of_whom_there_are_more_keep_theirs() -> None:
    """SPEC K6: of five voters two are away, and one is wrong: it finds that out when it leads."""
    run, pa = host("PA", "PB", "PC", "PD", "PE", digest=hash_of("most"), absent=("PD", "PE"))
    promised(run, pa, PB=hash_of("most"), PC=WRONG)
    assert "states_differ" in [note.event for note in pa.notes] and not doubts(pa) and pa.node.catchup.has_state
    run, pa = host("PA", "PB", "PC", "PD", "PE", absent=("PD", "PE"))
    assert "fetch state -1 from PA" in promised(run, pa, PB=run.state, PC=run.state)


@pytest.mark.parametrize(("own", "holds"), [((1,), True), ((), True), ((0,), False)])
def test_a_state_that_nothing_here_leads_to_is_kept(own: tuple[int, ...], holds: bool) -> None:
    """SPEC K6: there is none here that is proven, or an update is gone. With it the only copy might be lost."""
    run, pa = host(*THREE, absent=("PC",), own=own, holds=holds)
    assert not any("fetch state" in done for done in promised(run, pa, PB=run.state))
    assert not doubts(pa) and pa.node.catchup.has_state


def test_it_is_done_once() -> None:
    """SPEC K6: what the same bytes lead to twice they lead to again."""
    run, pa = host(*THREE, absent=("PC",))
    promised(run, pa, PB=OTHER)
    reworked(run, pa, WRONG)
    pa.work()
    promised(run, pa, PB=OTHER)
    promised(run, pa, PB=OTHER)
    assert doubts(pa) == 1 and not pa.node.halted
    assert sum(1 for note in pa.notes if note.event == "states_differ") == 3


def test_when_all_differ_still_it_stops_loudly() -> None:
    """SPEC A4, N5: in the third attempt that it leads. Each of the others has had its turn to work its own out."""
    run, pa = host(*THREE)
    ballot = leads(pa)
    for peer, state in {"PB": OTHER, "PC": run.state}.items():
        pa.told(pa.says(peer, say.promise(run, ballot, state=state)))
    assert "fetch state -1 from PA" in [describe(effect) for effect in pa.skip()]  # nobody is left to settle it
    reworked(run, pa, WRONG)
    pa.work()
    promised(run, pa, PB=OTHER, PC=run.state)
    assert not pa.node.halted
    assert promised(run, pa, PB=OTHER, PC=run.state) == [
        "halt: no quorum of the voters agrees on the state after round 1"
    ]
    assert pa.node.halted and pa.node.handle(ev.Tick(), pa.now) == []


def test_of_two_the_senior_doubts_its_own_state_too() -> None:
    """SPEC A4, K6: alone it is a quorum, but not right by that."""
    run, pa = host("PA", "PB")
    ballot = leads(pa)
    pa.told(pa.says("PB", say.promise(run, ballot)))
    assert "fetch state -1 from PA" in [describe(effect) for effect in pa.skip()]
    (said,) = [note.text for note in pa.notes if note.event == "states_differ"]
    assert "of 2 voters as many stand on another state as here" in said
    assert pa.node.round.leading.attempt is None
    reworked(run, pa, run.state)
    pa.work()
    ballot = leads(pa)
    pa.told(pa.says("PB", say.promise(run, ballot)))
    assert sorted(pa.one(ef.StartTransfer).members) == ["PA", "PB"]


def test_whose_own_word_is_a_quorum_goes_on_with_what_it_came_to_again() -> None:
    run, pa = host("PA", "PB")
    pa.told(pa.says("PB", say.promise(run, leads(pa), state=OTHER))).skip()
    reworked(run, pa, WRONG)
    pa.work()
    pa.told(pa.says("PB", say.promise(run, leads(pa), state=OTHER)))
    assert pa.one(ef.StartTransfer).members == ("PA",) and doubts(pa) == 1


def test_whose_own_word_is_a_quorum_goes_on_at_once_if_it_cannot_come_to_its_state_again() -> None:
    run, pa = host("PA", "PB", own=())
    pa.told(pa.says("PB", say.promise(run, leads(pa), state=OTHER)))
    assert pa.one(ef.StartTransfer).members == ("PA",) and not doubts(pa)


def after(run: History, pa: Host) -> Entry:
    """The next record, decided by the two others, with its update."""
    entry = run.decide_entry(run.certify(say.proposal(run, "PA", "PB"), ["PB", "PC"]))
    pa.told(pa.says("PB", m.Commit(entry)), ev.UpdateHeld(entry.record.update_root))
    return entry


def back(run: History, pa: Host, *, head: bool = True) -> None:
    """It has worked out its state up to the head, or up to the round before."""
    if not pa.node.catchup.has_state:
        pa.told(ev.SnapshotInstalled(-1, run.states[-1]))
        pa.told(*(ev.Applied(round_, run.states[round_]) for round_ in range(run.head.round + head)))


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("decided", [False, True])
def test_who_always_stands_elsewhere_is_not_heeded_for_ever(flips: bool, decided: bool) -> None:
    """SPEC K6: its word costs nothing, and a state that is worked out again costs a round's work; unless that was
    wrong. The others vote, and may have decided meanwhile."""
    run, pa = host(*THREE, digest=WRONG if flips else None, absent=("PC",))
    seen = []
    for _ in range(limits.DIVERGENCES_MAX + 2):
        promised(run, pa, PB=OTHER)
        if decided:
            after(run, pa)
            back(run, pa, head=False)
        else:
            back(run, pa)
            after(run, pa)
        seen.append(doubts(pa))
        pa.told(ev.Applied(run.head.round, WRONG if flips else run.state)).work().told(pa.ready("PB"))
    assert seen == [1, 2, 3, *([4, 5] if flips else [3, 3])]


def test_doubts_in_vain_are_forgotten_after_many_rounds() -> None:
    """SPEC K6: years of a run may have three bits that flip elsewhere."""
    run, pa = host(*THREE, digest=None, absent=("PC",))
    for many in [1, 1, 1, limits.DOUBTS_KEPT_ROUNDS, 1]:
        promised(run, pa, PB=OTHER)
        back(run, pa)
        for _ in range(many):
            after(run, pa)
            pa.told(ev.Applied(run.head.round, run.state)).skip()
        pa.work().told(pa.ready("PB"))
    assert doubts(pa) == 4


def test_a_state_that_its_own_record_proves_is_not_doubted() -> None:
    """SPEC K6, R7: after the opening, as after a roster's record, the state is the one that the record names."""
    run, pa = host(*THREE, rounds=0, digest=None, absent=("PC",))
    done = promised(run, pa, PB=OTHER)
    assert "states_differ" in [note.event for note in pa.notes]
    assert not doubts(pa) and not any("fetch state" in line for line in done)
    wrong = Host(swarm(*THREE), applied_digest=WRONG)  # and a host that stands elsewhere knows that it is wrong
    assert not wrong.node.catchup.has_state


def test_a_state_on_which_it_has_accepted_a_value_is_not_doubted() -> None:
    """SPEC K6: a quorum reported that one then, and what it accepted may be decided."""
    run, pa = host(*THREE, digest=None, absent=("PC",))
    ballot = leads(pa)
    pa.told(pa.says("PB", say.promise(run, ballot)))
    pa.told(pa.after(limits.PROMISE_GRACE_S))
    members = pa.one(ef.StartTransfer).members
    pa.told(pa.says("PB", say.result(run, "PB", *members)), say.ended(run, *members))
    assert "accepted 0.PA" in " ".join(describe(effect) for effect in pa.skip())
    promised(run, pa, PB=OTHER)
    assert "states_differ" in [note.event for note in pa.notes] and not doubts(pa)


def test_of_two_the_junior_leaves_the_senior_an_attempt_before_it_gives_way() -> None:
    """SPEC A4: the senior is a quorum, and may be wrong. Were the junior to fetch a state at once, the senior would
    lead alone meanwhile, and find out nothing. The attempt is waited for, so that the next begins alone (A11)."""
    run = swarm("PB", "PA", rounds=1, config=run_config(grace_max_s=1.0))
    pa = Host(run, applied_digest=WRONG, held_updates=(run.entries[1].record.update_root,))
    pa.told(ev.SnapshotsHeld((0,), 0)).meet("PB").work().told(pa.ready("PB"))
    first = leads(pa)
    pa.told(pa.says("PB", say.promise(run, first))).told(pa.after(1.0)).skip()
    assert pa.node.catchup.has_state and pa.node.round.leading.attempt is not None
    again = leads(pa)
    assert again.attempt == first.attempt + 2  # the one between is the senior's
    pa.told(pa.says("PB", say.promise(run, again)))
    assert "fetch state -1 from PA" in [describe(effect) for effect in pa.skip()]
    assert "diverged" in [note.event for note in pa.notes] and not doubts(pa)
