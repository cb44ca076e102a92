"""One node, a lost quorum, and lines of history that others show it. SPEC G1-G9."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.branch import branch_bytes, branch_record, fork
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, Ballot, hash_of
from intellectd.protocol.manifest import config_from_toml
from intellectd.protocol.records import (
    BadRecord,
    Certificate,
    Entry,
    Proposal,
    Vote,
    blob_hash,
    check_entry,
    record_hash,
)
from intellectd.protocol.trail import Trail
from tests.protocol import puppets as say
from tests.protocol.history import RUN, TIMERS, History, ready_of
from tests.protocol.playbook import NO_BALLOT, Host
from tests.sim.tags import TagCrypto

CRYPTO = TagCrypto("PA")


def history(on_quorum_loss: str = "fork", **recovery: object) -> History:
    """PA, PB and PC, two rounds after the opening."""
    swarm = {"start_peers": 3, "on_quorum_loss": on_quorum_loss}
    run = History(config_from_toml({"name": "x", "swarm": swarm, "timers": TIMERS, "recovery": recovery}))
    run.opening("PA", "PB", "PC")
    run.round("PA", "PB", "PC")
    run.round("PA", "PB", "PC")
    return run


OWNERS = ("KEY", "K1", "K2", "K3")


def signed(head: Head, named: list[str], state: bytes, *signers: str, attempt: int = 0, life: int = 0) -> Entry:
    """A recovery (of these hosts in this life: no host here has 0) if owners sign it, else a fork."""
    lives = dict.fromkeys(named, life) if any(name in OWNERS for name in signers) else None
    record, blob = branch_record(head, named, state, lives)
    votes = [Vote(name, TagCrypto(name).sign(branch_bytes(RUN, record))) for name in signers]
    return Entry(record, blob, Certificate(Ballot(attempt, named[0]), votes))


def test_a_branch_is_a_roster_in_a_generation_of_its_own() -> None:
    """SPEC G1, G2: and the generation says all of it."""
    run = history()
    entry = fork(run.head, ["PC", "PB"], run.state, "PB", TagCrypto("PB"))
    check_entry(run.head, entry, CRYPTO)
    record = entry.record
    assert record.next_voters == ["PB", "PC"] and record.update_root == NO_HASH
    assert (record.parent, record.round) == (run.head.hash, run.head.round + 1)
    bare = msgspec.structs.replace(record, generation=NO_HASH)
    assert record.generation == hash_of("branch", run.head.generation, msgspec.msgpack.encode(bare))
    after = run.head.next(entry)
    assert (after.branches, after.recoveries, after.tokens_total) == (1, 0, run.head.tokens_total)
    other = fork(run.head, ["PA", "PC"], run.state, "PC", TagCrypto("PC"))
    assert other.record.generation != record.generation


@pytest.mark.parametrize(
    ("signers", "attempt", "mode", "says"),
    [
        (["PA"], 0, "wait", "without the owner's word"),
        (["PB"], 0, "fork", "by somebody who has no part in it"),
        (["PA", "PC"], 0, "fork", "by somebody who has no part in it"),
        (["PA"], 1, "fork", "or voted on"),
        (["PA", "PA"], 0, "fork", "signed twice"),
        ([], 0, "fork", "no part in it"),
        (["KEY", "PA"], 0, "wait", "and no other"),
    ],
)
def test_by_whose_word_a_branch_does_not_stand(signers: list[str], attempt: int, mode: str, says: str) -> None:
    """SPEC G4, G5."""
    run = history(mode)
    with pytest.raises(BadRecord, match=says):
        check_entry(run.head, signed(run.head, ["PA", "PC"], run.state, *signers, attempt=attempt), CRYPTO)


def test_the_owners_word_is_enough_in_any_run_and_two_of_three_where_the_manifest_says_so() -> None:
    """SPEC G5."""
    run = history("wait")
    check_entry(run.head, signed(run.head, ["PA"], run.state, "KEY"), CRYPTO)
    run = history("wait", keys=["K1", "K2", "K3"], needed=2)
    check_entry(run.head, signed(run.head, ["PA"], run.state, "K1", "K3"), CRYPTO)
    with pytest.raises(BadRecord, match="2 owners"):
        check_entry(run.head, signed(run.head, ["PA"], run.state, "K1"), CRYPTO)
    with pytest.raises(BadRecord, match="2 owners"):
        check_entry(run.head, signed(run.head, ["PA"], run.state, "KEY"), CRYPTO)


def test_what_counts_as_a_recovery_is_said_by_the_record_and_not_by_its_signatures() -> None:
    """SPEC G4, G6, R2: certificates are in no hash, and hosts that saw different ones must rank a line alike."""
    run = history()
    by_fork, by_owner = (signed(run.head, ["PA", "PC"], run.state, name) for name in ("PA", "KEY"))
    check_entry(run.head, by_fork, CRYPTO)
    check_entry(run.head, by_owner, CRYPTO)
    assert by_fork.record.generation != by_owner.record.generation
    assert [run.head.next(entry).recoveries for entry in (by_fork, by_owner)] == [0, 1]
    for entry, other in ((by_fork, "KEY"), (by_owner, "PA")):
        vote = Vote(other, TagCrypto(other).sign(branch_bytes(RUN, entry.record)))
        word = Certificate(Ballot(0, "PA"), [vote])
        with pytest.raises(BadRecord, match=r"no part in it|1 owner,"):
            check_entry(run.head, msgspec.structs.replace(entry, certificate=word), CRYPTO)


def test_a_recovery_names_a_life_of_each_voter_and_of_nobody_else() -> None:
    """SPEC G4."""
    run = history("wait")
    record, blob = branch_record(run.head, ["PA", "PC"], run.state, {"PA": 1, "PC": 2})
    for lives in ([], [1], [1, 2, 3]):
        other = msgspec.structs.replace(blob, lives=lives)
        forged = msgspec.structs.replace(record, blob=blob_hash(other))
        votes = [Vote("KEY", TagCrypto("KEY").sign(branch_bytes(RUN, forged)))]
        with pytest.raises(BadRecord):
            check_entry(run.head, Entry(forged, other, Certificate(Ballot(0, "PA"), votes)), CRYPTO)
    with pytest.raises(BadRecord, match="next round"):  # of no other record
        value = say.proposal(run, "PA", "PB", "PC")
        other = msgspec.structs.replace(value.blob, lives=[1])
        forged = msgspec.structs.replace(value.record, blob=blob_hash(other))
        check_entry(run.head, run.certify(Proposal(forged, other, value.results)), CRYPTO)


def test_a_branch_that_says_anything_else_is_none() -> None:
    """SPEC G2: its signature is good, its content is not what follows from the names."""
    run = history()
    record, blob = branch_record(run.head, ["PA", "PC"], run.state)
    for change in ({"next_voters": ["PC", "PA"]}, {"tokens_total": 9999}, {"lr": "00000000"}):
        forged = msgspec.structs.replace(record, **change)
        vote = Vote("PA", TagCrypto("PA").sign(branch_bytes(RUN, forged)))
        with pytest.raises(BadRecord, match="nor one that opens a branch here"):
            check_entry(run.head, Entry(forged, blob, Certificate(Ballot(0, "PA"), [vote])), CRYPTO)


def test_a_host_without_a_quorum_opens_a_branch_when_its_turn_comes() -> None:
    """SPEC G3: after fork_s, with those that see no quorum either."""
    run = history()
    pa = Host(run)
    pa.told(ev.TrainerAttached(None)).skip()
    alone = m.Lineage(0, 0, run.head.tokens_total, False, True)
    opened: list[ef.Effect] = []
    while not opened and pa.now < 400:
        pa.told(pa.beacon("PD", lineage=alone, state="training"), pa.after(4.0))
        opened = [e for e in pa.skip() if isinstance(e, ef.AppendEntry)]
    assert pa.now >= 100 + 120 and sorted(pa.node.head.voters) == ["PA", "PD"]


def test_a_claim_is_not_believed_and_a_proof_is() -> None:
    """SPEC G6-G8: PA has one round of its own; PB shows a line that parted before it and holds more."""
    run = history()
    ours, theirs = history(), run  # of one manifest
    ours.round("PA", "PB", "PC")
    theirs.decide_entry(fork(theirs.head, ["PB", "PC"], theirs.state, "PB", TagCrypto("PB")))
    for _ in range(3):
        theirs.round("PB", "PC")
    pa = Host(ours)
    more = m.Lineage(0, 1, theirs.head.tokens_total, True, True)
    claim = {"generation": theirs.head.generation, "lineage": more, "head_round": theirs.head.round}
    pa.told(pa.beacon("PB", **claim))
    asked = pa.one(ef.AskEntries)
    assert (asked.peer, asked.generation, asked.from_round) == ("PB", theirs.head.generation, ours.head.round + 1)
    while True:
        pa.told(ev.EntriesReceived("PB", tuple(theirs.entries[asked.from_round :]), theirs.head.generation))
        done = pa.skip()
        if any(isinstance(e, ef.Rebase) for e in done):
            break
        (asked,) = [e for e in done if isinstance(e, ef.AskEntries)]
    (rebase,) = [e for e in done if isinstance(e, ef.Rebase)]
    assert rebase.round == 2 and record_hash(rebase.entries[-1].record) == theirs.head.hash
    assert pa.node.head.hash == theirs.head.hash and not pa.node.catchup.has_state


def test_who_claims_more_and_shows_nothing_is_not_heard_for_a_while() -> None:
    """SPEC G7: and while it is undoubted, no attempt is begun (G8)."""
    run = history()
    pa = Host(run)
    boast = m.Lineage(0, 1, 10**9, True, True)
    pa.told(pa.beacon("PB", generation=hash_of("other"), lineage=boast))
    asked = pa.one(ef.AskEntries)
    assert pa.node.branching.pauses(pa.node.head, pa.now)
    for _ in range(8):
        pa.told(ev.EntriesReceived("PB", (), asked.generation))
        pa.skip()
    assert not pa.node.branching.pauses(pa.node.head, pa.now)
    pa.now += 16.0
    pa.told(pa.beacon("PB", generation=hash_of("other"), lineage=boast)).skip()
    assert pa.node.branching.pauses(pa.node.head, pa.now)


def test_what_the_rival_shows_of_our_own_history_is_not_left() -> None:
    """SPEC G7: shown from genesis on, the lines part where they part; and of one host that only shows us our own
    records nothing is kept."""
    run = history()
    ours, theirs = history(), run
    ours.round("PA", "PB", "PC")
    theirs.decide_entry(fork(theirs.head, ["PB", "PC"], theirs.state, "PB", TagCrypto("PB")))
    for _ in range(3):
        theirs.round("PB", "PC")
    pa = Host(ours)
    more = m.Lineage(0, 1, theirs.head.tokens_total, True, True)
    pa.told(pa.beacon("PB", generation=theirs.head.generation, lineage=more))
    while (asked := pa.one(ef.AskEntries)).from_round > 0:
        pa.told(ev.EntriesReceived("PB", (), asked.generation))
    pa.told(ev.EntriesReceived("PB", tuple(theirs.entries[:2]), asked.generation))
    rival = pa.node.branching._rival
    assert rival is not None and rival.base.round == 1 and not rival.entries
    asked = pa.one(ef.AskEntries)
    assert asked.from_round == 2
    pa.told(ev.EntriesReceived("PB", tuple(theirs.entries[2:]), asked.generation))
    assert pa.one(ef.Rebase).round == 2


def test_a_line_with_a_forged_record_in_it_is_its_claimants_fault() -> None:
    """SPEC G7, R13: and nothing of it is taken, for it was not yet better than ours."""
    run = history()
    ours, theirs = history(), run
    ours.round("PA", "PB", "PC")
    theirs.decide_entry(fork(theirs.head, ["PB", "PC"], theirs.state, "PB", TagCrypto("PB")))
    theirs.round("PB", "PC")
    pa = Host(ours)
    more = m.Lineage(0, 1, 10**6, True, True)
    pa.told(pa.beacon("PB", generation=theirs.head.generation, lineage=more))
    asked = pa.one(ef.AskEntries)
    last = theirs.entries[-1]
    forged = msgspec.structs.replace(last, record=msgspec.structs.replace(last.record, tokens_total=10**6))
    faults: list[ef.Effect] = []
    while not faults:
        told = (*theirs.entries[asked.from_round : -1], forged)
        pa.told(ev.EntriesReceived("PB", told if asked.from_round <= 3 else (), asked.generation))
        done = pa.skip()
        faults = [e for e in done if isinstance(e, ef.PeerFault)]
        asked = next((e for e in done if isinstance(e, ef.AskEntries)), asked)
    assert [(e.peer, e.kind) for e in faults if isinstance(e, ef.PeerFault)] == [("PB", "record")]
    assert pa.node.head.hash == ours.head.hash and pa.node.branching._rival is None


def test_a_claim_that_is_proven_ever_so_slowly_stops_the_run_for_a_minute() -> None:
    """SPEC G8, G7: and is given up after RIVAL_S_MAX, though each answer is true."""
    pa = Host(history())
    boast = {"generation": hash_of("other"), "lineage": m.Lineage(0, 1, 10**9, True, True)}
    paused = []
    while pa.now < 100 + limits.RIVAL_S_MAX + 20:
        pa.told(pa.beacon("PB", **boast)).skip()  # its answer does not come
        paused.append(pa.node.round.paused)
        pa.now += 5.0
    assert paused[0] and paused[:12] == [True] * 12 and sum(paused) < len(paused) / 2
    assert pa.node.branching._rival is None


def test_an_answer_about_a_line_that_branched_meanwhile_is_not_waited_for() -> None:
    """K1: the owner's branch came between; who is ahead there is asked."""
    run = history("wait")
    pa = Host(run)
    pa.told(pa.beacon("PB", head_round=run.head.round + 3))
    assert pa.one(ef.AskEntries).peer == "PB"  # no answer, or one about another generation
    branch = signed(run.head, ["PA", "PC"], run.state, "KEY")
    pa.told(pa.says("PC", m.Commit(branch))).skip()
    head = pa.node.head
    assert head.generation == branch.record.generation
    ahead = {"generation": head.generation, "head_round": head.round + 1, "lineage": m.Lineage(1, 1, 0, True, True)}
    pa.told(pa.beacon("PC", **ahead), ev.EntriesReceived("PB", (), run.head.generation))
    assert pa.one(ef.AskEntries).peer == "PC"


