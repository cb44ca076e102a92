"""When a host that leaves may go. SPEC R10."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol.farewell import Farewell, farewell
from intellectd.protocol.ids import Ballot
from intellectd.protocol.leader import Leader
from intellectd.protocol.messages import Transfer
from tests.protocol import puppets as say
from tests.protocol.history import History, ready_of
from tests.protocol.playbook import Host, swarm

MINE = Ballot(0, "PA")


def stand(run: History, **last: object) -> Farewell:
    """Of PA, which three records named and the newest does not, when PC's beacon says this."""
    run.round("PA", "PB", "PC", able=["PB", "PC"], gone=["PA"])
    pa = Host(run)
    pa.told(pa.beacon("PB"), pa.beacon("PC", **last))
    return farewell("PA", pa.node.head, pa.node.catchup.reach, pa.node.membership.alive_beacons(pa.now))


def test_it_goes_when_the_record_that_let_it_go_has_reached_the_voters_that_stay() -> None:
    assert not stand(swarm("PA", "PB", "PC")).must_stay
    assert stand(swarm("PA", "PB", "PC"), head_round=0).log_is_needed, "else it may take the only copy along"
    assert not stand(swarm("PA", "PB", "PC"), head_round=0, leaving=True).must_stay


def test_it_stays_with_an_update_that_it_holds_and_has_not_applied() -> None:
    """It may have voted for it a moment ago, and the one that made it may lose its disk."""
    run = swarm("PA", "PB", "PC")
    run.round("PA", "PB", "PC", able=["PB", "PC"], gone=["PA"])
    before = run.head.round - 1
    root = run.entries[-1].record.update_root
    for held, stays in (((), False), ((root,), True)):
        pa = Host(run, applied=before, held_updates=held)
        pa.told(pa.beacon("PB", applied=before), pa.beacon("PC", applied=before))
        alive = pa.node.membership.alive_beacons(pa.now)
        assert farewell("PA", pa.node.head, pa.node.catchup.reach, alive).must_stay is stays


def test_it_stays_while_nobody_else_has_applied_the_newest_update() -> None:
    """Its bytes may lie here alone: a round of one member has no other holder."""
    assert stand(swarm("PA", "PB", "PC"), applied=-1).must_stay is False, "PB has it"
    run = swarm("PA", "PB", "PC")
    run.round("PA", "PB", "PC", able=["PB", "PC"], gone=["PA"])
    pa = Host(run)
    pa.told(pa.beacon("PB", applied=run.head.round - 1), pa.beacon("PC", applied=run.head.round - 1))
    still = farewell("PA", pa.node.head, pa.node.catchup.reach, pa.node.membership.alive_beacons(pa.now))
    assert still.update_is_needed and still.must_stay


def test_what_somebody_has_applied_of_another_line_is_not_this_update() -> None:
    """SPEC R10, G1: PC's rounds are as many, and others."""
    run = swarm("PA", "PB", "PC")
    run.round("PA", "PB", "PC", able=["PB", "PC"], gone=["PA"])
    pa = Host(run)
    other = {"generation": bytes(31) + b"x", "head": bytes(32)}
    pa.told(pa.beacon("PB", applied=run.head.round - 1), pa.beacon("PC", **other))
    still = farewell("PA", pa.node.head, pa.node.catchup.reach, pa.node.membership.alive_beacons(pa.now))
    assert still.update_is_needed and not still.takes_last_state
    pa.told(pa.beacon("PB", applied=-1), pa.beacon("PC", **other))
    last = farewell("PA", pa.node.head, pa.node.catchup.reach, pa.node.membership.alive_beacons(pa.now))
    assert last.takes_last_state


def test_it_stays_until_those_that_can_decide_the_next_round_have_the_record() -> None:
    """SPEC R10: PB, the more senior of the two that stay, fell silent when it was decided; PC may lose its disk."""
    run = swarm("PA", "PB", "PC")
    run.round("PA", "PB", "PC", able=["PB", "PC"], gone=["PA"])
    pa = Host(run)
    pa.told(pa.beacon("PC"))
    asked = ("PA", pa.node.head, pa.node.catchup.reach)
    assert farewell(*asked, pa.node.membership.alive_beacons(pa.now)).log_is_needed
    assert not farewell(*asked, pa.node.membership.alive_beacons(pa.now), sparse=True).must_stay, "it hears a few only"
    assert not farewell(*asked, {}).must_stay, "nobody is there for whom it could stay"
    pa.told(pa.beacon("PB", leaving=True))
    assert not farewell(*asked, pa.node.membership.alive_beacons(pa.now)).must_stay, "PB sees to it in its turn"


