"""What goes wrong in a round: refusals, broken transfers, leaders that die in each phase. SPEC A5, A10, A11."""

from msgspec.structs import replace

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.ids import Ballot, hash_of
from tests.protocol import puppets as say
from tests.protocol.history import ready_of
from tests.protocol.playbook import Host, describe, run_config, swarm
from tests.protocol.test_round_leader import MINE, accept_of, leader, ring

THEIRS, NEXT = Ballot(0, "PB"), Ballot(1, "PA")


def follower(*order: str) -> tuple[say.History, Host]:
    """PB leads attempt 0, PA attempt 1; everybody is ready."""
    order = order or ("PB", "PA", "PC")
    run = swarm(*order)
    pa = Host(run).meet(*order).work()
    hear(pa, *order)
    pa.skip()
    return run, pa


def hear(pa: Host, *peers: str) -> None:
    pa.told(*(pa.ready(peer) for peer in peers if peer != "PA"))


def wait(pa: Host, seconds: float, *alive: str) -> list[str]:
    """Time passes, and these are heard all along; what the host does meanwhile."""
    done: list[str] = []
    for _ in range(int(seconds)):
        hear(pa, *alive)
        pa.told(pa.after(1.0))
        done += [describe(effect) for effect in pa.skip()]
    return done


def until(pa: Host, words: str, *alive: str) -> float:
    """Seconds until it does this; the moment after is the next line of the dialogue."""
    began = pa.now
    while words not in wait(pa, 1, *alive):
        assert pa.now - began < 30, f"no {words!r} within 30 s"
    return pa.now - began


# ---- the leader dies


def test_it_dies_before_it_begins() -> None:
    """SPEC A11: a leader that is away is passed over once its beacons are missed."""
    _, pa = follower()
    assert until(pa, "to PC: prepare 1.PA", "PC") <= 11


def test_it_dies_after_prepare() -> None:
    run, pa = follower()
    pa.told(pa.says("PB", say.prepare(run, THEIRS))).skip()
    assert wait(pa, 9, "PC") == []
    assert until(pa, "to PC: prepare 1.PA", "PC") <= 2


def test_it_dies_after_the_plan() -> None:
    """SPEC C4, C5: the ring goes on without it, and the next leader finds the result finished."""
    run, pa = follower()
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PC", "PA"))).skip()
    pa >> say.ended(run, "PC", "PA")
    pa << "to PB: result"
    assert until(pa, "to PC: prepare 1.PA", "PC") <= 11
    done = say.collective(run, "PC", "PA")
    pa >> pa.says("PC", say.promise(run, NEXT, completed=done))
    pa >> pa.after(1.1)  # PB may still answer: it was heard ten seconds ago
    pa << "to PC: plan 1.PA PC+PA"  # its own result is known already, no transfer begins
    pa >> pa.says("PC", say.result(run, "PC", "PC", "PA"))
    pa << "to PB: accept 1.PA round 1 by PC+PA" << "on disk: promised 1.PA, accepted 1.PA"
    pa << "to PC: accept 1.PA round 1 by PC+PA"


def test_it_dies_after_accept() -> None:
    """SPEC A6: what one of the living accepted is proposed again."""
    run, pa = follower()
    value = say.proposal(run, "PC", "PA")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PC", "PA"))).skip()
    pa.told(say.ended(run, "PC", "PA"), pa.says("PB", say.accept(run, THEIRS, value))).skip()
    assert until(pa, "to PC: prepare 1.PA", "PC") <= 11
    pa >> pa.says("PC", say.promise(run, NEXT))
    pa >> pa.after(1.1)
    pa << "to PB: accept 1.PA round 1 by PC+PA" << "on disk: promised 1.PA, accepted 1.PA"
    pa << "to PC: accept 1.PA round 1 by PC+PA"


