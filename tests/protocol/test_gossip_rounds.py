"""Rounds in groups as a leader, a voter, and whoever catches up goes through them. SPEC E4-E7."""

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import messages as m
from intellectd.protocol.collectives import together
from intellectd.protocol.context import leader_order
from intellectd.protocol.ids import Ballot, hash_of
from tests.protocol import puppets as say
from tests.protocol.gossip_history import FOUR, MINE, SIX, grouped, led, name_and_root, part, result_of, round_of
from tests.protocol.history import UPDATE_BYTES, History
from tests.protocol.playbook import Host, opened

# ---- who leads


def begun(*peers: str) -> tuple[History, Host, list[list[str]]]:
    """PA leads, all have promised, and the groups are planned: first PA's own, then the others."""
    run = led(*peers)
    pa = Host(run).meet(*peers[1:]).work()
    for peer in peers[1:]:
        pa.told(pa.ready(peer))
    pa.skip()
    for peer in peers[1:]:
        pa.told(pa.says(peer, say.promise(run, MINE)))
    groups = sorted(run.head.groups, key=lambda group: "PA" not in group)
    return run, pa, groups


def accepts(pa: Host) -> list[m.Accept]:
    said = [opened(e) for e in pa.skip() if isinstance(e, ef.Send)]
    return [message for message in said if isinstance(message, m.Accept)]


def finish(run: History, pa: Host, group: list[str]) -> None:
    name, root = name_and_root(run, group)
    for peer in group:
        if peer == "PA":
            pa.told(ev.TransferEnded(name, root, UPDATE_BYTES))
        else:
            pa.told(pa.says(peer, result_of(run, peer, group)[1]))


def test_a_round_in_groups_as_led() -> None:
    """SPEC E4, E5: a ring for each group; one record; the anchor follows one's own group."""
    run, pa, (own, other) = begun(*FOUR)
    assert sorted(pa.one(ef.StartTransfer).members) == sorted(own)
    finish(run, pa, other)
    assert accepts(pa) == []
    finish(run, pa, own)
    accept = accepts(pa)[0]
    value = accept.proposal
    assert [c.peer for c in value.blob.contributions] == [p for group in run.head.groups for p in group]
    pa.told(*(pa.says(p, say.accepted(run, p, MINE, value)) for p in FOUR[1:3]))
    apply = pa.one(ef.ApplyUpdate)
    assert (apply.root, apply.anchor, apply.local) == (name_and_root(run, own)[1], "group", "adopt")


def test_a_group_that_breaks_is_left_out_and_the_others_go_on() -> None:
    """SPEC E4."""
    run, pa, (own, other) = begun(*FOUR)
    pa.skip()
    pa.told(pa.says(other[0], say.abort(run, MINE, other[1])))
    assert not [e for e in pa.skip() if isinstance(e, ef.AbortTransfer)], "its own ring is another"
    finish(run, pa, own)
    value = accepts(pa)[0].proposal
    assert [c.peer for c in value.blob.contributions] == own and len(value.record.shape) == 1


def test_what_is_remembered_of_broken_groups_is_of_one_plan() -> None:
    """SPEC L1: who leads may make up as many plans as it likes, and break each."""
    run, pa, (own, other) = begun(*FOUR)
    theirs = Ballot(1, leader_order(run.head.voters, run.head.hash)[1])
    for number, left in enumerate((other, other[::-1], other[:1], other[1:])):
        ballot = Ballot(theirs.attempt + number * len(FOUR), theirs.leader)
        groups = sorted([own, left], key=lambda group: [set(group) <= set(g) for g in run.head.groups].index(True))
        plan = m.Plan(run.head.at, ballot, together([part(run, group) for group in groups]), run.head.codec)
        pa.told(pa.says(theirs.leader, plan), pa.says(left[0], say.abort(run, ballot, None)))
        assert pa.node.round.parts.exchange.newest == ballot
    assert len(pa.node.round.broken._groups) <= len(run.head.groups)


def test_ones_own_group_breaks() -> None:
    """SPEC E4: it stops, and what the other does counts."""
    run, pa, (own, other) = begun(*FOUR)
    pa.skip()
    pa.told(pa.says(next(p for p in own if p != "PA"), say.abort(run, MINE, None)))
    assert [e.transfer for e in pa.skip() if isinstance(e, ef.AbortTransfer)] == [name_and_root(run, own)[0]]
    finish(run, pa, other)
    assert [c.peer for c in accepts(pa)[0].proposal.blob.contributions] == other


def test_all_groups_break() -> None:
    """SPEC E4: then the attempt has failed, and the next one begins."""
    run, pa, (own, other) = begun(*FOUR)
    pa.skip()
    for group in (other, own):
        pa.told(pa.says(next(p for p in group if p != "PA"), say.abort(run, MINE, None)))
    assert "every group of attempt 0 broke" in [note.text for note in pa.notes if note.event == "attempt_lost"]


def test_the_slow_are_waited_for_no_longer_than_a_grace() -> None:
    """SPEC E4: once more than half of the groups are done."""
    run, pa, (own, second, _) = begun(*SIX)
    finish(run, pa, own)
    pa.told(pa.after(8), *(pa.ready(p) for p in SIX[1:]), ev.TransferMoved(name_and_root(run, own)[0], 1, 2))
    assert accepts(pa) == [], "one of three"
    finish(run, pa, second)
    assert accepts(pa) == [], "a grace of a tenth of those eight seconds begins"
    pa.told(pa.after(0.9))
    value = accepts(pa)[0].proposal
    assert sorted(c.peer for c in value.blob.contributions) == sorted([*own, *second])