def test_who_may_not_vote_in_a_branch_opens_none() -> None:
    """SPEC G3, G9: PD's journal begins at this very head; a branch of it alone could never go on."""
    run = history()
    mark = ef.PersistVote(run.head.at, NO_BALLOT, None, None)
    pd = Host(run, "PD", vote=mark)
    pd.told(ev.TrainerAttached(None), pd.after(400.0))
    assert not [e for e in pd.skip() if isinstance(e, ef.AppendEntry)]
    run.round("PA", "PB", "PC")
    pd.told(pd.says("PA", m.Commit(run.entries[-1])), ev.UpdateHeld(run.head.entry.record.update_root))
    pd.told(ev.Applied(run.head.round, run.state), pd.after(20.0))
    assert (pd.node.head.voters, pd.node.head.branches) == (["PD"], 1)


def test_whoever_knows_the_run_id_can_take_over_a_run_that_forks() -> None:
    """SPEC G3 says so; and G4, G5: not one that waits, which trusts a quorum of its voters and its owner."""
    run, waits = history(), history("wait")
    stranger = TagCrypto("PZ")
    branch = fork(run.head, ["PZ"], run.state, "PZ", stranger)
    check_entry(run.head, branch, CRYPTO)
    with pytest.raises(BadRecord, match="without the owner's word"):
        check_entry(waits.head, fork(waits.head, ["PZ"], waits.state, "PZ", stranger), CRYPTO)
    honest = run.head
    run.decide_entry(branch)
    ready = {"PZ": ready_of(run.head, "PZ", run.state, tokens=2**50)}
    alone = run.certify(run.proposal(run.outcome(ready), ready, ["PZ"]))
    check_entry(run.head, alone, CRYPTO)
    assert run.head.next(alone).rank > honest.rank


