"""A voter that lost the memory of its votes gives its seat up; one that took it knowingly keeps it. SPEC A13."""

from dataclasses import replace

import msgspec

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.branch import fork
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Beacon, Relay
from intellectd.protocol.records import record_hash
from intellectd.protocol.seat import NO_BALLOT, Seat, first_mark
from tests.protocol import puppets as say
from tests.protocol.history import History, run_config
from tests.protocol.playbook import Host, opened, swarm
from tests.sim.tags import TagCrypto

FIRST = Ballot(0, "PB")


def said(host: Host) -> Beacon:
    beacon = opened(host.beacons[-1])
    assert isinstance(beacon, Beacon)
    return beacon


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


def test_it_does_not_vote_even_if_asked_before_all_else() -> None:
    run = swarm("PB", "PA", "PC")
    for asked in (say.prepare(run, FIRST), say.accept(run, FIRST, say.proposal(run, "PB", "PC"))):
        pa = Host(run, vote=None)
        pa >> pa.says("PB", asked)
        pa.silent()


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


def test_who_stands_where_voters_have_voted_may_have_lived_further_on() -> None:
    """PB has accepted round 2, which gives PA a seat, and heard no more. PA has: it promised in round 3, and forgot."""
    run = History(run_config(), founder="PB")
    run.opening("PB", "PC")
    before = run.round("PB", "PC", able=["PA", "PB", "PC"])
    log = list(run.entries)
    seated = run.round("PA", "PB", "PC")
    order = leader_order(run.head.voters, run.head.hash)
    asked = [say.prepare(run, Ballot(order.index(peer), peer)) for peer in order if peer != "PA"]
    lived = Host(run, vote=first_mark(run.heads[1]))
    lived >> lived.says(asked[1].ballot.leader, asked[1])
    lived << f"on disk: promised {asked[1].ballot.attempt}.{asked[1].ballot.leader}"
    lived.skip()

    stands = {"head_round": 1, "head": record_hash(before.record), "applied": 1}
    pa = Host(run, entries=log, vote=None, applied=1, applied_digest=run.states[1])
    pa >> pa.beacon("PB", **stands, voted=True)  # PB is the senior of two: a quorum
    pa >> ev.MessageReceived("PB", pa.sealed("PB", seated))
    pa << "log: round 2 by PA+PB+PC"
    pa.told(ev.UpdateHeld(seated.record.update_root), ev.Applied(2, run.states[2])).skip()
    pa >> pa.says(asked[0].ballot.leader, asked[0])
    pa.silent()

    unaware = Host(run, entries=log, vote=None, applied=1, applied_digest=run.states[1])
    unaware >> unaware.beacon("PB", **stands)
    unaware << "on disk: promised 0.11"


def test_what_a_third_has_kept_of_the_voters_begins_no_journal() -> None:
    """SPEC A13: PD, no voter, kept what PB said before it voted, and shows it to PA, which forgot its life of then."""
    run = History(run_config(), founder="PB")
    run.opening("PB", "PC")
    run.round("PB", "PC", able=["PA", "PB", "PC"])

    def newcomer() -> Host:
        return Host(run, vote=None)

    pa = newcomer()
    pa.told(*(pa.says("PD", Relay("PA", pa.beacon("PB").data)) for _ in range(2))).silent()
    pa >> pa.beacon("PB")
    pa << "on disk: promised 0.11"

    pa = newcomer()
    pa >> pa.says("PC", Relay("PA", pa.beacon("PB").data))  # a voter tells what has just come
    pa << "on disk: promised 0.11"

    pa = newcomer()  # as long as PB lives, what others show of that life is newer than what it said to PA itself
    pa >> pa.beacon("PB", voted=True)
    pa >> ev.MembersReceived("PD", (pa.beacon("PB").data,))
    pa << "on disk: promised 0.11"

    pa = newcomer()  # but not of one before it, from when its clock was not set back yet
    pa >> pa.beacon("PB", voted=True)
    pa >> ev.MembersReceived("PD", (pa.beacon("PB", incarnation=9).data,))
    pa.silent()


def test_a_voter_says_that_it_has_voted_until_the_record_is_here() -> None:
    """With every beacon, in any life; it is no news for which one is sent."""
    run = swarm("PB", "PA", "PC")
    value = say.proposal(run, "PB", "PC")
    pa = Host(run).meet("PB", "PC")
    pa.told(ev.UpdateHeld(value.record.update_root), pa.after(6))
    assert not said(pa).voted
    pa.told(pa.says("PB", say.accept(run, FIRST, value)))
    vote = pa.one(ef.PersistVote)
    pa.told(pa.after(6)).skip()
    assert said(pa).voted
    later = Host(run, vote=vote).meet("PB")
    later.told(later.after(1)).skip()
    assert said(later).voted
    decided = run.decide(value)
    pa.told(ev.MessageReceived("PB", pa.sealed("PB", decided)))
    pa.told(pa.after(6)).skip()
    assert pa.node.head.round == 1 and not said(pa).voted
    behind = Host(run, vote=first_mark(run.heads[1]), entries=run.entries[:1], applied=0).meet("PB")
    behind.told(behind.after(1)).skip()
    assert said(behind).voted, "its log was cut: it may have voted in any round since"


def test_a_seat_on_the_line_it_switches_to_counts_if_its_journal_is_older_than_where_they_part() -> None:
    """SPEC G9: PB names PA in its branch, while PA opens its own; were the seat lost, neither could go on."""
    run = History(run_config(), founder="PB")
    run.opening("PA", "PB", "PC")
    base = run.head
    run.decide_entry(fork(base, ["PA", "PB"], run.state, "PB", TagCrypto("PB")))
    branched = run.head
    run.decide_entry(run.certify(say.proposal(run, "PA", "PB"), ["PB"]))
    run.decide_entry(fork(run.head, ["PA", "PB"], run.state, "PA", TagCrypto("PA")))
    line = [run.heads[r] for r in range(base.round, run.head.round + 1)]

    def switched(peer: str, *votes: ef.PersistVote) -> tuple[list[ef.PersistVote | ef.Note], bool]:
        seat = Seat(peer, 1, base, {vote.at.generation: vote for vote in votes})
        return seat.on_switch(line), seat.lost

    mark = first_mark(base)
    assert switched("PA", mark) == ([first_mark(branched), first_mark(line[-1])], False)
    further = replace(mark, at=msgspec.structs.replace(mark.at, round=mark.at.round + 1))
    assert switched("PA", further) == ([], True)
    assert switched("PA") == ([], True)
    assert switched("PX", mark)[0] == [], "of no voter it may have begun here, beside a life of before"
    earlier = replace(mark, at=msgspec.structs.replace(mark.at, round=base.round))
    assert switched("PX", earlier)[0] == [first_mark(branched), first_mark(line[-1])]


def test_the_founders_journal_begins_with_the_run() -> None:
    """A founder without one is in another life, though it holds the first parameters: others gave them back to it."""
    run = History(run_config())
    assert Seat("PA", 1, run.head, {}).lost
    assert not Seat("PA", 1, run.head, {run.head.generation: first_mark(run.head)}).lost
