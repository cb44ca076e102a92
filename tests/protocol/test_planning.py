"""A leader plans by what is known of links; members do whatever schedule they are told. SPEC B13, C1, C5, C7, C8."""

from typing import Literal

import pytest
from msgspec.structs import replace

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.manifest import RunConfig
from tests.protocol import puppets as say
from tests.protocol.history import History, ready_of, run_config
from tests.protocol.playbook import Host, opened, swarm
from tests.protocol.test_round_failures import until

MINE = Ballot(0, "PA")
PEERS = ("PA", "PB", "PC", "PD")


def leader(run: History | None = None, **fields: dict[str, object]) -> tuple[History, Host]:
    """PA leads four; `fields` are of the others' beacons. The next that it takes is the last promise."""
    run = run or swarm(*PEERS)
    pa = Host(run).meet(*PEERS[1:]).work()
    for peer in PEERS[1:]:
        ready = ready_of(run.head, peer, run.state)
        pa.told(pa.beacon(peer, state="ready", ready=ready, **fields.get(peer, {})))
    pa.told(*(pa.says(peer, say.promise(run, MINE)) for peer in PEERS[1:3])).skip()
    return run, pa


def started(run: History, pa: Host) -> ef.StartTransfer:
    pa.told(pa.says("PD", say.promise(run, MINE)))
    return pa.one(ef.StartTransfer)


def turn(run: History, *peers: str) -> tuple[str, ...]:
    return tuple(sorted(peers or PEERS, key=lambda peer: hash_of("ring", run.head.hash, peer.encode())))


def only(schedule: Literal["ring", "direct", "torus"]) -> RunConfig:
    config = run_config()
    return replace(config, outer=replace(config.outer, schedule=schedule))


def links(rates: dict[str, int]) -> list[m.Link]:
    return [m.Link(peer, rate, 30) for peer, rate in rates.items()]


def to_all(me: str, rate: int, rtt: int = 30) -> list[m.Link]:
    return [m.Link(peer, rate, rtt) for peer in PEERS if peer != me]


def test_without_links_a_ring_in_turn() -> None:
    """SPEC C2, C8."""
    run, pa = leader()
    start = started(run, pa)
    assert (start.members, start.schedule, start.shape) == (turn(run), "ring", ())


def test_the_leader_goes_around_a_link_that_somebody_found_narrow() -> None:
    """SPEC B13, C8: of which it has only heard."""
    run = swarm(*PEERS)
    ring = turn(run)
    source = next(peer for peer in ring if peer != "PA")
    after = ring[(ring.index(source) + 1) % 4]
    other = next(peer for peer in ring if peer not in (source, after))
    _, pa = leader(run, **{source: {"links": links({after: 8, other: 60})}})
    start = started(run, pa)
    at = start.members.index(source)
    assert start.schedule == "ring" and sorted(start.members) == sorted(PEERS) and start.members[(at + 1) % 4] != after


def test_the_ring_of_the_record_before_goes_on() -> None:
    """SPEC C8: while no other is much quicker."""
    run = swarm(*PEERS, config=only("ring"), rounds=1)
    run, pa = leader(run, **{peer: {"links": to_all(peer, 60)} for peer in PEERS[1:]})
    assert started(run, pa).members == PEERS != turn(run)
    run = swarm(*PEERS, config=only("ring"), rounds=1)
    slow = [*to_all("PB", 60)[:1], m.Link("PC", 0, 30), m.Link("PD", 60, 30)]
    _, pa = leader(run, PB={"links": slow}, PC={"links": to_all("PC", 60)}, PD={"links": to_all("PD", 60)})
    members = started(run, pa).members
    assert members[(members.index("PB") + 1) % 4] != "PC"


def test_links_of_its_own_count() -> None:
    """SPEC B13."""
    run = swarm(*PEERS)
    ring = turn(run)
    after = ring[(ring.index("PA") + 1) % 4]
    _, pa = leader(run)
    pa.told(ev.LinkMeasured(after, 1000.0, 0.1), ev.LinkMeasured(ring[ring.index("PA") - 1], 1e8, 0.1))
    start = started(run, pa)
    assert start.members[(start.members.index("PA") + 1) % 4] != after


