"""The leader's side of a round: from prepare to commit, and what it may propose. SPEC A2-A9, R7-R11."""

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.records import Collective, Member
from tests.protocol import puppets as say
from tests.protocol.history import ready_of
from tests.protocol.playbook import History, Host, opened, run_config, swarm

MINE = Ballot(0, "PA")


def leader(*order: str, **swarm_config: int) -> tuple[History, Host]:
    """PA leads attempt 0 of a round for which everybody is ready; it has just begun."""
    order = order or ("PA", "PB", "PC")
    run = swarm(*order, config=run_config(swarm_config))
    pa = Host(run).meet(*order[1:]).work()
    for peer in order[1:]:
        pa.told(pa.ready(peer))
    pa << "on disk: promised 0.PA"
    for peer in order[1:]:
        pa << f"to {peer}: prepare 0.PA"
    pa.silent()
    return run, pa


def ring(pa: Host) -> tuple[str, ...]:
    """The members of the transfer that the leader has just planned and begun."""
    return pa.one(ef.StartTransfer).members


def test_a_whole_round_as_led() -> None:
    """SPEC N3: what it says to itself comes after what had to be on disk: its vote before it asks for others'."""
    run, pa = leader()
    pa >> pa.says("PB", say.promise(run, MINE))
    pa.silent()  # a quorum, but PC is alive and has not answered
    pa >> pa.says("PC", say.promise(run, MINE))
    members = ring(pa)
    assert sorted(members) == ["PA", "PB", "PC"]
    by = "+".join(members)
    pa >> pa.says("PB", say.result(run, "PB", *members))
    pa.silent()  # one of three: no majority
    pa >> say.ended(run, *members)
    pa << "on disk: promised 0.PA, accepted 0.PA"
    pa << f"to PB: accept 0.PA round 1 by {by}" << f"to PC: accept 0.PA round 1 by {by}"
    value = say.proposal(run, *members)
    pa >> pa.says("PB", say.accepted(run, "PB", MINE, value))
    pa << f"log: round 1 by {by}" << f"to PB: commit round 1 by {by}" << f"to PC: commit round 1 by {by}"
    pa << "apply round 1, adopt"
    pa >> ev.Applied(1, run.after(value))
    pa << "train round 2 on 2/0"
    pa.silent()


def test_a_leader_that_is_alone() -> None:
    """SPEC Q1: one of one is a quorum; every step still reaches the disk in order."""
    run = swarm("PA")
    pa = Host(run).work()
    pa << "on disk: promised 0.PA" << "transfer PA"
    pa >> say.ended(run, "PA")
    pa << "on disk: promised 0.PA, accepted 0.PA" << "log: round 1 by PA" << "apply round 1, adopt"
    pa >> ev.Applied(1, run.after(say.proposal(run, "PA")))
    pa << "train round 2 on 2/0"
    pa.silent()


def accept_of(pa: Host) -> m.Accept:
    accepts = [opened(e) for e in pa.skip() if isinstance(e, ef.Send)]
    found = [a for a in accepts if isinstance(a, m.Accept)]
    assert found
    return found[0]


def test_a_quorum_of_votes_decides_and_everybody_is_told() -> None:
    """SPEC A8, A9."""
    run, pa = leader()
    pa.told(pa.says("PB", say.promise(run, MINE)), pa.says("PC", say.promise(run, MINE)))
    members = ring(pa)
    pa.told(pa.says("PB", say.result(run, "PB", *members)), pa.says("PC", say.result(run, "PC", *members)))
    accept = accept_of(pa)
    assert [v.voter for v in accept.proposal.results] == ["PB", "PC"]
    pa >> say.ended(run, *members)
    pa << "on disk: promised 0.PA, accepted 0.PA"
    pa >> pa.says("PC", say.accepted(run, "PC", MINE, accept.proposal))
    by = "+".join(members)
    pa << f"log: round 1 by {by}" << f"to PB: commit round 1 by {by}" << f"to PC: commit round 1 by {by}"
    pa << "apply round 1, adopt"
    pa.silent()


def test_a_locked_value_is_proposed_again() -> None:
    """SPEC A6: of the values that promises report, the one under the highest ballot, whatever else is ready."""
    run = swarm("PB", "PC", "PA", "PD", "PE")
    pa = Host(run, vote=ef.PersistVote(run.head.at, Ballot(1, "PC"), None, None)).meet("PB", "PC", "PD", "PE").work()
    for peer in ("PB", "PC", "PD", "PE"):
        pa.told(pa.ready(peer))
    pa.told(pa.after(11), *(pa.ready(p) for p in ("PB", "PC", "PD", "PE"))).skip()
    low, high = say.proposal(run, "PB", "PC", "PD"), say.proposal(run, "PC", "PD", "PE")
    mine = Ballot(2, "PA")
    pa.told(pa.says("PB", say.promise(run, mine, accepted=(Ballot(0, "PB"), low))))
    pa.told(pa.says("PC", say.promise(run, mine, accepted=(Ballot(1, "PC"), high))))
    pa.told(pa.says("PD", say.promise(run, mine)), pa.says("PE", say.promise(run, mine)))
    assert accept_of(pa).proposal == high


