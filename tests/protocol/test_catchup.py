"""From nothing, from an old state, from a wrong one: always to the head. SPEC K*."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol.ids import Ballot, hash_of
from intellectd.protocol.records import Entry
from tests.protocol import puppets as say
from tests.protocol.playbook import History, Host, describe, run_config, swarm


def grown(rounds: int, until: int | None = None) -> History:
    """A run of PA and PB that is this long; PZ is not in it."""
    run = History(run_config(until=until))
    run.opening("PA", "PB")
    for _ in range(rounds):
        run.round("PA", "PB")
    return run


def newcomer(run: History, applied: int = -2, known: int = -1, **node: object) -> Host:
    """PZ: `known` rounds of the log and the state of `applied` are on its disk."""
    return Host(run, "PZ", applied, **{"entries": run.entries[: known + 1], "vote": None, "held_updates": (), **node})


def root(run: History, round_: int) -> bytes:
    return run.entries[round_].record.update_root


def test_a_joiner_reads_the_log_then_a_state_then_replays() -> None:
    """SPEC K1-K5: the newest state that the log proves, from whoever has it; the updates after it come meanwhile."""
    run = grown(6)
    pz = newcomer(run)
    pz >> pz.beacon("PA", snapshots=[2, 4])
    pz << "ask PA for entries from 0"
    pz.told(ev.EntriesReceived("PA", tuple(run.entries)))
    assert [describe(effect) for effect in pz.skip()] == [
        "log: round 0 by nobody",
        *(f"log: round {n} by PA+PB" for n in range(1, 7)),
        "fetch state 4 from PA",
        *("fetch update from PA" for _ in (5, 6)),
    ]
    pz >> ev.UpdateHeld(root(run, 5))
    pz >> ev.SnapshotInstalled(4, run.states[4])
    pz << "apply round 5, none"
    pz >> ev.Applied(5, run.states[5])
    assert pz.node.state == "synced", "one record behind is near enough to be named"
    pz >> ev.UpdateHeld(root(run, 6))
    pz << "apply round 6, none"
    pz >> ev.Applied(6, run.states[6])
    pz << "on disk: promised 0.11"  # it stands where a quorum stands: its journal begins
    pz.silent()
    assert pz.node.round.state_digest == run.states[6]


def test_a_state_is_fetched_from_all_that_offer_it_also_from_those_that_come_later() -> None:
    """SPEC K11: each is named once; not those that offer another state."""
    run = grown(6)
    pz = newcomer(run, known=6)
    pz >> pz.beacon("PA", snapshots=[4], updates_from=7)
    pz << "fetch state 4 from PA"
    pz >> pz.beacon("PB", snapshots=[2, 4], updates_from=7)
    pz << "state 4 also from PB"
    pz >> pz.beacon("PB", snapshots=[4], updates_from=7)
    pz >> pz.beacon("PC", snapshots=[2], updates_from=7)
    pz.silent()
    pz >> ev.SnapshotMissed(4, "PA", "no donor is left")
    pz.told(pz.after(limits.RETRY_MAX_S))
    fetch = pz.one(ef.FetchSnapshot)
    assert (fetch.round, fetch.donor, fetch.others) == (4, "PB", ())  # PA has failed with it, lately


def test_others_without_a_state_are_named_as_fellows() -> None:
    """SPEC K11: those that come later too, each once; not those that stand somewhere."""
    run = grown(6)
    pz = newcomer(run, known=6)
    pz >> pz.beacon("PC", applied=-2, state="joining")
    pz >> pz.beacon("PB", applied=2)
    pz >> pz.beacon("PA", snapshots=[4], updates_from=7)
    pz << "fetch state 4 from PA, beside PC"
    pz >> pz.beacon("PC", applied=-2, state="joining")
    pz >> pz.beacon("PE", applied=-2, state="joining")
    pz << "state 4 also from , beside PE"
    pz >> pz.beacon("PE", snapshots=[4], updates_from=7)  # it has all by now
    pz.silent()


def test_a_joiner_before_the_opening() -> None:
    """SPEC K5: the first parameters are the state of round -1, served as round 0."""
    run = History(run_config({"start_peers": 2}))
    pz = newcomer(run)
    pz >> pz.beacon("PA", applied=-1, snapshots=[0])
    pz << "fetch state -1 from PA"
    pz >> ev.SnapshotInstalled(-1, run.states[-1])
    pz << "on disk: promised 0.11"
    pz >> ev.TrainerAttached(None)
    assert pz.node.state == "waiting"
    opening = run.opening("PA", "PZ")
    pz >> ev.MessageReceived("PA", pz.sealed("PA", opening))
    pz << "log: round 0 by nobody" << "apply round 0 (no update), none"
    pz >> ev.Applied(0, run.states[0])
    pz << "train round 1 on 1/1"


def test_an_old_state_is_replayed_from_disk_first() -> None:
    """SPEC K3: updates that are held are not fetched."""
    run = grown(3)
    pz = newcomer(run, applied=1, known=3, held_updates=(root(run, 2),))
    pz >> ev.Tick()
    pz << "apply round 2, none"
    pz >> ev.Applied(2, run.states[2])
    pz >> pz.beacon("PA")
    pz << "fetch update from PA"


def test_a_state_that_the_log_contradicts_is_dropped() -> None:
    """SPEC K6: at start, after an update, and when the next record says so; then from a snapshot, with replay."""
    run = grown(3)
    start = newcomer(run, applied=1, known=3, applied_digest=hash_of("rotten"))
    assert not start.node.catchup.has_state
    pz = newcomer(run, applied=1, known=3, held_updates=(root(run, 2), root(run, 3)))
    pz >> ev.Tick()
    pz << "apply round 2, none"
    pz.told(pz.beacon("PA", snapshots=[1]))
    pz >> ev.Applied(2, hash_of("other bits"))
    pz << "fetch state 1 from PA"
    pz >> ev.SnapshotInstalled(1, run.states[1])
    pz << "apply round 2, none"
    pz >> ev.Applied(2, run.states[2])
    pz << "apply round 3, none"
    pz >> ev.Applied(3, hash_of("still other bits"))  # not proven yet: round 4 will tell
    pz << "on disk: promised 0.11"
    four = run.round("PA", "PB")
    pz >> ev.MessageReceived("PA", pz.sealed("PA", four))
    pz << "log: round 4 by PA+PB"
    pz << "fetch state 1 from PA"


def test_a_host_that_computes_other_numbers_stops() -> None:
    """SPEC K6: fetching states for ever would load everybody and end nowhere."""
    run = grown(3)
    pz = newcomer(run, applied=1, known=3, held_updates=(root(run, 2),))
    pz.told(pz.beacon("PA", snapshots=[1]))
    for _ in range(limits.DIVERGENCES_MAX - 1):
        pz.told(ev.Applied(2, hash_of("other bits"))).skip()
        pz.told(ev.SnapshotInstalled(1, run.states[1])).skip()
    pz >> ev.Applied(2, hash_of("other bits"))
    pz << "halt: this host computes other states than the run agreed on, last in round 2"


def test_an_old_answer_does_not_bring_a_dropped_state_back() -> None:
    """SPEC K6: `applied` counts only when it is what was asked for last."""
    run = grown(3)
    pz = newcomer(run, applied=1, known=3, held_updates=(root(run, 2),))
    pz.told(ev.Tick()).skip()
    pz.told(ev.Applied(2, hash_of("other bits"))).skip()
    pz.told(ev.Applied(2, run.states[2]))
    assert not pz.node.catchup.has_state


def test_a_donor_that_boasts_is_asked_once() -> None:
    """SPEC K4: it says to be ahead of everybody and gives nothing; the others have the records."""
    run = grown(3)
    pz = newcomer(run)
    pz >> pz.beacon("PX", head_round=2**39)
    pz << "ask PX for entries from 0"
    pz >> pz.beacon("PA")
    pz >> ev.EntriesReceived("PX", ())
    pz >> pz.after(1)
    pz << "ask PA for entries from 0"
    pz.silent()


def test_a_few_that_boast_do_not_take_all_the_turns() -> None:
    """SPEC K1, K4: with each that gives nothing the pause grows, and after it the first of them was asked again."""
    run = grown(3)
    pz, liars = newcomer(run), [f"L{n}" for n in range(1, 7)]
    while pz.node.head.round < 0 and pz.now < 1000.0:
        pz.told(*(pz.beacon(peer, head_round=99) for peer in liars), pz.beacon("PA"))
        for asked in [effect for effect in pz.skip() if isinstance(effect, ef.AskEntries)]:
            pz.told(ev.EntriesReceived(asked.peer, tuple(run.entries) if asked.peer == "PA" else ()))
        pz.told(pz.after(1.0))
    assert pz.node.head.round == 3


def test_who_offers_states_that_it_does_not_give_keeps_nobody_from_another() -> None:
    """SPEC K4, K5: each of eight is a shorter way than the one that PA has."""
    run = grown(12)
    pz, asked = newcomer(run, known=12), dict[tuple[str, int], int]()
    while ("PA", 2) not in asked and pz.now < 400.0:
        pz.told(pz.beacon("L1", snapshots=list(range(4, 12))), pz.beacon("PA", snapshots=[2]))
        for fetch in [effect for effect in pz.skip() if isinstance(effect, ef.FetchSnapshot)]:
            asked[fetch.donor, fetch.round] = asked.get((fetch.donor, fetch.round), 0) + 1
            if fetch.donor == "L1":
                pz.told(ev.SnapshotMissed(fetch.round, "L1", "no such object"))
        pz.told(pz.after(1.0))
    assert asked == {("L1", 11): 1, ("PA", 2): 1}


def test_an_invalid_record_is_the_donors_fault_and_it_is_not_asked_again_at_once() -> None:
    """SPEC K1: whatever a donor sends is checked like everything else."""
    run = grown(2)
    entry = run.entries[1]
    forged = Entry(entry.record, entry.blob, type(entry.certificate)(entry.certificate.ballot, []))
    pz = newcomer(run)
    pz >> pz.beacon("PA")
    pz << "ask PA for entries from 0"
    pz >> ev.EntriesReceived("PA", (run.entries[0], forged))
    pz << "log: round 0 by nobody"
    pz << "fault PA: record 1: the certificate is not signed by a quorum"
    pz.silent()


def test_no_state_is_fetched_before_the_log_is_read() -> None:
    """SPEC K5: or the joiner takes the first parameters and replays everything; but a liar ahead stops nothing."""
    run = grown(6)
    pz = newcomer(run)
    pz >> pz.beacon("PA", snapshots=[0, 4])
    pz << "ask PA for entries from 0"
    pz >> ev.EntriesReceived("PA", tuple(run.entries[:3]))
    pz << "log: round 0 by nobody" << "log: round 1 by PA+PB" << "log: round 2 by PA+PB"
    pz << "ask PA for entries from 3"
    pz >> ev.CallFailed("PA", "entries", "timeout")
    pz << "fetch state -1 from PA"


def test_donors_that_pruned_the_update_lead_to_a_snapshot() -> None:
    """SPEC K5."""
    run = grown(9)
    pz = newcomer(run, applied=1, known=9)
    pz >> pz.beacon("PA", updates_from=6, snapshots=[4, 8])
    pz << "fetch state 8 from PA"


def test_donors_that_only_claim_to_have_an_update_lead_to_a_snapshot() -> None:
    """SPEC K5: after a few misses; a hole in what they hold must not hold us for ever."""
    run = grown(9)
    pz = newcomer(run, applied=1, known=9)
    pz.told(pz.beacon("PA", snapshots=[8]), pz.beacon("PB", snapshots=[8]))
    asked = []
    for _ in range(20):
        for effect in pz.skip():
            asked.append(describe(effect).rsplit(" ", 1)[0])
            if isinstance(effect, ef.FetchUpdate):
                pz.told(ev.UpdateMissed(effect.root, effect.donor, "not there"))
        pz.told(pz.beacon("PA", snapshots=[8]), pz.beacon("PB", snapshots=[8]), pz.after(2))
    state = asked.index("fetch state 8 from")
    # Four are under way at once, two from each; the next one to apply counts.
    assert limits.UPDATE_MISSES_MAX <= state <= 4 * limits.UPDATE_MISSES_MAX, asked


def test_an_update_that_the_disk_has_lost_is_fetched_again() -> None:
    """SPEC K3: the shell says so with a miss that names this host."""
    run = grown(3)
    pz = newcomer(run, applied=1, known=3, held_updates=(root(run, 2),))
    pz.told(pz.beacon("PA"))
    pz << "apply round 2, none" << "fetch update from PA"
    pz >> ev.UpdateHeld(root(run, 3))
    pz >> ev.UpdateMissed(root(run, 2), "PZ", "no such file")
    pz >> pz.after(1)
    pz << "fetch update from PA"


def test_what_was_pruned_here_is_not_thought_to_be_held() -> None:
    """SPEC K3."""
    run = grown(3)
    pz = newcomer(run, applied=1, known=3, held_updates=(root(run, 2), root(run, 3)))
    pz.told(ev.SnapshotsHeld((3,), 3)).skip()
    assert list(pz.node.catchup.held) == [root(run, 3)]


def test_everybody_is_late_after_the_end() -> None:
    """SPEC K7: the run is over, and one that comes back still reaches the last state and says so."""
    run = grown(5, until=5)
    pz = newcomer(run, applied=3, known=3)
    pz >> ev.TrainerAttached(None)
    pz >> pz.beacon("PA", state="finished")
    pz << "ask PA for entries from 4"
    pz.told(ev.EntriesReceived("PA", tuple(run.entries[4:])))
    assert [effect.root for effect in pz.skip() if isinstance(effect, ef.FetchUpdate)] == [root(run, 4), root(run, 5)]
    for round_ in (4, 5):
        pz >> ev.UpdateHeld(root(run, round_))
        pz << f"apply round {round_}, none"
        pz.told(ev.Applied(round_, run.states[round_]))
    pz << "on disk: promised 0.11" << "finish training"
    pz.silent()
    assert pz.node.state == "finished"


def test_the_end_binds_everybody() -> None:
    """SPEC A14: nobody leads, promises or trains beyond it."""
    run = swarm("PB", "PA", config=run_config(until=1), rounds=1)
    pa = Host(run).meet("PB")
    pa >> ev.TrainerAttached(None)
    pa << "finish training"
    pa >> pa.says("PB", say.prepare(run, Ballot(0, "PB")))
    for _ in range(20):
        pa.told(pa.beacon("PB"), pa.after(2))
    pa.silent()


def test_memory_is_bounded() -> None:
    """SPEC K2, L1: a log longer than the window leaves the window, not the memory, full."""
    run = grown(40)
    limit, limits.WINDOW_ROUNDS = limits.WINDOW_ROUNDS, 16
    try:
        pz = newcomer(run, applied=3, known=40, held_updates=tuple(root(run, n) for n in range(1, 41)))
        window = pz.node.catchup.window
        assert len(window) == 16 and window.get(24) is None and window.get(25) is not None
        assert window.proven(-1) == run.states[-1] and window.proven(10) is None
        pz >> pz.beacon("PA", snapshots=[36])
        pz << "fetch state 36 from PA"  # what lies before the window cannot be replayed
    finally:
        limits.WINDOW_ROUNDS = limit
