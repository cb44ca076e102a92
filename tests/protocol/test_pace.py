"""A state or the updates, whichever is sooner here; and updates from many donors at once. SPEC K12, K13."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol.pace import Meter, Pace, Way
from intellectd.protocol.updates import LATE_FACTOR, PATIENCE_S
from tests.protocol.history import UPDATE_BYTES
from tests.protocol.playbook import History, Host, describe, run_config
from tests.protocol.test_catchup import grown, newcomer, root

STATE_BYTES = 2048  # of 256 parameters: theta and momentum, fp32


def asked(host: Host) -> list[str]:
    return [describe(effect) for effect in host.skip() if isinstance(effect, ef.FetchUpdate | ef.FetchSnapshot)]


def donors_of(host: Host) -> dict[bytes, str]:
    return {effect.root: effect.donor for effect in host.skip() if isinstance(effect, ef.FetchUpdate)}


# ---- what is measured


def test_a_rate_is_of_the_time_in_which_anything_was_fetched() -> None:
    """SPEC K12: two at once are no faster each; a failure's time counts; pauses do not."""
    pace = Pace()
    assert pace.rate is None
    pace.fetches(0.0)
    pace.fetches(1.0)
    pace.came(100, idle=False, now=2.0)
    pace.came(100, idle=True, now=4.0)
    assert pace.rate is not None and 49 < pace.rate < 51
    pace.came(10**6, idle=True, now=50.0)  # nobody asked for it
    pace.fetches(100.0)
    pace.came(0, idle=True, now=104.0)
    assert 24 < pace.rate < 26


def test_rounds_are_measured_while_the_log_is_as_long_as_anybodys() -> None:
    """SPEC K12: the past is read in one go, which says nothing of it."""
    pace = Pace()
    pace.level(40, 0.0)
    pace.level(40, 5.0)
    assert pace.round_s is None
    pace.level(42, 20.0)
    assert pace.round_s == 10.0
    pace.level(43, 40.0)
    assert pace.round_s == 15.0
    pace.switched()
    pace.level(99, 41.0)
    assert pace.round_s == 15.0, "another line's rounds did not pass here"
    pace.level(100, 56.0)
    assert pace.round_s == 15.0


def test_the_cost_of_a_way() -> None:
    """SPEC K12: max((S + U) / v, S / v + n a); bytes while no rate is known."""
    pace, by_state, by_updates = Pace(), Way(800, 100, 2), Way(0, 500, 10)
    assert pace.cost(by_state) == 900 and pace.cost(by_updates) == 500
    pace.fetches(0.0)
    pace.came(100, idle=True, now=1.0)
    assert 8.9 < pace.cost(by_state) < 9.1 and 4.9 < pace.cost(by_updates) < 5.1
    pace.begins_to_apply(10.0)
    pace.applied(12.0)
    assert 11.9 < pace.cost(by_state) < 12.1 and pace.cost(by_updates) == 20.0
    assert pace.round_cost_s(100) == 2.0 and not pace.falls_behind(100), "how long its rounds are is not known"


# ---- what is left, for people


def test_what_is_coming_is_measured_before_it_is_whole() -> None:
    """SPEC K12: pauses in which nothing is fetched do not count."""
    meter = Meter()
    meter.came(100, 0.0)
    assert meter.rate is None
    for second in range(5):
        meter.fetches(True, float(second))
        meter.came(100, second + 1.0)
    meter.fetches(False, 5.0)
    meter.fetches(True, 500.0)
    assert meter.rate is not None and 118 < meter.rate < 122, "600 in 5 s"
    meter.came(0, 700.0)
    assert meter.rate < 7, "a stall counts"


def test_the_time_that_is_left() -> None:
    """SPEC K12: as the cost of a way, with the rounds that are decided meanwhile."""
    pace, way = Pace(), Way(800, 100, 2)
    assert pace.seconds_left(way, 50) is None, "no rate is known"
    assert pace.seconds_left(way, 50, 100.0) == 9.0
    pace.begins_to_apply(10.0)
    pace.applied(12.0)
    assert pace.seconds_left(way, 50, 100.0) == 12.0
    pace.level(1, 20.0)
    pace.level(2, 24.0)
    assert pace.seconds_left(way, 50, 100.0) == 24.0, "of each round of 4 s applying takes 2"
    assert pace.seconds_left(way, 400, 100.0) is None, "it gets no nearer"
    assert pace.seconds_left(Way(0, 0, 0), 50, 100.0) == 0.0


