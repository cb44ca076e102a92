"""The owner's word: for whom a daemon drafts it, and whose vote counts in the branch that it opens. SPEC G5, G9."""

from typing import Any

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.branch import branch_bytes
from intellectd.protocol.ids import Ballot
from intellectd.protocol.manifest import config_from_toml
from intellectd.protocol.records import Certificate, Entry, Vote
from intellectd.protocol.recovery import NoRecovery
from tests.protocol.history import RUN, TIMERS, History
from tests.protocol.playbook import Host
from tests.protocol.test_branching import history
from tests.sim.tags import TagCrypto

FORGOT: dict[str, Any] = {"state": "abstaining", "leaving": True, "lineage": m.Lineage(0, 0, 600, False, False)}


def owners_word(host: Host) -> Entry:
    record, blob = host.node.recovery_draft(host.now)
    vote = Vote("KEY", TagCrypto("KEY").sign(branch_bytes(RUN, record)))
    return Entry(record, blob, Certificate(Ballot(0, host.peer), [vote]))


def test_the_owner_recovers_a_run_whose_voters_have_all_lost_their_journals() -> None:
    """SPEC G5, G9, A13: their keys, logs and states are left, the memory of their votes is not."""
    run = history("wait")
    pa, pb = Host(run, vote=None), Host(run, "PB", vote=None, incarnation=7)
    pa.told(ev.TrainerAttached(None), pa.after(20.0), pa.beacon("PB", **FORGOT, incarnation=7))
    assert pa.node.seat.lost
    entry = owners_word(pa)
    assert (entry.record.next_voters, entry.blob.lives) == (["PA", "PB"], [1, 7])
    pa.skip()
    pa.told(ev.RecoverySigned(entry))
    mark, logged = [e for e in pa.skip() if isinstance(e, ef.PersistVote | ef.AppendEntry)]
    assert isinstance(mark, ef.PersistVote) and isinstance(logged, ef.AppendEntry), "the journal begins before the log"
    assert not pa.node.seat.lost and pa.node.round.parts.acceptor.votes
    pb.told(pb.says("PA", m.Commit(entry)))
    assert pb.one(ef.PersistVote).at.generation == entry.record.generation and not pb.node.seat.lost


def test_a_life_that_has_forgotten_a_recovery_does_not_vote_in_it_again() -> None:
    """SPEC G9: what the owner signed comes back from others, and names the life that voted."""
    run = history("wait")
    pa = Host(run, vote=None)
    pa.told(ev.TrainerAttached(None), pa.after(20.0)).skip()
    entry = owners_word(pa)
    again = Host(run, vote=None, incarnation=2)
    again.told(again.says("PB", m.Commit(entry)))
    assert not [e for e in again.skip() if isinstance(e, ef.PersistVote)]
    assert again.node.head.generation == entry.record.generation and again.node.seat.lost


def test_a_recovery_names_who_remembers_alone_if_those_are_enough() -> None:
    """SPEC G5: the others get new seats when they contribute."""
    run = history("wait")
    pa = Host(run)
    pa.told(ev.TrainerAttached(None), pa.after(20.0), pa.beacon("PB", **FORGOT)).skip()
    assert owners_word(pa).record.next_voters == ["PA"]


def test_a_run_that_has_not_begun_is_recovered_too() -> None:
    """SPEC G5, G9: its founder is gone, and PD has the first parameters."""
    run = History()
    pd = Host(run, "PD", vote=None)
    pd.told(ev.TrainerAttached(None), pd.after(20.0)).skip()
    pd.told(ev.RecoverySigned(owners_word(pd)))
    assert (pd.node.head.voters, pd.node.head.round, pd.node.seat.lost) == (["PD"], 0, False)


