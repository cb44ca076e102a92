"""A joiner that was told a record believes no history without it. SPEC K14."""

import pytest

from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import limits
from intellectd.protocol.branch import fork
from intellectd.protocol.messages import Beacon, Lineage
from intellectd.protocol.records import record_hash
from tests.protocol.playbook import History, Host, describe, opened, run_config
from tests.protocol.test_branching import history
from tests.protocol.test_catchup import grown, newcomer
from tests.sim.tags import TagCrypto


def rewritten(rounds: int) -> History:
    """What a past majority of the voters could show in place of `grown`: the same opening, other rounds, all signed."""
    run = History(run_config())
    run.opening("PA", "PB")
    for _ in range(rounds):
        run.round("PA", able=("PA", "PB"))
    return run


def hash_at(run: History, round_: int) -> bytes:
    return record_hash(run.entries[round_].record)


def of(run: History, host: Host, peer: str, **fields: object) -> ev.MessageReceived:
    """A beacon of one who stands at the head of that history."""
    head = run.head
    lineage = Lineage(head.recoveries, head.branches, head.tokens_total, True, True)
    return host.beacon(peer, head_round=head.round, head=head.hash, applied=head.round, lineage=lineage, **fields)


def told(host: Host, event: str) -> list[str]:
    return [note.text for note in host.notes if note.event == event]


def state_of(host: Host) -> str:
    message = opened(host.beacons[-1])
    assert isinstance(message, Beacon)
    return message.state


def test_a_history_with_the_record_is_followed() -> None:
    """SPEC K14: no state before the record is there, though the newest would be proven."""
    run = grown(6)
    pz = newcomer(run, pin=hash_at(run, 5))
    pz >> pz.beacon("PA", snapshots=[2, 4])
    pz << "ask PA for entries from 0"
    pz.told(ev.EntriesReceived("PA", tuple(run.entries[:5])))
    assert [describe(effect) for effect in pz.skip()][5:] == ["ask PA for entries from 5"]
    pz.told(ev.EntriesReceived("PA", tuple(run.entries[5:])))
    assert [describe(effect) for effect in pz.skip()][2:3] == ["fetch state 4 from PA"]
    assert not told(pz, "pin_missing")


def test_the_manifests_own_hash_is_in_every_history() -> None:
    """SPEC K14."""
    run = grown(3)
    pz = newcomer(run, known=3, pin=run.heads[-1].hash)
    pz >> pz.beacon("PA", snapshots=[2])
    pz << "fetch state 2 from PA" << "fetch update from PA"


def test_a_history_without_the_record_is_not_used_and_it_says_so() -> None:
    """SPEC K14: it goes on reading, for the record may be still to come."""
    honest, other = grown(6), rewritten(8)
    pz = newcomer(other, pin=hash_at(honest, 4))
    pz >> pz.beacon("PA", snapshots=[4])
    pz << "ask PA for entries from 0"
    pz.told(ev.EntriesReceived("PA", tuple(other.entries)))
    assert all(describe(effect).startswith("log:") for effect in pz.skip())
    pz.told(ev.TrainerAttached(None), pz.beacon("PA", snapshots=[4]), pz.beacon("PB", snapshots=[8]), pz.after(8))
    pz.silent()
    found = told(pz, "pin_missing")
    assert len(found) == 1 and hash_at(honest, 4).hex()[:16] in found[0] and "8 rounds" in found[0]
    assert state_of(pz) == "joining"
    nine = other.round("PA", able=("PA", "PB"))
    pz.told(ev.MessageReceived("PA", pz.sealed("PA", nine)))
    pz << "log: round 9 by PA"
    pz.silent()


def test_an_honest_peer_is_found_though_the_others_show_more() -> None:
    """SPEC K14: they are many, further on, and answer first."""
    honest, other = grown(6), rewritten(8)
    pz = newcomer(other, pin=hash_at(honest, 4))
    pz.told(of(other, pz, "PA"), of(other, pz, "PB")).skip()
    pz.told(ev.EntriesReceived("PA", tuple(other.entries))).skip()
    assert pz.node.head.round == 8
    pz >> of(honest, pz, "PC", snapshots=[4], state="joining")
    pz.silent()  # where a joiner stands tells nothing
    pz >> of(honest, pz, "PC", snapshots=[4])
    left = pz.one(ef.Rebase)
    assert (left.round, left.entries) == (-1, ())
    assert pz.node.head.round == -1 and told(pz, "pin_sought")
    pz.told(of(other, pz, "PA"), of(other, pz, "PB"), pz.after(1))
    pz.told(of(honest, pz, "PC", snapshots=[4]))
    pz.told(ev.EntriesReceived("PC", tuple(honest.entries)))
    assert pz.node.head.hash == honest.head.hash
    asked = pz.one(ef.AskEntries)  # it heeds them again, and what they have does not follow
    pz.told(ev.EntriesReceived(asked.peer, tuple(other.entries[7:])))
    assert [e.round for e in pz.skip() if isinstance(e, ef.FetchSnapshot)] == [4]
    pz.told(of(other, pz, "PA"), of(other, pz, "PB"), pz.after(limits.RETRY_MAX_S)).skip()
    assert pz.node.head.hash == honest.head.hash and pz.node.catchup.pin.found


def test_lines_without_the_record_are_left_ever_more_seldom() -> None:
    """SPEC K14: each is read from its beginning, and none has it."""
    one, two, wanted = grown(3), rewritten(4), grown(6)
    pz = newcomer(one, pin=hash_at(wanted, 6))
    lines = {"PA": one, "PB": two}
    left = 0
    for _ in range(400):
        pz.told(*(of(run, pz, peer) for peer, run in lines.items()), pz.after(1))
        for effect in pz.skip():
            left += isinstance(effect, ef.Rebase)
            if isinstance(effect, ef.AskEntries):
                pz.told(ev.EntriesReceived(effect.peer, tuple(lines[effect.peer].entries[effect.from_round :])))
    assert 3 <= left <= 6, f"15 + 30 + 60 + 120 s fit into these 400: {left}"
    assert not [effect for effect in pz.unread if isinstance(effect, ef.FetchSnapshot | ef.FetchUpdate)]


@pytest.mark.parametrize(("round_", "stays"), [(3, True), (2, False)])
def test_no_better_line_is_followed_that_lacks_the_record(round_: int, stays: bool) -> None:
    """SPEC K14, G7: the other line has more tokens, and parts after round 2."""
    ours, theirs = history(), history()
    ours.round("PA", "PB", "PC")
    theirs.decide_entry(fork(theirs.head, ["PB", "PC"], theirs.state, "PB", TagCrypto("PB")))
    for _ in range(3):
        theirs.round("PB", "PC")
    pa = Host(ours, pin=hash_at(ours, round_))
    more = Lineage(0, 1, theirs.head.tokens_total, True, True)
    pa.told(pa.beacon("PB", generation=theirs.head.generation, lineage=more, head_round=theirs.head.round))
    for _ in range(6):
        asked = [effect for effect in pa.skip() if isinstance(effect, ef.AskEntries)]
        if asked:
            entries = tuple(theirs.entries[asked[0].from_round :])
            pa.told(ev.EntriesReceived("PB", entries, theirs.head.generation))
    assert (pa.node.head.hash == ours.head.hash) is stays is bool(told(pa, "pin_kept"))