def test_what_is_left_is_the_whole_way_to_the_head() -> None:
    """SPEC K12: the state, the updates after it, begun or not; less by a second each second, and none when it stands
    there."""
    run, speed, meter = grown(6), 100.0, Meter()
    pz = newcomer(run, known=6)
    catchup, came = pz.node.catchup, dict[bytes, int]()

    def left() -> float | None:
        found = catchup.left(pz.node.head, came, meter.rate, pz.now)
        return None if found is None else found.seconds

    assert left() is None, "no plan yet"
    pz.told(pz.beacon("PA", snapshots=[4])).skip()
    meter.fetches(True, pz.now)
    whole_s, before = (STATE_BYTES + 2 * UPDATE_BYTES) / speed, float("inf")
    assert catchup.fetches and left() is None, "nothing came yet"
    ways = [(run.states[4], STATE_BYTES), (root(run, 5), UPDATE_BYTES), (root(run, 6), UPDATE_BYTES)]
    began = pz.now
    for name, size in ways:
        while came.get(name, 0) < size:
            pz.now += min(1.0, (size - came.get(name, 0)) / speed)
            step = min(100, size - came.get(name, 0))
            came[name] = came.get(name, 0) + step
            meter.came(step, pz.now)
            seen, true = left(), whole_s - (pz.now - began)
            assert seen is not None and abs(seen - true) < 0.1 and seen < before
            before = seen
        event = ev.SnapshotInstalled(4, run.states[4], size) if size == STATE_BYTES else ev.UpdateHeld(name)
        pz.told(pz.beacon("PA", snapshots=[4]), event).skip()
    assert left() == 0.0, "how long applying takes is not known"
    pz.told(ev.Applied(5, run.states[5])).skip()
    assert left() == catchup.pace.apply_s and left(), "as long as the one before"
    pz.told(ev.Applied(6, run.states[6])).skip()
    assert catchup.settled(pz.node.head) and left() == 0.0


def test_what_was_kept_is_not_left_and_a_log_that_is_read_tells_nothing() -> None:
    """SPEC K12."""
    run = grown(6)
    pz = newcomer(run, known=6)
    pz.told(ev.SnapshotsHeld((), 10, (4, run.states[4], 1024)))
    pz.told(pz.beacon("PA", snapshots=[4])).skip()
    found = pz.node.catchup.left(pz.node.head, {}, 100.0, pz.now)
    assert found is not None and found.bytes == STATE_BYTES - 1024 + 2 * UPDATE_BYTES
    found = pz.node.catchup.left(pz.node.head, {run.states[4]: 1500, root(run, 5): 60}, 100.0, pz.now)
    assert found is not None and found.bytes == STATE_BYTES - 1500 + 2 * UPDATE_BYTES - 60
    far = newcomer(grown(12), applied=1, known=4)
    far.told(far.beacon("PA", snapshots=[11])).skip()
    assert far.node.catchup.left(far.node.head, {}, 100.0, far.now) is None


# ---- a state, or the updates


def test_few_rounds_are_replayed_and_many_are_not() -> None:
    """SPEC K12: by bytes while nothing is measured: 2048 of a state, 260 of an update."""
    near = newcomer(grown(9), applied=1, known=9)
    near >> near.beacon("PA", snapshots=[4, 8])
    assert asked(near) == ["fetch update from PA"] * 2
    far = newcomer(grown(12), applied=1, known=12)
    far >> far.beacon("PA", snapshots=[8, 11], updates_from=12)
    assert asked(far)[0] == "fetch state 11 from PA"
    run = grown(12)
    held = tuple(root(run, n) for n in range(2, 9))
    disk = newcomer(run, applied=1, known=12, held_updates=held)
    disk >> disk.beacon("PA", snapshots=[8, 11])
    assert not [e for e in disk.skip() if isinstance(e, ef.FetchSnapshot)], "most of it lies on its disk"


def test_nothing_is_chosen_before_the_log_is_read() -> None:
    """SPEC K12: how many updates there are is not known; but who boasts holds it up for one call only."""
    run = grown(12)
    pz = newcomer(run, applied=1, known=4)
    pz >> pz.beacon("PA", snapshots=[11])
    pz << "ask PA for entries from 5"
    pz.silent()
    pz >> ev.CallFailed("PA", "entries", "timeout")
    assert asked(pz) == ["fetch update from PA"] * 2


