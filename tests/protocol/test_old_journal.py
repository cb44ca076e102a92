"""A journal that is older than what its host has voted: a folder that was restored from a backup, or copied. SPEC A13.

The voter does not know what it accepted in the decision that comes next. Certificates show it that it has voted since.
"""

from typing import Any

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.branch import fork
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot
from intellectd.protocol.messages import Beacon
from intellectd.protocol.records import Entry, Proposal
from intellectd.protocol.seat import Seat, first_mark
from tests.protocol import puppets as say
from tests.protocol.history import History, run_config
from tests.protocol.playbook import Host, journal_of, opened, swarm
from tests.sim.tags import TagCrypto


def lived_on(*signers: str, rounds: int = 2) -> tuple[History, dict[str, Any]]:
    """A run that has gone on since PA's folder was copied, right after the opening; and what is in that copy."""
    run = swarm("PB", "PA", "PC")
    copy = {"entries": list(run.entries), "applied": 0, "vote": journal_of(run, "PA"), "applied_digest": run.states[0]}
    for _ in range(rounds):
        run.decide_entry(run.certify(say.proposal(run, "PB", "PC", able=["PA", "PB", "PC"]), signers))
    return run, copy


def caught_up(pa: Host, run: History, since: int) -> Host:
    """It reads and applies the rounds from there on, and stands at the head."""
    pa.told(pa.beacon("PB"), ev.EntriesReceived("PB", tuple(run.entries[since:])))
    for entry in run.entries[since:]:
        root, round_ = entry.record.update_root, entry.record.round
        pa.told(ev.UpdateHeld(root), ev.Applied(round_, run.states[round_]))
    return pa


def test_who_reads_of_a_vote_that_its_journal_lacks_votes_no_more() -> None:
    run, copy = lived_on("PA", "PB")
    pa = caught_up(Host(run, **copy), run, 1)
    assert [note.event for note in pa.notes if note.level == "error"] == ["journal_old"], "it is said once"
    pa.told(pa.after(6)).skip()
    said = opened(pa.beacons[-1])
    assert isinstance(said, Beacon) and said.leaving and said.state == "abstaining"
    pa >> pa.says("PB", say.prepare(run, run_ballot(run)))
    pa.silent()


def test_who_reads_of_votes_of_others_keeps_its_seat() -> None:
    run, copy = lived_on("PB", "PC")
    pa = caught_up(Host(run, **copy), run, 1)
    pa.skip()
    assert not pa.node.seat.lost
    pa.told(pa.says(run_ballot(run).leader, say.prepare(run, run_ballot(run))))
    assert pa.one(ef.PersistVote).promised == run_ballot(run)


def test_what_the_journal_knows_of_is_no_reason() -> None:
    """It crashed after its vote, and reads the record that came of it, in that ballot or a lower one."""
    run, copy = lived_on("PA", "PB", rounds=1)
    for ballot in (run.entries[1].certificate.ballot, Ballot(7, "PB")):
        knows = voted_in(run, run.entries[1], ballot)
        assert not caught_up(Host(run, **{**copy, "vote": knows}), run, 1).node.seat.lost
    mark = first_mark(run.heads[0])
    assert caught_up(Host(run, **{**copy, "vote": mark}), run, 1).node.seat.lost, "a mark knows of no vote"


def test_a_restart_sees_it_in_the_log() -> None:
    """The old journal still lies there; until a newer mark it counts for nothing."""
    run, copy = lived_on("PA", "PB")
    pa = Host(run, vote=copy["vote"])
    assert pa.node.seat.lost
    pa.told(ev.TrainerAttached(None)).skip()
    without = run.decide_entry(run.certify(say.proposal(run, "PB", "PC", able=["PB", "PC"], gone=["PA"]), ["PB", "PC"]))
    pa.told(ev.MessageReceived("PB", pa.sealed("PB", without)))
    pa.told(ev.UpdateHeld(without.record.update_root), ev.Applied(3, run.states[3])).skip()
    assert not pa.node.seat.lost and pa.node.state == "synced", "nobody names it before its journal begins anew"
    pa.told(pa.beacon("PB"), pa.beacon("PC"))
    mark = pa.one(ef.PersistVote)
    assert mark == first_mark(run.head)
    seated = run.decide_entry(run.certify(say.proposal(run, "PA", "PB", "PC"), ["PB", "PC"]))
    again = Host(run, vote=mark)
    assert seated.record.next_voters == ["PB", "PC", "PA"] and not again.node.seat.lost


def test_an_old_seat_that_it_reads_of_is_not_a_new_one() -> None:
    """Between the vote that it forgot and the head it lost its seat and got another: in that it may have voted, too."""
    run, copy = lived_on("PA", "PB", rounds=1)
    run.decide_entry(run.certify(say.proposal(run, "PB", "PC", able=["PA", "PB", "PC"], gone=["PA"]), ["PB", "PC"]))
    run.decide_entry(run.certify(say.proposal(run, "PA", "PB", "PC"), ["PB", "PC"]))
    assert run.head.voters == ["PB", "PC", "PA"]
    assert caught_up(Host(run, **copy), run, 1).node.seat.lost
    assert Host(run, vote=copy["vote"]).node.seat.lost, "after a restart"


def test_a_vote_on_a_line_that_it_switches_to_is_as_good() -> None:
    """SPEC G9: its journal seems older than where the lines part, and is an older copy."""
    run = History(run_config(), founder="PA")
    run.opening("PA", "PB", "PC")
    base, mark = run.head, first_mark(run.head)
    run.decide_entry(fork(base, ["PA", "PB"], run.state, "PB", TagCrypto("PB")))
    run.round("PA", "PB")  # with votes of both
    line = [run.heads[r] for r in range(base.round, run.head.round + 1)]
    seat = Seat("PA", 1, base, {mark.at.generation: mark})
    assert seat.on_switch(line) == [] and seat.lost

    journal = {mark.at.generation: mark, run.head.generation: first_mark(run.heads[1])}
    seat = Seat("PA", 1, base, journal)
    (note,) = seat.on_switch(line)
    assert isinstance(note, ef.Note) and note.event == "journal_old" and seat.lost
    assert list(journal) == [mark.at.generation], "that of the other line is dropped"


def voted_in(run: History, entry: Entry, ballot: Ballot) -> ef.PersistVote:
    """What a voter has on disk that accepted this record in that ballot."""
    value = Proposal(entry.record, entry.blob, [])
    return ef.PersistVote(run.heads[entry.record.round - 1].at, ballot, ballot, value)


def run_ballot(run: History) -> Ballot:
    """The first of the decision that comes next that PA does not lead."""
    order = leader_order(run.head.voters, run.head.hash)
    return next(Ballot(place, peer) for place, peer in enumerate(order) if peer != "PA")