def test_who_signs_another_result_when_its_group_is_done_makes_nobody_blame_the_leader() -> None:
    """SPEC E4, W6: with it the majority of its group would be gone from the proposal."""
    run, pa, (own, other) = begun(*FOUR)
    finish(run, pa, other)
    lie = say.signed_result(run, other[0], name_and_root(run, other)[0], hash_of("another"))
    pa.told(pa.says(other[0], lie))
    finish(run, pa, own)
    pb = Host(run, "PB").meet("PA", "PC", "PD")
    pb.told(pb.says("PA", say.prepare(run, MINE))).skip()
    pb.told(pb.says("PA", accepts(pa)[0]))
    assert [type(opened(e)) for e in pb.skip() if isinstance(e, ef.Send)] == [m.Accepted]


# ---- who follows


def test_a_voter_needs_no_groups_bytes() -> None:
    """SPEC E4."""
    run = led(*FOUR)
    pb = Host(run, "PB").meet("PA", "PC", "PD")
    pb.told(pb.says("PA", say.prepare(run, MINE)))
    pb.skip()
    pb.told(pb.says("PA", say.accept(run, MINE, grouped(run))))
    assert [type(opened(e)) for e in pb.skip() if isinstance(e, ef.Send)] == [m.Accepted]


def stranger(every: int = 3) -> tuple[History, Host, list[list[str]]]:
    """PD was ready with nobody: of a round without its group it hears the record."""
    run = led(*FOUR, every=every)
    groups = [group for group in run.head.groups if "PD" not in group]
    pd = Host(run, "PD").meet("PA", "PB", "PC").work()
    entry = round_of(run, groups, FOUR)
    pd.told(ev.MessageReceived("PA", pd.sealed("PA", entry)))
    return run, pd, groups


def test_who_is_in_no_group_takes_anothers_anchor() -> None:
    """SPEC E5: and carries over what it did."""
    run, pd, ((first, second),) = stranger()
    fetch = pd.one(ef.FetchUpdate)
    assert fetch.donor in (first, second)
    pd.told(ev.UpdateHeld(fetch.root))
    apply = pd.one(ef.ApplyUpdate)
    assert (apply.root, apply.anchor, apply.local) == (fetch.root, "group", "carry")
    pd.told(ev.Applied(1, run.states[0]))
    assert pd.one(ef.StartTraining).fresh is False


def test_it_does_without_what_nobody_gives() -> None:
    """SPEC E5: nobody is stuck for bytes that are gone."""
    _, pd, _ = stranger()
    for _ in range(3):
        fetch = pd.one(ef.FetchUpdate)
        pd.told(ev.UpdateMissed(fetch.root, fetch.donor, "gone"))
        pd.told(pd.after(4), *(pd.beacon(p) for p in FOUR[:3]))
    apply = pd.one(ef.ApplyUpdate)
    assert (apply.root, apply.anchor, apply.local) == (None, "group", "carry")


def test_it_does_without_what_a_later_record_makes_superfluous() -> None:
    """SPEC E5: an anchor is one group's update away from the state, and not a chain."""
    run, pd, _ = stranger()
    fetch = pd.one(ef.FetchUpdate)
    later = run.round(*FOUR) if not run.head.groups else round_of(run)
    pd.told(ev.MessageReceived("PA", pd.sealed("PA", later)))
    assert pd.one(ef.ApplyUpdate).root is None
    assert fetch.root != b""


# ---- what a trainer's work becomes


def test_a_delta_is_measured_anew_when_a_record_was_applied() -> None:
    """SPEC E6: in the encoding of its delta, and before its last chance."""
    run = led(*FOUR)
    pd = Host(run, "PD").meet("PA", "PB", "PC")
    pd.told(ev.TrainerAttached(None), ev.TrainerReady(1, 100, 10)).skip()
    others = [group for group in run.head.groups if "PD" not in group]
    pd.told(ev.MessageReceived("PA", pd.sealed("PA", round_of(run, others, FOUR))))
    fetch = pd.one(ef.FetchUpdate)
    pd.told(ev.UpdateHeld(fetch.root))
    assert pd.one(ef.ApplyUpdate).local == "keep"
    pd.told(ev.DeltaFrozen("3f800000", hash_of("old")))
    assert pd.one(ef.Freeze).codec == "int8"
    pd.told(ev.Applied(1, run.states[0]), ev.DeltaFrozen("3f800000", hash_of("new")))
    assert pd.node.progress.ready is not None and pd.node.progress.ready.delta_root == hash_of("new")
    others = [group for group in run.head.groups if "PD" not in group]
    pd.skip()
    pd.told(ev.MessageReceived("PA", pd.sealed("PA", round_of(run, others, FOUR))))
    pd.told(ev.UpdateHeld(pd.one(ef.FetchUpdate).root))
    effects = [type(e).__name__ for e in pd.skip() if isinstance(e, ef.ApplyUpdate | ef.Freeze)]
    assert effects == ["ApplyUpdate", "Freeze"], "two rounds old: it is offered as it is, from where it is now"


def test_a_trainer_resumes_only_where_the_anchor_is_the_state() -> None:
    """SPEC E7, P8."""
    run = led(*FOUR, every=2)
    pa = Host(run)
    assert pa.node.progress.resumes(run.head, 0, 1)
    round_of(run)
    assert not pa.node.progress.resumes(run.head, 1, 2)
    run.round(*FOUR)
    assert pa.node.progress.resumes(run.head, 2, 3)
