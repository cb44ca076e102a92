"""Two lines of history that meet after long: one is proven, left for, and read to its end. SPEC G7, G8."""

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol import messages as m
from intellectd.protocol.branch import fork
from tests.protocol.playbook import Host
from tests.protocol.test_branching import history
from tests.sim.tags import TagCrypto


def test_a_line_that_is_longer_than_what_is_kept_of_it_is_proven_and_then_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SPEC G7: however long the two have been apart, they meet."""
    monkeypatch.setattr(limits, "RIVAL_ENTRIES_MAX", 3)
    run = history()
    ours, theirs = history(), run
    theirs.decide_entry(fork(theirs.head, ["PB", "PC"], theirs.state, "PB", TagCrypto("PB")))
    for _ in range(4):
        ours.round("PA", "PB", "PC")
    for _ in range(12):
        theirs.round("PB", "PC")
    pa, head = Host(ours), theirs.head
    more = m.Lineage(0, 1, head.tokens_total, True, True)
    claim = {"generation": head.generation, "lineage": more, "head_round": head.round, "head": head.hash}
    for _ in range(60):
        pa.told(pa.beacon("PB", **claim))
        asked = next((e for e in pa.skip() if isinstance(e, ef.AskEntries)), None)
        if asked is not None:
            assert asked.generation == head.generation
            shown = tuple(theirs.entries[asked.from_round :][:2])
            pa.told(ev.EntriesReceived("PB", shown, asked.generation))
        rival = pa.node.branching._rival
        assert rival is None or len(rival.entries) <= 5
        pa.told(pa.after(1.0))
    assert pa.node.head.hash == head.hash


def test_who_stays_on_the_line_that_was_left_calls_nobody_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPEC G7: what comes first of the line that was proven is less than ours was, which PD goes on to show."""
    monkeypatch.setattr(limits, "RIVAL_ENTRIES_MAX", 5)
    run = history()
    ours, theirs = history(), run
    theirs.decide_entry(fork(theirs.head, ["PB"], theirs.state, "PB", TagCrypto("PB")))
    for _ in range(8):
        ours.round("PA", "PB", "PC")
    for _ in range(40):
        theirs.round("PB")
    pa, lines = Host(ours), {"PB": theirs, "PD": ours}
    heads = {peer: line.head for peer, line in lines.items()}
    claims = {p: m.Lineage(h.recoveries, h.branches, h.tokens_total, True, True) for p, h in heads.items()}
    left = 0
    for _ in range(80):
        for peer, head in heads.items():
            where = {"generation": head.generation, "head_round": head.round, "head": head.hash}
            pa.told(pa.beacon(peer, **where, lineage=claims[peer]))
        done = pa.skip()
        left += sum(isinstance(effect, ef.Rebase) for effect in done)
        for asked in [effect for effect in done if isinstance(effect, ef.AskEntries)]:
            shown = lines[asked.peer].entries[asked.from_round :]
            few = shown[: 2 if asked.peer == "PB" else 64]
            pa.told(ev.EntriesReceived(asked.peer, tuple(few), asked.generation))
        pa.told(pa.after(1.0))
    assert pa.node.head.hash == theirs.head.hash and left == 1


def test_some_that_cannot_be_asked_keep_nobody_from_another_that_shows_the_line() -> None:
    """SPEC G7: they may be hosts that are heard through a member that both can reach, and calls do not go so (W8)."""
    run = history()
    ours, theirs = history(), run
    ours.round("PA", "PB", "PC")
    theirs.decide_entry(fork(theirs.head, ["PB", "PC"], theirs.state, "PB", TagCrypto("PB")))
    for _ in range(3):
        theirs.round("PB", "PC")
    pa, head = Host(ours), theirs.head
    more = m.Lineage(0, 1, head.tokens_total, True, True)
    claim = {"generation": head.generation, "head_round": head.round, "head": head.hash, "lineage": more}
    fails: list[tuple[float, ev.CallFailed]] = []
    while pa.node.head.hash != head.hash and pa.now < 400.0:
        pa.told(*(pa.beacon(peer, **claim) for peer in ("PB", "PD", "PE", "PF", "PZ")))
        pa.told(*(failed for at, failed in fails if at <= pa.now))
        fails = [(at, failed) for at, failed in fails if at > pa.now]
        for asked in [effect for effect in pa.skip() if isinstance(effect, ef.AskEntries)]:
            if asked.peer == "PZ":
                pa.told(ev.EntriesReceived("PZ", tuple(theirs.entries[asked.from_round :]), asked.generation))
            else:
                silent = ev.CallFailed(asked.peer, "entries", "no way to it", asked.generation)
                fails.append((pa.now + 10.0, silent))
        pa.told(pa.after(1.0))
    assert pa.node.head.hash == head.hash


def test_a_state_of_the_line_that_was_left_is_asked_of_nobody_of_the_other() -> None:
    """SPEC K11, W6: under the number of its round they serve their own, and would be blamed for wrong pieces."""
    run = history()
    ours, theirs = history(), run
    theirs.decide_entry(fork(theirs.head, ["PB", "PC"], theirs.state, "PB", TagCrypto("PB")))
    for _ in range(2):
        ours.round("PA", "PB", "PC")
    for _ in range(4):
        theirs.round("PB", "PC")
    pa = Host(ours, applied=-2, applied_digest=None)
    pa.told(pa.beacon("PC", generation=ours.head.generation, head_round=3, applied=4, snapshots=[3]))
    assert pa.one(ef.FetchSnapshot).round == 3
    more = m.Lineage(0, 1, theirs.head.tokens_total, True, True)
    pa.told(pa.beacon("PB", generation=theirs.head.generation, head_round=7, snapshots=[3], lineage=more))
    while (asked := pa.one(ef.AskEntries)).from_round > 3:
        pa.told(ev.EntriesReceived("PB", (), asked.generation))
    pa.told(ev.EntriesReceived("PB", tuple(theirs.entries[asked.from_round :]), asked.generation))
    pa.told(pa.beacon("PB", generation=theirs.head.generation, head_round=7, head=theirs.head.hash, snapshots=[3]))
    done = pa.skip()
    assert any(isinstance(e, ef.Rebase) for e in done) and not any(isinstance(e, ef.OfferDonors) for e in done)
    pa.told(ev.SnapshotMissed(3, "PC", "gone"))
    pa.told(pa.after(1.0))
    again = pa.one(ef.FetchSnapshot)
    assert (again.donor, again.digest) == ("PB", theirs.states[3])