def test_a_value_that_was_accepted_is_finished_whoever_is_ready() -> None:
    """SPEC A3: PB died with it, and nobody here has a trainer any more; it may be decided, and a run go on from it."""
    run = swarm("PB", "PA", "PC", config=run_config({"start_peers": 3, "min_peers": 2}))
    value, theirs, mine = say.proposal(run, "PB", "PC"), Ballot(0, "PB"), Ballot(1, "PA")
    pa = Host(run).meet("PC")
    pa.told(ev.UpdateHeld(value.record.update_root), pa.says("PB", say.accept(run, theirs, value))).skip()
    while not pa.unread and pa.now < 150.0:
        pa.told(pa.beacon("PC", state="synced"))
        pa.told(pa.after(1))
    pa << "on disk: promised 1.PA, accepted 0.PB" << "to PB: prepare 1.PA" << "to PC: prepare 1.PA"
    pa.told(pa.says("PC", say.promise(run, mine)), pa.after(1.1))
    pa << "to PB: accept 1.PA round 1 by PB+PC" << "on disk: promised 1.PA, accepted 1.PA"
    pa << "to PC: accept 1.PA round 1 by PB+PC"


def test_a_result_that_lies_on_disks_is_not_computed_again() -> None:
    """SPEC C5: the same members are planned, in the order of then."""
    run, pa = leader()
    order = ["PC", "PB", "PA"]
    done = [Member(p, 100, ready_of(run.head, p, run.state).delta_root) for p in order]
    pa.told(
        pa.says("PB", say.promise(run, MINE, completed=Collective(done, "ring", []))),
        pa.says("PC", say.promise(run, MINE)),
    )
    assert ring(pa) == ("PC", "PB", "PA")


def test_a_completed_transfer_is_no_reason_when_it_cannot_be_said_again() -> None:
    """SPEC C5: weights that nobody announced, a member named twice, or too few that hold it."""
    run, pa = leader()
    roots = {p: ready_of(run.head, p, run.state).delta_root for p in ("PA", "PB", "PC")}
    boast = [Member("PC", 999, roots["PC"]), Member("PB", 100, roots["PB"]), Member("PA", 100, roots["PA"])]
    twice = [Member("PB", 100, roots["PB"])] * 5
    pa.told(pa.says("PB", say.promise(run, MINE, completed=Collective(boast, "ring", []))))
    pa.told(pa.says("PC", say.promise(run, MINE, completed=Collective(twice, "ring", []))))
    start = pa.one(ef.StartTransfer)
    assert sorted(start.members) == ["PA", "PB", "PC"] and start.weights == (100, 100, 100)


def test_the_state_of_a_quorum_counts() -> None:
    """SPEC A4: a leader that stands elsewhere gives way and fetches; a member that does is left out."""
    run, pa = leader()
    other = hash_of("another state")
    pa.told(pa.beacon("PB", snapshots=[0], state="ready", ready=ready_of(run.head, "PB", run.state)))
    pa.told(pa.says("PB", say.promise(run, MINE, state=other)), pa.says("PC", say.promise(run, MINE, state=other)))
    assert isinstance(pa.skip()[0], ef.FetchSnapshot)
    run, pa = leader()
    pa.told(pa.beacon("PC", state="ready", ready=ready_of(run.head, "PC", other)))
    pa.told(pa.says("PB", say.promise(run, MINE)), pa.says("PC", say.promise(run, MINE, state=other)))
    assert sorted(ring(pa)) == ["PA", "PB"]


def test_while_somebody_may_still_settle_it_that_states_differ_is_told_once_an_attempt() -> None:
    """SPEC A4: one of three does not answer, and no retry of the other two mends anything."""
    run, pa = leader()
    pa.told(pa.says("PB", say.promise(run, MINE, state=hash_of("b"))))
    pa.told(pa.after(limits.PROMISE_GRACE_S)).told(pa.after(0.5))
    (said,) = [note.text for note in pa.notes if note.event == "states_differ"]
    assert said.startswith("the first parameters: of 3 voters no quorum agrees, and") and said.count("1 on") == 2
    assert not pa.node.halted