def test_another_schedule_and_its_shape_reach_everybody() -> None:
    """SPEC C7: in the plan, in the effect, and in the record, which every voter checks."""
    far = {peer: {"links": to_all(peer, 60, 44)} for peer in PEERS[1:]}
    run, pa = leader(**far)
    pa.told(pa.says("PD", say.promise(run, MINE)))
    effects = pa.skip()
    plans = [p for e in effects if isinstance(e, ef.Send) and isinstance(p := opened(e), m.Plan)]
    start = next(e for e in effects if isinstance(e, ef.StartTransfer))
    assert (start.schedule, start.shape) == ("direct", (limits.SHARE_MAX,) * 4) and len(plans) == 3
    collective = plans[0].collective
    assert (collective.schedule, collective.shape) == ("direct", [limits.SHARE_MAX] * 4)
    root = hash_of("sum")
    for peer in PEERS[1:3]:
        pa.told(pa.says(peer, say.signed_result(run, peer, start.transfer, root)))
    pa.told(ev.TransferEnded(start.transfer, root, 260))
    accepts = [a for e in pa.skip() if isinstance(e, ef.Send) and isinstance(a := opened(e), m.Accept)]
    record = accepts[0].proposal.record
    assert (record.schedule, record.shape, record.transfer) == ("direct", collective.shape, start.transfer)
    pb = Host(run, peer="PB").meet("PA", "PC", "PD").work()
    pb.told(pb.says("PA", say.prepare(run, MINE)), pb.says("PA", plans[0])).skip()
    pb.told(ev.TransferEnded(start.transfer, root, 260)).skip()
    pb.told(pb.says("PA", accepts[0]))
    assert [type(e) for e in pb.skip()] == [ef.PersistVote, ef.Send]


def test_what_was_predicted_is_told_beside_what_it_took() -> None:
    """SPEC C8: when the record is decided."""
    far = {peer: {"links": to_all(peer, 60, 44)} for peer in PEERS[1:]}
    run, pa = leader(**far)
    start = started(run, pa)
    pa.now += 3.0
    root = hash_of("sum")
    pa.told(*(pa.says(peer, say.signed_result(run, peer, start.transfer, root)) for peer in PEERS[1:3]))
    pa.told(ev.TransferEnded(start.transfer, root, 260))
    accept = next(a for e in pa.skip() if isinstance(e, ef.Send) and isinstance(a := opened(e), m.Accept))
    pa.now += 1.0
    pa.told(*(pa.says(peer, say.accepted(run, peer, MINE, accept.proposal)) for peer in PEERS[1:3]))
    note = next(note for note in pa.notes if note.event == "transfer_took")
    assert note.level == "info" and note.fields["schedule"] == "direct" and note.fields["actual_s"] == 3.0
    predicted = note.fields["predicted_s"]
    assert isinstance(predicted, float) and 0.1 < predicted < 1.0


def test_a_retry_by_another_schedule_is_another_transfer_and_completes() -> None:
    """SPEC C1, C5: the same members in the same order; the result of the first is no result of the second."""
    run = swarm("PB", "PC", "PA")
    pa = Host(run).meet("PB", "PC").work()
    pa.told(pa.ready("PB"), pa.ready("PC")).skip()
    first, second = Ballot(0, "PB"), Ballot(1, "PC")
    members = ("PC", "PA", "PB")
    pa.told(pa.says("PB", say.prepare(run, first)), pa.says("PB", say.plan(run, first, *members)))
    ring = pa.one(ef.StartTransfer)
    direct = say.plan(run, second, *members, shares=(1, 1, 1))
    pa.told(pa.says("PB", say.abort(run, first, "PC")), pa.says("PC", say.prepare(run, second)))
    pa.told(pa.says("PC", direct))
    start = pa.one(ef.StartTransfer)
    assert start.members == ring.members and start.transfer != ring.transfer
    assert (start.schedule, start.shape) == ("direct", (1, 1, 1))
    pa.told(ev.TransferEnded(ring.transfer, hash_of("ring's"), 260))
    assert pa.skip() == [], "it is kept, and nobody asked for it"
    pa.told(ev.TransferEnded(start.transfer, hash_of("sum"), 260))
    result = opened(pa.one(ef.Send))
    assert isinstance(result, m.Result) and result.transfer == start.transfer
    third = Ballot(2, "PA")
    assert until(pa, "to PC: prepare 2.PA", "PB", "PC") < 60
    pa.skip()
    for peer in ("PB", "PC"):
        pa.told(pa.says(peer, say.promise(run, third, completed=direct.collective)))
    plans = [p for e in pa.skip() if isinstance(e, ef.Send) and isinstance(p := opened(e), m.Plan)]
    assert [plan.collective for plan in plans] == [direct.collective] * 2


