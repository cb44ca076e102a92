"""Members that live and do not hear who leads: their beacons come, and show nothing of the transfer. SPEC A10, A11."""

from intellectd.protocol import messages as m
from intellectd.protocol.ids import hash_of
from tests.protocol import puppets as say
from tests.protocol.history import ready_of
from tests.protocol.playbook import History, Host, swarm
from tests.protocol.test_round_failures import NEXT, THEIRS, wait
from tests.protocol.test_round_leader import MINE, leader, ring

FOUR = ("PB", "PA", "PC", "PD")


def planned(*members: str) -> tuple[History, Host]:
    """PB leads attempt 0, a transfer of these; PA follows it."""
    run = swarm(*FOUR)
    pa = Host(run).meet("PB", "PC", "PD").work()
    pa.told(*(pa.ready(peer) for peer in ("PB", "PC", "PD")))
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, *members))).skip()
    return run, pa


def shows(run: History, pa: Host, peer: str, *members: str, done: int = 0) -> None:
    ready, transfer = ready_of(run.head, peer, run.state), m.Transfer(say.transfer(run, *members), done, 100)
    pa.told(pa.beacon(peer, state="ready", ready=ready, transfer=transfer)).skip()


def left_out(pa: Host) -> list[str]:
    return [p for p in FOUR if pa.node.round.parts.suspicion.excluded(p, pa.now)]


def test_who_shows_nothing_of_it_is_left_out_when_it_breaks() -> None:
    """SPEC A10: PC and PD live, and only PD has shown the transfer; PA suspects neither."""
    order = ("PB", "PC", "PA", "PD")
    run, pa = planned(*order)
    for peer in ("PB", "PD"):
        shows(run, pa, peer, *order)
    pa.told(pa.after(7.0), pa.ready("PB"), pa.ready("PC"), pa.ready("PD")).skip()
    assert left_out(pa) == []
    pa.told(say.broke(run, *order, suspect="PB", silent=True)).skip()
    assert left_out(pa) == ["PC"]
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.promise(run, NEXT)))
    assert sorted(ring(pa)) == ["PA", "PB", "PD"]


def test_a_plan_may_be_lost_twice() -> None:
    """SPEC A10, A12: it is said again; a beacon of before that says nothing, nor does one that never came."""
    run, pa = planned(*FOUR)
    pa.told(pa.after(5.5)).told(pa.ready("PC")).told(pa.after(1.5))
    shows(run, pa, "PB", *FOUR)
    pa.told(say.broke(run, *FOUR, suspect=None)).skip()
    assert left_out(pa) == []


def test_who_leads_sees_it_too_and_knows_whose_result_it_has() -> None:
    """SPEC A10: PB had it all before any beacon of its could show it."""
    run, pa = leader("PA", "PB", "PC", "PD")
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.promise(run, MINE)))
    members = ring(pa)
    pa.told(pa.says("PB", say.result(run, "PB", *members)))
    shows(run, pa, "PD", *members)
    pa.told(pa.after(7.0), *(pa.ready(p) for p in ("PB", "PC", "PD"))).skip()
    pa.told(say.broke(run, *members, suspect="PB", silent=True)).skip()
    assert left_out(pa) == ["PC"]


def test_an_attempt_that_nobody_heard_of() -> None:
    """SPEC A10, A11: who leads is no member, and is told of no failure: it has the beacons alone."""
    run = swarm("PA", "PB", "PC", "PD")
    pa = Host(run).meet("PB", "PC", "PD")
    assert any("prepare" in words for words in wait(pa, 5, "PB", "PC", "PD"))
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.promise(run, MINE)))
    plans = [words for words in wait(pa, 13, "PB", "PC", "PD") if "plan 0.PA" in words]
    assert plans and pa.node.round.leading.attempt is None
    assert left_out(pa) == ["PB", "PC", "PD"]


def test_word_said_again_leaves_nobody_out_for_longer() -> None:
    """SPEC A10: the first word of an attempt is what ends it, and each failure counts once."""
    run, pa = planned(*FOUR)
    pa.told(pa.after(7.0), *(pa.ready(p) for p in ("PB", "PC", "PD"))).skip()
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.abort(run, THEIRS, None))).skip()
    suspicion = pa.node.round.parts.suspicion
    assert suspicion.excluded("PC", pa.now + 14.9) and not suspicion.excluded("PC", pa.now + 15.1)


def test_a_leader_that_hears_no_quorum_is_not_waited_for() -> None:
    """SPEC A11: PB lives, and says that it cannot begin; PA, whose turn is next, need not wait."""
    run = swarm("PB", "PA", "PC")
    pa = Host(run).meet("PB", "PC").work()
    head = run.head
    cut_off = m.Lineage(head.recoveries, head.branches, head.tokens_total, False, True)
    ready = ready_of(head, "PB", run.state)
    pa.told(pa.ready("PC"), pa.beacon("PB", state="ready", ready=ready, lineage=cut_off))
    pa << "on disk: promised 1.PA" << "to PB: prepare 1.PA" << "to PC: prepare 1.PA"


def test_another_transfer_says_nothing_of_this_one() -> None:
    """SPEC A10: PC follows somebody else's plan."""
    run, pa = planned(*FOUR)
    other = m.Transfer(hash_of("transfer", b"another"), 5, 100)
    for peer in ("PB", "PD"):
        shows(run, pa, peer, *FOUR)
    ready = ready_of(run.head, "PC", run.state)
    pa.told(pa.after(7.0), pa.beacon("PC", state="ready", ready=ready, transfer=other)).skip()
    pa.told(pa.ready("PB"), pa.ready("PD"), say.broke(run, *FOUR, suspect=None)).skip()
    assert left_out(pa) == ["PC"]