def test_the_opening_waits_for_start_peers() -> None:
    """SPEC A3: founder first, then those that have the first state and a trainer."""
    run = History(run_config({"start_peers": 2}))
    pa = Host(run, applied=-1)
    pa >> ev.TrainerAttached(None)
    pa >> pa.beacon("PB", state="synced", applied=-1)
    assert pa.node.round.reason == "1 of 2 peers are here to start"
    pa >> pa.beacon("PB", state="waiting", applied=-1)
    pa << "on disk: promised 0.PA" << "on disk: promised 0.PA, accepted 0.PA"
    pa << "log: round 0 by nobody" << "to PB: commit round 0 by nobody"
    pa << "apply round 0 (no update), none"
    pa >> ev.Applied(0, run.state)
    pa << "train round 1 on 1/0"
    assert pa.node.head.voters == ["PA", "PB"]
    pa.silent()


def test_a_roster_too_short_for_a_round_is_named_anew() -> None:
    """SPEC A3: min_peers is 2 and PB is gone; PC could work but is not named. PB's seat goes too (R10)."""
    run = swarm("PA", "PB", config=run_config({"start_peers": 2, "min_peers": 2}))
    pa = Host(run).meet("PB", "PC").work()
    for _ in range(20):
        pa.told(pa.after(4), pa.beacon("PC"))
    entry = pa.one(ef.AppendEntry).entry
    assert entry.blob.contributions == [] and [a.peer for a in entry.blob.assignments] == ["PA", "PC"]
    assert entry.record.next_voters == ["PA"]
    assert [(p.peer, p.stream.slot) for p in entry.blob.pending] == [("PA", 0)]
    assert [(s.round, s.slot) for a in entry.blob.assignments for s in a.streams] == [(1, 1), (2, 1)]


def test_who_is_ready_on_another_state_makes_no_round_with_us() -> None:
    """SPEC A3, K6: it would wait for ever, and the record after a new roster tells it that its state is wrong."""
    run = swarm("PA", "PB", config=run_config({"start_peers": 2, "min_peers": 2}))
    pa = Host(run).meet("PB").work()
    astray = ready_of(run.head, "PB", hash_of("a bit flipped"))
    for _ in range(20):
        pa.told(pa.after(4), pa.beacon("PB", state="ready", ready=astray))
    entry = pa.one(ef.AppendEntry).entry
    assert entry.blob.contributions == [] and entry.record.state_digest == run.state
    assert [a.peer for a in entry.blob.assignments] == ["PA", "PB"]


def test_nobody_is_named_from_an_empty_bench() -> None:
    """SPEC A3: without enough peers that can train there is nothing to decide."""
    run = swarm("PA", "PB", config=run_config({"start_peers": 2, "min_peers": 2}))
    pa = Host(run).meet("PB").work()
    for _ in range(30):
        pa.told(pa.after(4))
    pa.silent()
    assert pa.node.round.reason == "1 peer can train, the run asks for 2"


def test_who_leaves_is_neither_named_nor_seated() -> None:
    """SPEC R10: PB contributed to this very round and leaves."""
    run, pa = leader()
    bye = ready_of(run.head, "PB", run.state)
    pa.told(pa.beacon("PB", state="ready", ready=bye, leaving=True))
    pa.told(pa.says("PB", say.promise(run, MINE)), pa.says("PC", say.promise(run, MINE)))
    members = ring(pa)
    pa.told(pa.says("PB", say.result(run, "PB", *members)), say.ended(run, *members))
    record = accept_of(pa).proposal
    assert record.record.next_voters == ["PA", "PC"]
    assert [a.peer for a in record.blob.assignments] == ["PA", "PC"]


def test_who_announced_to_leave_and_fell_silent_keeps_no_seat() -> None:
    """SPEC R10, A13: PB forgot its votes, said so, and is frozen when the record is made that PC leaves with: of PA and
    PB no quorum would be left, for good."""
    run = swarm("PA", "PB", "PC", "PD", config=run_config({}))
    pa = Host(run).meet("PC", "PD").work()
    lost = m.Lineage(0, 0, run.head.tokens_total, True, False)
    pa.told(pa.beacon("PB", state="abstaining", leaving=True, lineage=lost)).told(pa.after(20.0)).skip()
    for peer in ("PC", "PD"):
        bye = ready_of(run.head, peer, run.state)
        pa.told(pa.beacon(peer, state="ready", ready=bye, leaving=peer == "PC"))
    assert not pa.node.membership.alive("PB", pa.now)
    pa.told(*(pa.says(p, say.promise(run, MINE)) for p in ("PC", "PD"))).told(pa.after(1.1))
    members = ring(pa)
    pa.told(*(pa.says(p, say.result(run, p, *members)) for p in members if p != "PA"), say.ended(run, *members))
    assert accept_of(pa).proposal.record.next_voters == ["PA", "PD"]


