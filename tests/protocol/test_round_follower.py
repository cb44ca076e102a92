"""A voter's side of a round: promises, plans, votes, and what it refuses. SPEC A1-A9."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.context import leader_order
from intellectd.protocol.head import Head
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.records import Collective
from tests.protocol import puppets as say
from tests.protocol.history import ready_of
from tests.protocol.playbook import History, Host, opened, run_config, swarm

FIRST, SECOND = Ballot(0, "PB"), Ballot(1, "PC")


def follower() -> tuple[History, Host]:
    """PA follows; PB leads attempt 0, PC 1, PA 2. PA's delta is frozen, and so are the others'."""
    run = swarm("PB", "PC", "PA")
    host = Host(run).meet("PB", "PC").work()
    host.told(host.ready("PB"), host.ready("PC")).skip()
    return run, host


def test_a_whole_round_as_seen_by_a_voter() -> None:
    run, pa = follower()
    pa >> pa.says("PB", say.prepare(run, FIRST))
    pa << "on disk: promised 0.PB" << "to PB: promise 0.PB"
    pa >> pa.says("PB", say.plan(run, FIRST, "PC", "PA", "PB"))
    pa << "transfer PC+PA+PB"
    pa >> say.ended(run, "PC", "PA", "PB")
    pa << "to PB: result"
    value = say.proposal(run, "PC", "PA", "PB")
    pa >> pa.says("PB", say.accept(run, FIRST, value))
    pa << "on disk: promised 0.PB, accepted 0.PB" << "to PB: accepted 0.PB"
    pa >> pa.says("PB", say.commit(run, value))
    pa << "log: round 1 by PC+PA+PB" << "apply round 1, adopt"
    pa >> ev.Applied(1, run.after(value))
    pa << "train round 2 on 2/0"
    pa.silent()


def test_a_promise_is_not_taken_back() -> None:
    """SPEC A4: a lower ballot is refused, by whoever it comes, in both phases."""
    run, pa = follower()
    pa >> pa.says("PC", say.prepare(run, SECOND))
    pa << "on disk: promised 1.PC" << "to PC: promise 1.PC"
    pa >> pa.says("PB", say.prepare(run, FIRST))
    pa << "to PB: refuse 0.PB, promised 1.PC"
    pa >> pa.says("PB", say.accept(run, FIRST, say.proposal(run, "PB", "PC")))
    pa << "to PB: refuse 0.PB, promised 1.PC"
    pa.silent()


def test_a_promise_outlives_the_process() -> None:
    """SPEC A4: what the journal says binds the next life."""
    run, _ = follower()
    value = say.proposal(run, "PB", "PC")
    vote = ef.PersistVote(run.head.at, SECOND, FIRST, value)
    again = Host(run, vote=vote, held_updates=(value.record.update_root,)).meet("PB", "PC")
    again >> again.says("PB", say.prepare(run, FIRST))
    again << "to PB: refuse 0.PB, promised 1.PC"
    again >> again.says("PC", say.prepare(run, SECOND))
    again << "to PC: promise 1.PC, accepted 0.PB"
    again.silent()


def test_a_higher_ballot_is_refused_while_the_attempt_moves() -> None:
    """SPEC A5: but not once it stands still, and not when its transfer was aborted."""
    run, pa = follower()
    pa.told(pa.says("PB", say.prepare(run, FIRST)), pa.says("PB", say.plan(run, FIRST, "PB", "PA"))).skip()
    pa >> pa.says("PC", say.prepare(run, SECOND))
    pa << "to PC: refuse 1.PC, promised 0.PB"
    transfer = say.transfer(run, "PB", "PA")
    for done in (1, 2, 3):
        pa.told(pa.after(4), ev.TransferMoved(transfer, done, 9), pa.beacon("PB"), pa.beacon("PC"))
    pa.skip()
    pa >> pa.says("PC", say.prepare(run, SECOND))
    pa << "to PC: refuse 1.PC, promised 0.PB"
    pa.told(pa.after(6), pa.beacon("PB"), pa.beacon("PC"), pa.after(5)).skip()
    pa >> pa.says("PC", say.prepare(run, SECOND))
    pa << "on disk: promised 1.PC" << "to PC: promise 1.PC"


def test_after_the_last_round_it_neither_promises_nor_votes() -> None:
    """SPEC A14: whoever asks for more."""
    run = swarm("PB", "PA", "PC", config=run_config(until=1))
    run.round("PB", "PA", "PC")
    pa = Host(run).meet("PB", "PC")
    order = leader_order(run.head.voters, run.head.hash)
    first, leader = next((place, peer) for place, peer in enumerate(order) if peer != "PA")
    value = say.proposal(run, "PB", "PC")
    pa.told(ev.UpdateHeld(value.record.update_root)).skip()
    pa >> pa.says(leader, say.prepare(run, Ballot(first, leader)))
    pa >> pa.says(leader, say.accept(run, Ballot(first, leader), value))
    pa.silent()


def test_bytes_before_the_vote() -> None:
    """SPEC A7: a voter that was not in the ring fetches the update first, and votes when it is on its disk."""
    run, pa = follower()
    value = say.proposal(run, "PB", "PC")
    pa >> pa.says("PB", say.accept(run, FIRST, value))
    fetch = pa.one(ef.FetchUpdate)
    assert fetch.donor in ("PB", "PC") and fetch.root == value.record.update_root
    pa >> ev.UpdateHeld(fetch.root)
    pa << "on disk: promised 0.PB, accepted 0.PB" << "to PB: accepted 0.PB"
    pa.silent()


def test_bytes_come_from_whoever_voted_when_the_signers_are_gone() -> None:
    """SPEC A7: PB and PC computed the update and died; PD fetched it from them and may serve it."""
    run = swarm("PE", "PA", "PB", "PC", "PD")
    pa = Host(run).meet("PD", "PE")
    pa >> pa.says("PE", say.accept(run, Ballot(0, "PE"), say.proposal(run, "PB", "PC")))
    asked = []
    for _ in range(8):
        for effect in pa.skip():
            if isinstance(effect, ef.FetchUpdate):
                asked.append(effect.donor)
                pa.told(ev.UpdateMissed(effect.root, effect.donor, "not there"))
        pa.told(pa.beacon("PD"), pa.beacon("PE"), pa.after(4))
    assert "PD" in asked and "PE" in asked
    assert len(asked) < 8, "a failed fetch is not repeated at once"


def test_a_voter_on_another_state_fetches_the_agreed_one() -> None:
    """SPEC A4, K6: it votes for nothing until it stands where the quorum stands."""
    run, _ = follower()
    pa = Host(run, applied_digest=None).meet("PC")
    pa.told(pa.beacon("PB", snapshots=[0]))
    pa >> pa.says("PB", say.prepare(run, FIRST))  # no digest yet: owed
    pa.silent()
    astray = Host(run).meet("PC")
    astray.told(astray.beacon("PB", snapshots=[0])).skip()
    value = say.proposal(run, "PB", "PC", state=hash_of("agreed"))
    astray.told(ev.UpdateHeld(value.record.update_root))
    astray >> astray.says("PB", say.accept(run, FIRST, value))
    astray.silent()  # the leader's word alone, which may lie
    there = ready_of(run.head, "PC", hash_of("agreed"))
    astray >> astray.beacon("PC", state="ready", ready=there)
    astray >> astray.says("PB", say.accept(run, FIRST, value))
    astray << "fetch state -1 from PB"
    astray.silent()


def test_an_owed_promise_is_given_when_the_state_arrives() -> None:
    """SPEC A4: by replay or by snapshot, whichever brings the state to the head."""
    run, _ = follower()
    pa = Host(run, applied=-2).meet("PC")
    pa >> pa.beacon("PB", snapshots=[0])
    pa << "fetch state -1 from PB"
    pa >> pa.says("PB", say.prepare(run, FIRST))
    pa >> ev.SnapshotInstalled(-1, run.states[-1])
    pa << "apply round 0 (no update), none"
    pa >> ev.Applied(0, run.states[0])
    pa << "on disk: promised 0.PB" << "to PB: promise 0.PB"
    pa.silent()


def test_only_the_rightful_leader_is_heard() -> None:
    """SPEC A2: the lot says whose attempt it is; a ballot far above all that were seen is not heeded."""
    run, pa = follower()
    pa >> pa.says("PC", say.prepare(run, Ballot(0, "PC")))
    pa << "fault PC: Prepare: attempt 0 is not PC's to lead"
    pa >> pa.says("PC", say.prepare(run, FIRST))
    pa << "fault PC: Prepare: attempt 0 is not PC's to lead"
    pa >> pa.says("PC", say.plan(run, FIRST, "PA", "PC"))
    pa << "fault PC: Plan: attempt 0 is not PC's to lead"
    pa >> pa.says("PC", say.accept(run, FIRST, say.proposal(run, "PA", "PC")))
    pa << "fault PC: Accept: attempt 0 is not PC's to lead"
    pa >> pa.says("PB", say.prepare(run, Ballot(3_000_000, "PB")))
    pa.silent()


def test_two_values_in_one_ballot_are_not_both_voted_for() -> None:
    """SPEC A6: a leader that proposes twice under a ballot is at fault, before and after the vote."""
    run = swarm("PB", "PA", "PC")
    one, two = say.proposal(run, "PB", "PC"), say.proposal(run, "PA", "PB")
    pa = Host(run, held_updates=(one.record.update_root,)).meet("PB", "PC")
    pa >> pa.says("PB", say.accept(run, FIRST, one))
    pa << "on disk: promised 0.PB, accepted 0.PB" << "to PB: accepted 0.PB"
    pa >> pa.says("PB", say.accept(run, FIRST, two))
    pa << "fault PB: Accept: two values in ballot 0.PB"
    pa >> pa.says("PB", say.accept(run, FIRST, one))
    pa << "to PB: accepted 0.PB"
    pa.silent()
    waits = Host(run).meet("PB", "PC")
    waits.told(waits.says("PB", say.accept(run, FIRST, one))).skip()
    waits >> waits.says("PB", say.accept(run, FIRST, two))
    waits << "fault PB: Accept: two values in ballot 0.PB"


def test_a_proposal_that_does_not_follow_is_the_leaders_fault() -> None:
    """SPEC A6: nobody accepts what no record may say."""
    run, pa = follower()
    value = say.proposal(run, "PB", "PC")
    unsigned = type(value)(value.record, value.blob, value.results[:1])
    pa >> pa.says("PB", say.accept(run, FIRST, unsigned))
    pa << "fault PB: Accept: the result is not signed by a majority of its members"
    pa.silent()


def test_the_hash_gate() -> None:
    """SPEC A1: who is one behind gets the record it missed; other talk of another decision is not answered."""
    run = swarm("PB", "PA", "PC", rounds=1)
    pa = Host(run).meet("PB", "PC")
    before: Head = run.heads[0]
    late = say.prepare(run, FIRST)
    pa >> pa.says("PB", type(late)(before.at, FIRST))
    pa << "to PB: commit round 1 by PB+PA+PC"
    pa >> pa.says("PB", type(late)(run.heads[-1].at, FIRST))
    pa.silent()


def test_a_plan_for_another_delta_is_refused() -> None:
    """SPEC C3: what is planned must be what was frozen; but a finished result is said again even so."""
    run, pa = follower()
    plan = say.plan(run, FIRST, "PB", "PA")
    other = type(plan.members[1])("PA", 100, hash_of("another"))
    pa >> pa.says("PB", type(plan)(plan.at, FIRST, Collective([plan.members[0], other], "ring", []), "int8"))
    pa << "to PB: abort 0.PB, suspect PA"
    pa >> pa.says("PB", plan)
    pa << "transfer PB+PA"
    pa >> say.ended(run, "PB", "PA")
    pa << "to PB: result"
    pa >> ev.TrainerDetached("killed")
    pa >> pa.says("PB", plan)
    pa << "to PB: result"
    pa.silent()


def test_plans_that_no_honest_leader_sends() -> None:
    """SPEC C2."""
    run, pa = follower()
    plan = say.plan(run, FIRST, "PB", "PA")
    pb, me = plan.members
    for members, schedule, shape, why in (
        ([pb, me, pb], "ring", [], "a member is planned twice"),
        ([pb, me, type(me)("PZ", 1, me.delta_root)], "ring", [], "a member that is not eligible is planned"),
        ([type(me)("PB", 0, me.delta_root), me], "ring", [], "a member is planned without tokens"),
        ([pb, me], "tree", [], "schedule tree is not this run's"),
        ([pb, me], "ring", [1], "a ring has no shape"),
        ([pb, me], "torus", [1], "no torus of 2 members has this shape"),
        ([pb, me], "torus", [], "no torus of 2 members has this shape"),
        ([pb, me], "direct", [1], "no direct exchange of 2 members has this shape"),
        ([pb, me], "direct", [0, 0], "no direct exchange of 2 members has this shape"),
    ):
        pa.told(pa.says("PB", type(plan)(plan.at, FIRST, Collective(members, schedule, shape), "int8")))
        assert pa.one(ef.PeerFault).reason.startswith(f"Plan: {why}")
    pa.told(pa.says("PB", type(plan)(plan.at, FIRST, plan.collective, "bf16")))
    assert pa.one(ef.PeerFault).reason == "Plan: the plan's codec bf16 is not this round's"


def test_a_late_plan_of_an_old_leader_starts_nothing() -> None:
    """SPEC C2: a member without a vote has promised nothing, and still follows the newer plan."""
    run = History(run_config(), founder="PB")
    run.opening("PB")
    run.round("PB", able=["PB", "PA"])
    pa = Host(run).meet("PB").work()
    first, second = Ballot(0, "PB"), Ballot(1, "PB")
    pa >> pa.says("PB", say.plan(run, second, "PB", "PA"))
    pa << "transfer PB+PA"
    pa >> pa.says("PB", say.plan(run, first, "PA"))
    pa.silent()
    pa >> say.ended(run, "PB", "PA")
    assert opened(pa.one(ef.Send)) is not None