def test_a_host_that_slept_listens_before_it_forks() -> None:
    """SPEC B6: an hour in which it heard nothing because it did not run is no lost quorum."""
    pa = Host(history())
    pa.told(ev.TrainerAttached(None), ev.Tick()).skip()
    pa.now += 3600.0
    pa.told(ev.Tick())
    assert not [e for e in pa.skip() if isinstance(e, ef.AppendEntry)]


def test_who_stands_behind_its_votes_does_not_vote_in_a_branch_there() -> None:
    """SPEC G9: a forgotten life may have been in it; not in what the owner signed for this one."""
    run = history("wait")
    vote = ef.PersistVote(msgspec.structs.replace(run.head.at, round=run.head.round + 3), NO_BALLOT, None, None)
    pa = Host(run, vote=vote)
    branch = signed(run.head, ["PA", "PC"], run.state, "KEY")
    pa.told(pa.says("PC", m.Commit(branch)))
    assert not [e for e in pa.skip() if isinstance(e, ef.PersistVote)] and pa.node.seat.lost
    pa = Host(run, vote=vote)
    pa.told(pa.says("PC", m.Commit(signed(run.head, ["PA", "PC"], run.state, "KEY", life=1))))
    assert pa.one(ef.PersistVote).promised == NO_BALLOT and not pa.node.seat.lost


def test_a_trail_has_a_point_near_wherever_a_line_parted() -> None:
    """SPEC G7: and few points, of a history however long."""
    point: Any = SimpleNamespace
    trail = Trail(point(round=-1, hash=-1, generation=0))
    for round_ in range(20_000):
        trail.add(point(round=round_, hash=round_, generation=round_ > 777))
    assert len(trail._heads) < 350
    for back in (0, 1, 63, 64, 100, 1000, 7000, 18_000):
        parted = 19_999 - back
        found = trail.back(back).round
        assert found <= parted and parted - found <= max(0, back) // limits.TRAIL_GAP + limits.TRAIL_GAP
    assert trail.knows(trail.back(1000)) and not trail.knows(point(round=19_999, hash=5))
    assert 777 in [h.round for h in trail._heads] and trail.back(10**6).round == -1


def test_a_vote_further_along_a_line_binds_until_the_log_is_there() -> None:
    """SPEC G9."""
    run = history()
    vote = ef.PersistVote(msgspec.structs.replace(run.head.at, round=run.head.round + 3), Ballot(0, "PA"), None, None)
    pa = Host(run, vote=vote)
    assert pa.node.round.parts.acceptor.behind and not pa.node.round.parts.acceptor.votes
