"""A voter that lost the memory of its votes gives its seat up; one that took it knowingly keeps it. SPEC A13."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.ids import Ballot
from intellectd.protocol.records import record_hash
from intellectd.protocol.seat import NO_BALLOT, Seat, first_mark
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
    assert pa.node.state == "synced", "nobody names it before it has a journal"
    pa >> pa.beacon("PB")
    pa << "on disk: promised 0.11"
    anew = run.round("PA", "PB", "PC")
    pa >> ev.MessageReceived("PB", pa.sealed("PB", anew))
    pa << "log: round 2 by PA+PB+PC"
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
    """Its journal began when it stood where the voters stand: it may well have contributed to this round."""
    run = History(run_config(), founder="PB")
    run.opening("PB")
    run.round("PB", able=["PA", "PB"])
    log = list(run.entries)
    seated = run.round("PA", "PB")
    before = Host(run, applied=1, entries=log, vote=None, applied_digest=run.states[1])
    before.told(before.beacon("PB", head_round=1, applied=1, head=record_hash(log[-1].record)))
    mark = next(effect for effect in before.skip() if isinstance(effect, ef.PersistVote))
    pa = Host(run, applied=0, entries=log, vote=mark, applied_digest=run.states[0])
    pa.told(ev.MessageReceived("PB", pa.sealed("PB", seated)))
    assert not pa.node.seat.lost


def test_a_crash_while_it_reads_of_an_old_seat_does_not_make_it_a_new_one() -> None:
    """What is in its log it has only read as well, though that reaches the round before the seat."""
    log = History(run_config(), founder="PB")
    log.opening("PB")
    log.round("PB", able=["PA", "PB"])
    read = list(log.entries)
    seated = log.round("PA", "PB")
    pa = Host(log, applied=-2, entries=read, vote=None)
    pa.told(ev.MessageReceived("PB", pa.sealed("PB", seated)))
    assert pa.node.seat.lost


def test_the_founders_journal_begins_with_the_run() -> None:
    """A founder without one is in another life, though it holds the first parameters: others gave them back to it."""
    run = History(run_config())
    assert Seat("PA", 1, run.head, {}).lost
    assert not Seat("PA", 1, run.head, {run.head.generation: first_mark(run.head)}).lost