def test_it_dies_after_the_decision() -> None:
    """SPEC K1: somebody that has the record shows it in its beacon and is asked."""
    run, pa = follower()
    value = say.proposal(run, "PC", "PA")
    pa >> pa.beacon("PC", head_round=1)
    pa << "ask PC for entries from 1"
    pa >> ev.EntriesReceived("PC", (run.certify(value),))
    pa << "log: round 1 by PC+PA"
    pa >> pa.beacon("PC", head_round=1, applied=1)
    pa << "fetch update from PC"
    pa >> ev.UpdateHeld(value.record.update_root)
    pa << "apply round 1, adopt"


# ---- refusals


def test_one_voice_against_it_does_not_end_an_attempt() -> None:
    """SPEC A11: PC has promised more; PA and PB are a quorum without it."""
    run, pa = leader()
    pa.told(pa.says("PC", m.Refuse(run.head.at, MINE, Ballot(8, "PC"), "more"))).silent()
    pa.told(pa.says("PB", say.promise(run, MINE)))
    assert sorted(ring(pa)) == ["PA", "PB", "PC"]


def test_too_many_against_it_do() -> None:
    """SPEC A11: and the next ballot is above what they promised."""
    run, pa = leader()
    pa.told(pa.says("PC", m.Refuse(run.head.at, MINE, Ballot(8, "PC"), "more")))
    pa.told(pa.says("PB", m.Refuse(run.head.at, MINE, Ballot(7, "PB"), "more")))
    begun = [words for words in wait(pa, 25, "PB", "PC") if "prepare" in words]
    assert begun and all(int(words.split("prepare ")[1].split(".")[0]) > 8 for words in begun)


def test_a_busy_voter_is_not_against_it() -> None:
    """SPEC A5: it follows a lower attempt that moves; ours may wait for it."""
    run, pa = leader()
    pa.told(pa.says("PC", m.Refuse(run.head.at, MINE, Ballot(0, "PA"), "busy")))
    pa.told(pa.says("PB", m.Refuse(run.head.at, MINE, Ballot(0, "PA"), "busy"))).silent()
    assert pa.node.round.leading.attempt is not None


def test_what_is_lost_on_the_way_is_said_again() -> None:
    """SPEC A12: a few times within an attempt, to those who have not answered."""
    run, pa = leader()
    pa.told(pa.says("PB", say.promise(run, MINE)), pa.after(0.5)).silent()
    said = [[words for words in wait(pa, s, "PB", "PC") if words.startswith("to PC: plan 0.PA")] for s in (1, 8)]
    assert len(said[0]) == 1, "the grace is over"
    assert 2 <= len(said[1]) <= 3


# ---- transfers


def test_a_broken_transfer_is_tried_again_without_the_suspect() -> None:
    """SPEC A10: the connection named PC; everybody is told; the next leader leaves it out."""
    run, pa = follower("PB", "PA", "PC", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)))
    pa.told(pa.says("PB", say.plan(run, THEIRS, "PB", "PC", "PA", "PD"))).skip()
    pa >> say.broke(run, "PB", "PC", "PA", "PD", suspect="PC")
    told = [describe(effect) for effect in pa.skip()]
    assert [words for words in told if "abort" in words] == [
        f"to {p}: abort 0.PB, suspect PC" for p in ("PB", "PC", "PD")
    ]
    assert "to PB: prepare 1.PA" in told, "an aborted attempt is not waited for"
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.promise(run, NEXT)))
    assert sorted(ring(pa)) == ["PA", "PB", "PD"]


def test_silence_in_a_ring_needs_a_second_witness() -> None:
    """SPEC A10: PC was heard a moment ago; a stall upstream looks like a silent neighbour."""
    run, pa = follower("PB", "PA", "PC", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)))
    pa.told(pa.says("PB", say.plan(run, THEIRS, "PB", "PC", "PA", "PD"))).skip()
    pa.told(say.broke(run, "PB", "PC", "PA", "PD", suspect="PC", silent=True)).skip()
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.promise(run, NEXT)))
    assert sorted(ring(pa)) == ["PA", "PB", "PC", "PD"]
    pa >> pa.says("PD", say.abort(run, NEXT, "PC", silent=True))
    pa << "abort transfer"
    assert sorted(p for p in pa.node.round.standing(pa.now).alive) == ["PA", "PB", "PD"]