@pytest.mark.parametrize(("votes", "seated"), [(False, ["PA", "PD"]), (True, ["PA", "PB", "PD"])])
def test_a_voter_that_reads_the_log_anew_keeps_no_seat(votes: bool, seated: list[str]) -> None:
    """SPEC R10: PB lost its disk, is back and hears nothing, so it does not know that it was a voter. Of PA and PB no
    quorum would be left, for good. A voter that is merely behind remembers its votes."""
    run = swarm("PA", "PB", "PC", "PD", config=run_config({}))
    pa = Host(run).meet("PC", "PD").work()
    anew = m.Lineage(0, 0, 0, False, votes)
    pa.told(pa.beacon("PB", state="joining", head_round=-1, head=bytes(32), applied=-2, lineage=anew))
    for peer in ("PC", "PD"):
        bye = ready_of(run.head, peer, run.state)
        pa.told(pa.beacon(peer, state="ready", ready=bye, leaving=peer == "PC"))
    pa.told(pa.after(12.0)).skip()
    assert pa.node.membership.alive("PB", pa.now)
    pa.told(*(pa.says(p, say.promise(run, MINE)) for p in ("PC", "PD"))).told(pa.after(1.1))
    members = ring(pa)
    pa.told(*(pa.says(p, say.result(run, p, *members)) for p in members if p != "PA"), say.ended(run, *members))
    assert accept_of(pa).proposal.record.next_voters == seated


def test_silence_must_be_confirmed_by_a_quorum() -> None:
    """SPEC R10: PE has been silent for PA; PB says so too: two of five. Then PC as well: three of five."""
    everybody = ["PA", "PB", "PC", "PD", "PE"]
    for witnesses, expected in ((["PB"], everybody), (["PB", "PC"], everybody[:4])):
        run = swarm(*everybody)
        pa = Host(run).meet("PB", "PC", "PD", "PE")
        for _ in range(20):
            pa.told(pa.after(4), pa.beacon("PB"), pa.beacon("PC"), pa.beacon("PD"))
        pa.work()
        pa.told(pa.ready("PB"), pa.ready("PC"), pa.ready("PD")).skip()
        for peer in ("PB", "PC", "PD"):
            silent = ["PE"] if peer in witnesses else []
            pa.told(pa.says(peer, say.promise(run, MINE, silent=silent)))
        members = ring(pa)
        pa.told(pa.says("PB", say.result(run, "PB", *members)), pa.says("PC", say.result(run, "PC", *members)))
        pa.told(say.ended(run, *members))
        assert sorted(accept_of(pa).proposal.record.next_voters) == expected


def test_what_a_promise_reports_must_have_been_acceptable() -> None:
    """SPEC A6: else the leader would propose it, and be blamed."""
    run, pa = leader()
    value = say.proposal(run, "PB", "PC")
    forged = type(value)(value.record, value.blob, [])
    pa >> pa.says("PB", say.promise(run, MINE, accepted=(MINE, forged)))
    pa << "fault PB: Promise: the result is not signed by a majority of its members"
    half = m.Promise(run.head.at, MINE, run.state, None, value, None, [])
    pa >> pa.says("PC", half)
    pa << "fault PC: Promise: a promise with half of an accepted value"
    pa.silent()


def test_results_and_votes_that_nobody_honest_sends() -> None:
    """SPEC A6, A8: a false signature, another size, a vote for another record."""
    run, pa = leader()
    pa.told(pa.says("PB", say.promise(run, MINE)), pa.says("PC", say.promise(run, MINE)))
    members = ring(pa)
    good = say.result(run, "PB", *members)
    pa >> pa.says("PB", m.Result(good.at, good.transfer, good.root, good.update_bytes, bytes(64)))
    pa << "fault PB: Result: the result's signature is false"
    pa >> pa.says("PB", m.Result(good.at, good.transfer, good.root, 2**40, good.signature))
    pa << "fault PB: Result: a result of 1099511627776 bytes, an update has 260"
    pa.told(pa.says("PB", good), pa.says("PC", say.result(run, "PC", *members))).skip()
    other = say.proposal(run, "PB", "PC")
    pa >> pa.says("PC", say.accepted(run, "PC", MINE, other))
    pa << "fault PC: Accepted: a vote for another record, or with a false signature"
    pa.silent()


def test_a_boast_of_tokens_makes_no_record_that_cannot_be_read() -> None:
    """SPEC R5: the total stops at its bound."""
    run, pa = leader("PA", "PB")
    pa.told(pa.ready("PB", tokens=2**53))
    pa.told(pa.says("PB", say.promise(run, MINE)))
    start = pa.one(ef.StartTransfer)
    root = hash_of("sum")
    result = say.signed_result(run, "PB", start.transfer, root)
    pa.told(pa.says("PB", result), ev.TransferEnded(start.transfer, root, 260))
    assert accept_of(pa).proposal.record.tokens_total == 2**53