def test_a_record_whose_update_is_lost_is_given_up_by_the_owners_word() -> None:
    """SPEC G5, G9: PB had it alone and lost its disk; it has the records again, and the state before them."""
    run = history("wait")
    here = {"applied": 1, "lineage": m.Lineage(0, 0, 600, False, False)}
    pa, pb = Host(run, applied=1), Host(run, "PB", applied=1, vote=None, incarnation=7)
    pa.told(ev.TrainerAttached(None), pa.after(20.0))
    pa.told(pa.beacon("PB", **{**FORGOT, **here}, incarnation=7), pa.beacon("PD", state="synced", **here)).skip()
    entry = owners_word(pa)
    assert (entry.record.round, entry.record.parent) == (2, run.heads[1].hash)
    assert entry.blob.lives == [1, 7, 1] and entry.record.next_voters == ["PA", "PB", "PD"]
    pa.told(ev.RecoverySigned(entry))
    mark, rebase = [e for e in pa.skip() if isinstance(e, ef.PersistVote | ef.Rebase)]
    assert isinstance(mark, ef.PersistVote) and isinstance(rebase, ef.Rebase), "the journal begins before the log"
    assert (rebase.round, rebase.entries, pa.node.head.round) == (1, (entry,), 2)
    assert not pa.node.seat.lost and pa.node.round.parts.acceptor.votes

    claim = m.Lineage(1, 1, 600, False, True)
    pb.told(pb.beacon("PA", generation=entry.record.generation, head=pa.node.head.hash, lineage=claim))
    asked = [e for e in pb.skip() if isinstance(e, ef.AskEntries)]
    while asked and pb.node.head.generation != entry.record.generation:
        newer = tuple(e for e in (*run.entries[:2], entry) if e.record.round >= asked[-1].from_round)
        pb.told(ev.EntriesReceived("PA", newer, asked[-1].generation))
        done = pb.skip()
        asked = [e for e in done if isinstance(e, ef.AskEntries)]
    marks = [e for e in done if isinstance(e, ef.PersistVote | ef.Rebase)]
    assert [type(e) for e in marks] == [ef.PersistVote, ef.Rebase] and not pb.node.seat.lost


def test_no_record_is_given_up_whose_update_somebody_has() -> None:
    """SPEC G5: nor once it has come after all."""
    run = history("wait")
    pa = Host(run, applied=1)
    pa.told(ev.TrainerAttached(None), pa.after(20.0), pa.beacon("PD", state="synced")).skip()
    with pytest.raises(NoRecovery, match="PD has the state after round 2: ask there"):
        pa.node.recovery_draft(pa.now)
    pa = Host(run, applied=1)
    pa.told(ev.TrainerAttached(None), pa.after(20.0)).skip()
    entry = owners_word(pa)
    pa.told(ev.UpdateHeld(run.entries[2].record.update_root)).skip()
    with pytest.raises(NoRecovery, match="has the update of round 2 and is about to apply it"):
        pa.node.recovery_draft(pa.now)
    pa.told(ev.Applied(2, run.states[2])).skip()
    pa.told(ev.RecoverySigned(entry))
    assert "gone on since it was drafted" in pa.notes[-1].text and not pa.skip()


def test_a_quorum_that_nobody_can_bring_further_is_recovered_too() -> None:
    """SPEC G5: all voters are here, and the newest update is lost, as by one damaged file in a run of one host."""
    run = history("wait")
    pa, before = Host(run, applied=1).told(ev.TrainerAttached(None)), {"applied": 1}
    for _ in range(5):
        pa.told(pa.beacon("PB", **before), pa.beacon("PC", **before)).told(pa.after(10.0)).skip()
    with pytest.raises(NoRecovery, match="a quorum of the voters is here"):
        pa.node.recovery_draft(pa.now)
    assert pa.node.lost_update(pa.now) is None
    for _ in range(2):
        pa.told(pa.beacon("PB", **before), pa.beacon("PC", **before)).told(pa.after(10.0)).skip()
    assert pa.node.branching.led and pa.node.lost_update(pa.now) == 2
    entry = owners_word(pa)
    assert (entry.record.round, entry.record.parent) == (2, run.heads[1].hash)
    pa.told(ev.RecoverySigned(entry))
    assert pa.one(ef.Rebase).round == 1 and pa.node.head.voters == ["PA", "PB", "PC"]
    pb = Host(run, "PB").told(ev.TrainerAttached(None)).told(pa.after(70.0))
    pb.told(pb.beacon("PA"), pb.beacon("PC")).skip()
    with pytest.raises(NoRecovery, match="a quorum of the voters is here"):
        pb.node.recovery_draft(pb.now)


def test_a_draft_gives_up_no_record_that_came_after_it() -> None:
    """SPEC G5: the owner was not shown that; it is so wherever the draft stood."""
    run = history("wait")
    pa = Host(run, applied=1, entries=run.entries[:2])
    pa.told(ev.TrainerAttached(None), pa.after(20.0)).skip()
    at_the_head = owners_word(pa)
    pa.told(ev.EntriesReceived("PB", tuple(run.entries[2:]))).skip()
    assert pa.node.head.round == 2
    pa.told(ev.RecoverySigned(at_the_head))
    assert "gone on since it was drafted" in pa.notes[-1].text and pa.node.head.hash == run.head.hash
    further_back = owners_word(pa)
    run.round("PA", "PB", "PC")
    pa.told(ev.EntriesReceived("PB", tuple(run.entries[3:])))
    pa.told(ev.RecoverySigned(further_back))
    assert "gone on since it was drafted" in pa.notes[-1].text and pa.node.head.round == 3