def test_an_accuser_of_everybody_is_left_out_itself() -> None:
    """SPEC A10: and a suspect that is no member counts for nothing."""
    run, pa = leader("PA", "PB", "PC", "PD")
    suspicion = pa.node.round.parts.suspicion
    for suspect in ("PB", "PC", "PD", "PB"):
        suspicion.accuse("PC", suspect, True, False, pa.now)
    assert suspicion.excluded("PC", pa.now)
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.promise(run, MINE)))
    pa.skip()
    pa.told(pa.says("PB", say.abort(run, MINE, "PZ"))).skip()
    assert not suspicion.excluded("PZ", pa.now)


def test_who_tells_of_a_broken_ring_after_others_is_no_accuser() -> None:
    """SPEC A10: in a large ring everybody tells of each failure, and is not left out for it."""
    run, pa = leader("PA", "PB", "PC", "PD")
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.promise(run, MINE)))
    pa.told(pa.says("PB", say.abort(run, MINE, None))).skip()
    for _ in range(limits.ACCUSATIONS_MAX + 2):
        pa.told(pa.says("PC", say.abort(run, MINE, None))).skip()
    suspicion = pa.node.round.parts.suspicion
    assert not suspicion.excluded("PC", pa.now) and not suspicion.excluded("PB", pa.now)


def test_who_was_left_out_comes_back() -> None:
    """SPEC A10: a run of two that needs both would otherwise stand still for good."""
    run, pa = leader("PA", "PB", start_peers=2, min_peers=2)
    pa.told(pa.says("PB", say.promise(run, MINE)))
    ring(pa)
    pa.told(say.broke(run, "PA", "PB", suspect="PB"), say.broke(run, "PB", "PA", suspect="PB")).skip()
    assert wait(pa, 14, "PB") == []
    assert "to PB: prepare 1.PB" not in (later := wait(pa, 20, "PB"))
    assert any("prepare" in words for words in later)


def test_attempts_that_fail_at_once_come_ever_more_seldom() -> None:
    """SPEC A11: the first retry is at once, the next ones are not."""
    pa, begun = Host(swarm("PA")).work(), 0
    for _ in range(200):
        for effect in pa.skip():
            if isinstance(effect, ef.StartTransfer):
                begun += 1
                pa.told(ev.TransferBroke(effect.transfer, None, False, "no memory"))
        pa.told(pa.after(0.1))
    assert 4 <= begun <= 9


def test_an_abort_after_the_result_stops_nothing() -> None:
    """SPEC A10, C4: a majority has the bytes; who lost them fetches."""
    run, pa = leader()
    pa.told(pa.says("PB", say.promise(run, MINE)), pa.says("PC", say.promise(run, MINE)))
    members = ring(pa)
    pa.told(say.ended(run, *members), pa.says("PB", say.result(run, "PB", *members)))
    accept = accept_of(pa)
    pa >> pa.says("PC", say.abort(run, MINE, "PB"))
    pa >> pa.says("PB", say.accepted(run, "PB", MINE, accept.proposal))
    assert pa.one(ef.AppendEntry).entry.record.round == 1


def test_our_own_transfer_breaks_after_the_others_finished() -> None:
    """SPEC A7, C4: no abort; the bytes are fetched, and then comes the vote."""
    run, pa = follower("PB", "PA", "PC")
    value = say.proposal(run, "PB", "PC", "PA")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PB", "PC", "PA"))).skip()
    pa >> pa.says("PB", say.accept(run, THEIRS, value))
    pa.silent()  # our own transfer is about to bring the bytes
    pa >> say.broke(run, "PB", "PC", "PA", suspect="PC")
    assert pa.one(ef.FetchUpdate).root == value.record.update_root
    pa >> ev.UpdateHeld(value.record.update_root)
    pa << "on disk: promised 0.PB, accepted 0.PB" << "to PB: accepted 0.PB"