def test_a_slow_machine_takes_the_state_where_a_fast_one_replays() -> None:
    """SPEC K12: what an update takes to apply counts as much as its bytes."""
    run = grown(8)
    for apply_s, expected in ((0.01, []), (30.0, ["fetch state 7 from PA"])):
        pz = newcomer(run, applied=1, known=8)
        pz.told(pz.beacon("PA", snapshots=[7]))
        pz.now += 1.0
        pz.told(ev.UpdateHeld(root(run, 2)))
        pz.now += apply_s
        assert "apply round 2, none" in [describe(effect) for effect in pz.skip()]
        pz.told(pz.beacon("PA", snapshots=[7]), ev.Applied(2, run.states[2]))
        assert [words for words in asked(pz) if "state" in words] == expected


def test_a_host_that_falls_behind_says_so_once_and_takes_a_newer_state() -> None:
    """SPEC K12: of three rounds of 10 s it applies one."""
    run = grown(2)
    pz = newcomer(run, applied=2, known=2)
    pz.told(pz.beacon("PA"))
    states: list[int] = []
    for round_ in range(3, 15):
        entry = run.round("PA", "PB")
        pz.told(ev.MessageReceived("PA", pz.sealed("PA", entry)))
        pz.told(pz.beacon("PA", snapshots=[max(0, round_ - 1)]), ev.UpdateHeld(root(run, round_)), pz.after(5))
        pz.told(pz.beacon("PA", snapshots=[max(0, round_ - 1)]), pz.after(5))
        applying = pz.node.catchup.applying
        if applying is not None and (round_ - 2) % 3 == 0:
            pz.told(ev.Applied(applying, run.states[applying]))
        states += [effect.round for effect in pz.skip() if isinstance(effect, ef.FetchSnapshot)]
    told = [note.text for note in pz.notes if note.event == "falls_behind"]
    assert len(told) == 1 and "to fetch and apply a round, and the run decides one in" in told[0], told
    assert states and states[0] > 4, "the updates were here all the time"


def test_work_in_progress_is_not_lost_for_a_state() -> None:
    """SPEC K12, P7: of two rounds' omission it may still count; whoever replaces its state drops it."""
    run = grown(4)
    pz = newcomer(run, applied=2, known=4)
    pz.node.catchup.pace.apply_s = 1e6
    pz.node.catchup.pace.fetches(pz.now - 1)
    pz.node.catchup.pace.came(1, idle=True, now=pz.now)
    pz >> pz.beacon("PA", snapshots=[3])
    assert asked(pz) == ["fetch update from PA"] * 2


def test_a_state_of_which_much_is_here_is_gone_on_with() -> None:
    """SPEC K12, K11: what a try that failed has left counts, though a newer state is offered meanwhile."""
    for kept, expected in ((1536, 4), (0, 8)):
        run = grown(9)
        pz = newcomer(run, known=9)
        pz.told(pz.beacon("PA", snapshots=[4])).skip()
        pz.told(pz.beacon("PA", snapshots=[4, 8]), pz.beacon("PB", snapshots=[4, 8])).skip()
        pz.told(ev.SnapshotMissed(4, "PA", "it went", kept))
        pz.told(pz.after(limits.RETRY_MIN_S))
        found = [effect for effect in pz.skip() if isinstance(effect, ef.FetchSnapshot)]
        assert [effect.round for effect in found] == [expected]


def test_what_came_before_a_restart_counts_if_the_log_proves_it() -> None:
    """SPEC K12, K11."""
    for digest, expected in ((None, 4), (b"x" * 32, 8)):
        run = grown(9)
        pz = newcomer(run, known=9)
        pz.told(ev.SnapshotsHeld((), 10, (4, digest or run.states[4], 1536)))
        pz.told(pz.beacon("PA", snapshots=[4, 8]))
        assert [effect.round for effect in pz.skip() if isinstance(effect, ef.FetchSnapshot)] == [expected]


# ---- updates from many