def test_another_look_does_not_void_what_the_owners_are_signing() -> None:
    """SPEC G5: PC was unheard for a moment when somebody asked again; both drafts were shown, of one head."""
    run, here = history("wait"), {"applied": 1, "lineage": m.Lineage(0, 0, 600, False, False)}
    pa = Host(run, applied=1).told(ev.TrainerAttached(None))
    pa.told(pa.after(65.0), pa.beacon("PB", **here), pa.beacon("PC", **here), pa.after(1.0)).skip()
    first = owners_word(pa)
    pa.told(pa.after(20.0), pa.beacon("PB", **here)).skip()
    second = owners_word(pa)
    assert (first.record.round, len(first.record.next_voters), len(second.record.next_voters)) == (2, 3, 2)
    pa.told(ev.RecoverySigned(first))
    assert pa.one(ef.Rebase).round == 1 and pa.node.head.voters == ["PA", "PB", "PC"]


def test_nothing_before_an_earlier_recovery_is_gone_back_to() -> None:
    """SPEC G5, G6: the line that was left then would stand above the new one."""
    run = history("wait")
    pa = Host(run, applied=1)
    pa.told(ev.TrainerAttached(None), pa.after(20.0)).skip()
    later = [*run.entries[:2], owners_word(pa)]
    again = Host(run, applied=1, entries=later, vote=None, incarnation=2)  # the voter has forgotten that it is one
    again.told(ev.TrainerAttached(None), again.after(20.0)).skip()
    assert (again.node.head.recoveries, again.node.head.round) == (1, 2)
    again.node.catchup.applied, again.node.catchup.applying = 1, None  # as one that cannot apply the branch's record
    with pytest.raises(NoRecovery, match="the run was recovered after round 1, and no later state is left here"):
        again.node.recovery_draft(again.now)


def test_a_boast_keeps_no_owner_from_a_recovery() -> None:
    """SPEC G5, K1: of who claims to have more of the log than there is, nothing comes; of who has it, it does."""
    run = history("wait")
    pa = Host(run, entries=run.entries[:2], applied=1)
    pa.told(ev.TrainerAttached(None), pa.after(20.0), pa.beacon("PD", head_round=900, state="synced"))
    assert pa.one(ef.AskEntries).peer == "PD"
    with pytest.raises(NoRecovery, match="a peer here has round 900 already"):
        pa.node.recovery_draft(pa.now)
    pa.told(ev.CallFailed("PD", "entries", "it does not answer", run.head.generation)).skip()
    assert owners_word(pa).record.next_voters == ["PA"]

    pa.told(pa.beacon("PE", state="synced")).skip()
    with pytest.raises(NoRecovery, match="a peer here has round 2 already"):
        pa.node.recovery_draft(pa.now)
    asked = pa.told(pa.after(0.6)).one(ef.AskEntries)
    assert asked.peer == "PE", "who boasted is asked last"
    pa.told(pa.beacon("PD", head_round=901, state="synced"))
    pa.told(ev.EntriesReceived("PE", tuple(run.entries[2:]), run.head.generation)).skip()
    assert pa.node.head.round == 2
    pa.told(ev.UpdateHeld(run.entries[2].record.update_root), ev.Applied(2, run.states[2])).skip()
    assert owners_word(pa).record.parent == run.head.hash, "a greater boast is no news"


def test_why_there_is_nothing_to_recover() -> None:
    """SPEC G5."""
    run = history("wait")
    pa = Host(run)
    pa.told(ev.TrainerAttached(None), pa.after(20.0), pa.beacon("PD", head_round=5, state="synced")).skip()
    with pytest.raises(NoRecovery, match="a peer here has round 5 already, and this host only round 2"):
        pa.node.recovery_draft(pa.now)
    wiped = Host(run, applied=-2, entries=[], vote=None).told(ev.Tick())
    with pytest.raises(NoRecovery, match="does not have the first parameters yet"):
        wiped.node.recovery_draft(wiped.now)
    config = config_from_toml({"name": "x", "swarm": {"start_peers": 2, "min_peers": 2}, "timers": TIMERS})
    run = History(config)
    run.opening("PA", "PB")
    pa = Host(run, "PB")
    pa.told(ev.TrainerAttached(None), pa.after(20.0)).skip()
    with pytest.raises(NoRecovery, match="1 of 2 peers that the run asks for are here"):
        pa.node.recovery_draft(pa.now)