def test_a_late_abort_does_not_end_the_attempt_after_it() -> None:
    """SPEC A10: PC's word on attempt 0 arrives when this host leads attempt 1; that goes on."""
    run, pa = follower("PB", "PA", "PC", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)))
    pa.told(pa.says("PB", say.plan(run, THEIRS, "PB", "PC", "PA", "PD"))).skip()
    assert until(pa, "to PC: prepare 1.PA", "PC", "PD") <= 11
    pa >> pa.says("PC", say.abort(run, THEIRS, "PB"))
    pa << "abort transfer"
    pa.silent()
    attempt, suspicion = pa.node.round.leading.attempt, pa.node.round.parts.suspicion
    assert attempt is not None and attempt.ballot == NEXT and suspicion.excluded("PB", pa.now)
    pa.told(pa.says("PC", say.promise(run, NEXT)), pa.says("PD", say.promise(run, NEXT))).told(pa.after(1.1))
    assert sorted(ring(pa)) == ["PA", "PC", "PD"]


def test_a_stall_that_is_told_after_its_attempt_was_given_up_counts() -> None:
    """SPEC A10: also to a voter that no plan names; with a second one PD is left out."""
    run, pa = follower("PB", "PC", "PA", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS))).skip()
    wait(pa, 11, "PB", "PC", "PD")
    pa.told(pa.says("PC", say.prepare(run, Ballot(1, "PC")))).skip()
    suspicion = pa.node.round.parts.suspicion
    pa.told(pa.says("PB", say.abort(run, THEIRS, "PD", silent=True))).silent()
    assert not suspicion.excluded("PD", pa.now)
    pa.told(pa.says("PB", say.abort(run, Ballot(1, "PC"), "PD", silent=True))).skip()
    assert suspicion.excluded("PD", pa.now)


def test_word_of_an_attempt_of_long_ago_is_not_heard() -> None:
    """SPEC A10: of the promised one and those before it as many as there are voters: of 4, 3 and 2."""
    run, pa = follower("PB", "PC", "PA")
    pa.told(pa.says("PC", say.prepare(run, Ballot(4, "PC")))).skip()
    for attempt, leader_ in ((0, "PB"), (1, "PC")):
        pa.told(pa.says("PB", say.abort(run, Ballot(attempt, leader_), "PC"))).silent()
    suspicion = pa.node.round.parts.suspicion
    assert not suspicion.excluded("PC", pa.now)
    pa.told(pa.says("PB", say.abort(run, Ballot(2, "PA"), "PC"))).silent()
    assert suspicion.excluded("PC", pa.now)


def test_a_transfer_has_the_whole_time_of_an_attempt() -> None:
    """SPEC A5, A11: a phase that ends is progress, also to a leader that has no part in the next one."""
    run = swarm("PA", "PB", "PC")
    pa = Host(run).meet("PB", "PC")
    until(pa, "to PB: prepare 0.PA", "PB", "PC")
    wait(pa, 7, "PB", "PC")
    for peer in ("PB", "PC"):
        pa.told(pa.says(peer, say.promise(run, MINE)))
    assert any("plan" in describe(effect) for effect in pa.skip())
    wait(pa, 9, "PB", "PC")
    assert pa.node.round.leading.attempt is not None
    wait(pa, 2, "PB", "PC")
    assert pa.node.round.leading.attempt is None


def test_promises_without_a_state_in_common_are_no_progress() -> None:
    """SPEC A4, A11: two of three promised, on different states; if the third says nothing, that attempt ends."""
    run, pa = leader("PA", "PB", "PC")
    pa.told(pa.says("PB", replace(say.promise(run, MINE), state_digest=hash_of("state", b"another")))).skip()
    wait(pa, 12, "PB", "PC")
    assert pa.node.round.leading.attempt is None