def test_updates_come_from_all_that_have_them_and_are_applied_in_order() -> None:
    """SPEC K13: two from each, and no more bytes ahead than a state has."""
    run = grown(12)
    pz = newcomer(run, applied=1, known=12)
    pz.told(pz.beacon("PA"), pz.beacon("PB"), pz.beacon("PC", updates_from=5))
    found = donors_of(pz)
    assert [list(found.values()).count(peer) for peer in ("PA", "PB", "PC")] == [2, 2, 2]
    assert list(found) == [root(run, n) for n in (2, 3, 4, 5, 6, 7)]
    assert all(found[root(run, n)] != "PC" for n in (2, 3, 4)), "it has pruned those"
    pz.told(*(pz.beacon(peer) for peer in ("PD", "PE", "PF")))
    assert list(donors_of(pz)) == [root(run, 8)], "no further: seven make a state, and none is applied yet"
    pz >> ev.UpdateHeld(root(run, 3))
    pz.silent()
    pz >> ev.UpdateHeld(root(run, 2))
    pz << "apply round 2, none"
    pz.told(ev.Applied(2, run.states[2]))
    assert [describe(e) for e in pz.skip() if isinstance(e, ef.ApplyUpdate)] == ["apply round 3, none"]


def test_another_donor_gives_what_one_did_not() -> None:
    """SPEC K13, K4: the others' go on."""
    run = grown(3)
    pz = newcomer(run, applied=1, known=3)
    pz.told(pz.beacon("PA"), pz.beacon("PB"))
    first = donors_of(pz)
    pz.told(ev.UpdateMissed(root(run, 2), first[root(run, 2)], "it went"))
    pz.told(pz.after(limits.RETRY_MIN_S))
    again = donors_of(pz)
    assert list(again) == [root(run, 2)] and again[root(run, 2)] != first[root(run, 2)]


def test_a_trickle_does_not_hold_the_next_update_up() -> None:
    """SPEC K13: asked elsewhere after a while; not the ones after it, which nobody waits for."""
    run = grown(4)
    pz = newcomer(run, applied=1, known=4)
    pz.told(pz.beacon("PA"))
    assert donors_of(pz) == {root(run, 2): "PA", root(run, 3): "PA"}

    def wait(seconds: float) -> dict[bytes, str]:
        for _ in range(int(seconds // 4)):
            pz.told(pz.beacon("PA"), pz.beacon("PB"), pz.after(4))
        return donors_of(pz)

    assert wait(PATIENCE_S - 8) == {root(run, 4): "PB"}
    assert wait(12) == {root(run, 2): "PB"}
    pz.told(ev.UpdateMissed(root(run, 2), "PA", "it was aborted here")).skip()
    assert root(run, 2) in pz.node.catchup.updates, "PB's goes on"
    pz.told(ev.UpdateHeld(root(run, 2)))
    assert [describe(e) for e in pz.skip() if isinstance(e, ef.ApplyUpdate)] == ["apply round 2, none"]


def test_a_large_update_has_the_time_that_it_takes() -> None:
    """SPEC K13: four times what was measured, where that is longer."""
    run = grown(3)
    pz = newcomer(run, applied=1, known=3)
    pz.told(pz.beacon("PA"), pz.beacon("PB"))
    first = donors_of(pz)
    slow = root(run, 2)
    pz.now += 0.5
    pz.node.catchup.pace.came(1, idle=False, now=pz.now)  # bytes that trickle: some hundred seconds an update
    rate = pz.node.catchup.pace.rate
    assert rate is not None
    expected_s = LATE_FACTOR * UPDATE_BYTES * len(first) / rate
    assert expected_s > 2 * PATIENCE_S
    for _ in range(int(PATIENCE_S // 4) + 8):
        pz.told(pz.beacon("PA"), pz.beacon("PB"), pz.after(4))
    assert slow not in donors_of(pz)


def test_updates_come_while_the_state_does() -> None:
    """SPEC K13: the donors may have pruned them when it is here."""
    run = History(run_config())
    run.opening("PA", "PB")
    for _ in range(6):
        run.round("PA", "PB")
    pz = newcomer(run, known=6)
    pz >> pz.beacon("PA", snapshots=[4])
    pz << "fetch state 4 from PA" << "fetch update from PA" << "fetch update from PA"
    pz.told(ev.UpdateHeld(root(run, 5)), ev.UpdateHeld(root(run, 6)))
    pz.silent()
    pz >> pz.beacon("PA", snapshots=[4], updates_from=7)
    pz >> ev.SnapshotInstalled(4, run.states[4], STATE_BYTES)
    pz << "apply round 5, none"
    pz.told(ev.Applied(5, run.states[5]))
    pz << "apply round 6, none"