def test_nobody_waits_for_a_quorum_to_which_its_own_vote_is_nothing() -> None:
    """SPEC R10: who came when the quorum was away, who has not read the log, and who is behind."""
    run = swarm("PA", "PB", "PC")
    run.round("PA", "PB", "PC", able=["PB", "PC"], gone=["PA"])
    for host in (Host(run, "PD", vote=None), Host(run, "PD", vote=None, entries=[], applied=-2, applied_digest=None)):
        host.told(host.beacon("PC"))
        alive = host.node.membership.alive_beacons(host.now)
        assert not farewell("PD", host.node.head, host.node.catchup.reach, alive).log_is_needed
    pa = Host(run)
    pa.told(pa.beacon("PC", head_round=run.head.round + 1, head=bytes(31) + b"x"))
    alive = pa.node.membership.alive_beacons(pa.now)
    assert not farewell("PA", pa.node.head, pa.node.catchup.reach, alive).log_is_needed, "the next one is decided"


def seats(run: History, promised: list[str], here: list[str]) -> list[str]:
    """That the record gives which PA leads, who leaves, and is the most senior voter."""
    leader = Leader(Host(run).node.context, run.head, MINE, 0.0)
    for peer in promised:
        leader.on_promise(peer, say.promise(run, MINE), 0.0)
    leader.plan(say.collective(run, "PC"), {"PC": ready_of(run.head, "PC", run.state)}, None, 0.0)
    leader.propose(say.outcome(run, "PC"), ["PC"], ["PA"], here)
    assert leader.proposal is not None
    named = [assignment.peer for assignment in leader.proposal.blob.assignments]
    assert "PA" not in named, "it gets no more work in any case"
    return leader.proposal.record.next_voters


def test_who_leaves_keeps_its_seat_until_the_others_are_a_quorum_without_it() -> None:
    """SPEC R10: PB is away. Of PB and PC it is the more senior, so PC alone could decide nothing."""
    run = swarm("PA", "PB", "PC")
    assert seats(run, ["PA", "PC"], ["PA", "PC"]) == ["PA", "PB", "PC"]
    assert seats(run, ["PA", "PB", "PC"], ["PA", "PB", "PC"]) == ["PB", "PC"]
    assert seats(run, ["PA", "PB"], ["PA", "PB"]) == ["PB", "PC"], "PB is enough"
    assert seats(run, ["PA", "PB", "PC"], ["PA", "PC"]) == ["PA", "PB", "PC"], "PB promised, and lost its disk since"


def test_who_leaves_and_promises_nothing_is_not_waited_for() -> None:
    """SPEC R10, A13: so does a voter that has lost its votes, and it never will."""
    run = swarm("PA", "PB", "PC")
    assert seats(run, ["PC"], ["PC"]) == ["PB", "PC"]


def test_who_is_alive_is_asked_when_the_record_is_made() -> None:
    """SPEC R10: PB promised, and has been silent since the transfer began."""
    run = swarm("PA", "PB", "PC")
    pa = Host(run).meet("PB", "PC").work()
    pa.told(pa.ready("PB"), pa.ready("PC"), ev.LeaveRequested()).skip()
    pa.told(*(pa.says(peer, say.promise(run, MINE)) for peer in ("PB", "PC")))
    members = pa.one(ef.StartTransfer).members
    for done in range(1, 6):
        moved = Transfer(say.transfer(run, *members), done, 100)
        ready = ready_of(run.head, "PC", run.state)
        pa.told(pa.after(4.0), pa.beacon("PC", state="ready", ready=ready, transfer=moved)).skip()
    pa.told(pa.says("PC", say.result(run, "PC", *members)), say.ended(run, *members)).skip()
    led = pa.node.round.leading.attempt
    assert led is not None and led.proposal is not None and "PB" in led.promises
    assert led.proposal.record.next_voters == ["PA", "PB", "PC"]