def test_a_late_abort_does_not_stop_the_ring_after_it() -> None:
    """SPEC A10: the plan of attempt 1 came without its prepare; a voter still has promised attempt 0 alone."""
    run, pa = follower("PB", "PC", "PA", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)))
    pa.told(pa.says("PC", say.plan(run, Ballot(1, "PC"), "PC", "PA", "PD"))).skip()
    pa.told(pa.says("PD", say.abort(run, THEIRS, "PB"))).silent()
    attempts = pa.node.round.parts.attempts
    assert pa.node.round.reducing is not None and attempts.number == 1 and not attempts.expired(pa.now)


def test_a_ring_that_broke_for_all_its_members_failed_once() -> None:
    """SPEC A10, A11: each of them says so; that is one failure of the decision, and one line in the log."""
    run, pa = follower("PB", "PC", "PA", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)))
    pa.told(pa.says("PB", say.plan(run, THEIRS, "PB", "PC", "PA", "PD"))).skip()
    for peer in ("PB", "PC", "PD"):
        pa.told(pa.says(peer, say.abort(run, THEIRS, "PZ")))
    pa.skip()
    attempts = pa.node.round.parts.attempts
    assert (attempts.number, attempts._failures) == (1, 1)
    assert [note.level for note in pa.notes if note.event == "transfer_aborted"] == ["warning", "debug", "debug"]


def test_a_voter_outside_the_ring_hears_of_the_abort() -> None:
    """SPEC A10: it follows the attempt without knowing its plan, and must not wait for it in vain."""
    run, pa = follower("PB", "PA", "PC", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS))).skip()
    pa.told(pa.says("PC", say.abort(run, THEIRS, "PD")))
    assert "to PC: prepare 1.PA" in [describe(effect) for effect in pa.skip()]


def test_progress_of_a_retry_is_progress() -> None:
    """SPEC A5: counted for each transfer anew, and for one that is begun again; also by a voter that knows no plan."""
    run, pa = follower("PB", "PC", "PA")
    moved = pa.node.round.on_peer_moved
    first, second = say.transfer(run, "PB", "PC"), say.transfer(run, "PB", "PC", "PA")
    attempts = pa.node.round.parts.attempts
    pa.told(pa.says("PB", say.prepare(run, THEIRS))).skip()
    said = ((first, 500, True), (first, 500, False), (second, 10, True), (second, 4, False), (second, 6, True))
    for transfer, done, expected in said:
        pa.now += 11
        moved("PC", transfer, done, pa.now)
        assert (attempts.busy(THEIRS, pa.now) is not None) is expected


def test_without_a_quorum_in_sight_no_ballot_is_burnt() -> None:
    """SPEC A3: a host that hears nobody waits, and says so."""
    run = swarm("PA", "PB", "PC")
    pa = Host(run).work()
    assert pa.node.round.reach(pa.now) is None  # there was no time to hear anybody
    assert wait(pa, 60) == []
    assert pa.node.round.reason == "only 1 of 3 voters are here: no quorum"
    reach = pa.node.round.reach(pa.now)
    assert reach is not None and (reach.quorum, reach.missing) == (False, ("PB", "PC"))


def test_a_result_is_kept_although_its_plan_was_given_up() -> None:
    """SPEC C4: it may end after the abort; the next leader learns of it."""
    run, pa = follower("PB", "PA", "PC", "PD")
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, "PB", "PC", "PA"))).skip()
    pa.told(pa.says("PC", say.abort(run, THEIRS, None))).skip()
    pa >> say.ended(run, "PB", "PC", "PA")
    pa.silent()
    assert pa.node.round.parts.exchange.completed() == say.collective(run, "PB", "PC", "PA")


def test_a_ready_peer_on_another_state_is_not_ready() -> None:
    """SPEC A3, A4."""
    run = swarm("PA", "PB", config=run_config({"start_peers": 2, "min_peers": 2}))
    pa = Host(run).meet("PB").work()
    pa.told(pa.beacon("PB", state="ready", ready=ready_of(run.head, "PB", hash_of("elsewhere"))))
    pa.silent()
    assert pa.node.round.reason == "1 of 2 have done their steps, the run asks for 2"
