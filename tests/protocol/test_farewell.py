"""When a host that leaves may go. SPEC R10."""

from intellectd.protocol.farewell import Farewell, farewell
from tests.protocol.history import History
from tests.protocol.playbook import Host, swarm


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