def test_what_is_under_way_is_planned_again_as_it_was() -> None:
    """SPEC C8, C1: whatever the next leader knows of links, bytes that were moved are not moved again."""
    run = swarm("PB", "PA", "PC")
    pa = Host(run).meet("PB", "PC").work()
    pa.told(pa.ready("PB"), pa.ready("PC")).skip()
    backwards = tuple(reversed(turn(run, "PA", "PB", "PC")))
    plan = say.plan(run, Ballot(0, "PB"), *backwards, shares=(3, 2, 1))
    pa.told(pa.says("PB", say.prepare(run, Ballot(0, "PB"))), pa.says("PB", plan))
    start = pa.one(ef.StartTransfer)
    mine = Ballot(1, "PA")
    said = until(pa, "to PC: prepare 1.PA", "PC")
    assert said < 60
    pa.told(pa.ready("PC"), *(pa.says(peer, say.promise(run, mine)) for peer in ("PC", "PB")))
    pa.told(pa.after(1.5))
    effects = pa.skip()
    plans = [p for e in effects if isinstance(e, ef.Send) and isinstance(p := opened(e), m.Plan)]
    assert plans and plans[0].collective == plan.collective
    assert not any(isinstance(e, ef.StartTransfer | ef.AbortTransfer) for e in effects)
    assert pa.node.round.reducing == start.transfer


def hidden(*peers: str) -> dict[str, dict[str, object]]:
    return {peer: {"bulk": ""} for peer in peers}


def test_two_that_nobody_can_dial_are_no_neighbours() -> None:
    """SPEC C8."""
    run = swarm(*PEERS)
    ring = [peer for peer in turn(run) if peer != "PA"]
    _, pa = leader(run, **hidden(*ring[:2]))
    members = started(run, pa).members
    assert sorted(members) == sorted(PEERS) and (members.index(ring[0]) - members.index(ring[1])) % 2 == 0


def test_who_cannot_be_connected_waits_and_it_is_said() -> None:
    """SPEC C8: three of four cannot be dialled; one of them has to wait, or the attempt comes to nothing."""
    run, pa = leader(**hidden("PB", "PC", "PD"))
    start = started(run, pa)
    assert len(start.members) == 2 and "PA" in start.members
    note = next(note for note in pa.notes if note.event == "unconnected")
    waiting = [peer for peer in turn(run) if peer not in start.members]
    assert note.level == "warning" and f"only 1 can be dialled: {' '.join(waiting)} must wait" in note.text


def test_too_few_that_can_be_connected_are_no_ring() -> None:
    """SPEC C8: fewer than the run's min_peers."""
    run = swarm(*PEERS, config=run_config({"min_peers": 3, "start_peers": 3}))
    run, pa = leader(run, **hidden("PB", "PC", "PD"))
    pa.told(pa.says("PD", say.promise(run, MINE)))
    assert not any(isinstance(e, ef.StartTransfer) for e in pa.skip())
    assert any("cannot connect enough members" in note.text for note in pa.notes)


@pytest.mark.parametrize("schedule", ["ring", "direct", "torus"])
def test_a_manifest_names_the_schedule(schedule: Literal["ring", "direct", "torus"]) -> None:
    """SPEC C7, C8."""
    run, pa = leader(swarm(*PEERS, config=only(schedule)))
    start = started(run, pa)
    shape = {"ring": (), "direct": (1, 1, 1, 1), "torus": (2,)}[schedule]
    assert (start.schedule, start.shape, start.members) == (schedule, shape, turn(run))
