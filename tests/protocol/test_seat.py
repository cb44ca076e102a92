"""A voter that lost the memory of its votes gives its seat up; one that took it knowingly keeps it. SPEC A13."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import Ballot
from intellectd.protocol.seat import NO_BALLOT, Seat
from tests.protocol import puppets as say
from tests.protocol.history import History, run_config
from tests.protocol.playbook import Host, opened, swarm

FIRST = Ballot(0, "PB")


def test_without_a_journal_it_does_not_vote_and_asks_to_be_let_go() -> None:
    run = swarm("PB", "PA", "PC")
    pa = Host(run, vote=None)
    pa.told(pa.beacon("PB"), pa.beacon("PC"), pa.after(1)).silent()
    said = opened(pa.beacons[-1])
    assert said.leaving is True
    pa >> pa.says("PB", say.prepare(run, FIRST))
    pa >> pa.says("PB", say.accept(run, FIRST, say.proposal(run, "PB", "PC")))
    pa.silent()
    assert pa.node.round.reason.startswith("this host's votes are lost")


def test_it_votes_again_after_a_record_without_it_and_one_with_it() -> None:
    run = swarm("PB", "PA", "PC")
    pa = Host(run, vote=None)
    pa.told(ev.TrainerAttached(None)).skip()
    without = run.round("PB", "PC", able=["PA", "PB", "PC"], gone=["PA"])
    pa.told(ev.MessageReceived("PB", pa.sealed("PB", without)))
    assert not pa.node.seat.lost and isinstance(pa.skip()[0], ef.AppendEntry)
    pa.told(ev.UpdateHeld(without.record.update_root), ev.Applied(1, run.states[1])).skip()
    anew = run.round("PA", "PB", "PC")
    pa >> ev.MessageReceived("PB", pa.sealed("PB", anew))
    pa << "on disk: promised 0.11" << "log: round 2 by PA+PB+PC"
    assert pa.node.head.voters == ["PB", "PC", "PA"] and pa.node.round.parts.acceptor.votes


def test_reading_of_an_old_seat_while_catching_up_is_the_same_as_losing_the_journal() -> None:
    run = swarm("PB", "PA", "PC", rounds=2)
    pa = Host(run, applied=-2, entries=[], vote=None)
    pa.told(pa.beacon("PB"), ev.EntriesReceived("PB", tuple(run.entries)))
    assert pa.node.seat.lost


def test_the_journal_of_any_life_will_do() -> None:
    """It is durable before the record that seats us, so a crash in between loses nothing."""
    run = swarm("PB", "PA", "PC")
    pa = Host(run, vote=ef.PersistVote(run.heads[-1].at, NO_BALLOT, None, None)).meet("PB", "PC")
    pa >> pa.says("PB", say.prepare(run, FIRST))
    pa << "on disk: promised 0.PB" << "to PB: promise 0.PB"


def test_a_newcomer_that_crashed_before_it_learned_of_its_seat() -> None:
    """Its log reaches the round before: it may well have contributed to this one."""
    run = History(run_config(), founder="PB")
    run.opening("PB")
    run.round("PB", able=["PA", "PB"])
    log = list(run.entries)
    seated = run.round("PA", "PB")
    pa = Host(run, applied=0, entries=log, vote=None, applied_digest=run.states[0])
    pa.told(ev.MessageReceived("PB", pa.sealed("PB", seated)))
    assert [type(effect).__name__ for effect in pa.skip()][:2] == ["PersistVote", "AppendEntry"]
    assert not pa.node.seat.lost


def test_the_founder_needs_no_journal_before_the_opening() -> None:
    run = History(run_config())
    assert not Seat("PA", run.head, -1, None).lost
    assert Seat("PA", run.head, -2, None).lost, "it has not even the first parameters: this is another life"
