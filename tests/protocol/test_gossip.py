"""Rounds in groups: how they are drawn, and what their records prove. SPEC E1-E4, E8."""

from collections import Counter
from itertools import combinations

import msgspec
import pytest

from intellectd.protocol.entries import Group
from intellectd.protocol.head import draw_groups
from intellectd.protocol.ids import encode, hash_of
from intellectd.protocol.manifest import BadManifest, canonical, config_from_toml
from intellectd.protocol.proposal import NOTHING
from intellectd.protocol.records import (
    BadRecord,
    check_proposal,
    check_results,
    decode_entry,
)
from intellectd.protocol.spread import anchor_spread
from tests.protocol.gossip_history import FOUR, SIX, gossip, grouped, round_of
from tests.protocol.history import History, ready_of, run_config
from tests.sim.tags import TagCrypto

# ---- the draw


def test_groups_follow_from_the_hash_alone() -> None:
    """SPEC E1."""
    peers = [f"P{c}" for c in "ABCDEFGHJKL"]
    groups = draw_groups(b"h" * 32, peers, 3)
    assert groups == draw_groups(b"h" * 32, peers[::-1], 3) != draw_groups(b"i" * 32, peers, 3)
    assert sorted(peer for group in groups for peer in group) == sorted(peers)
    assert sorted(map(len, groups)) == [3, 4, 4]
    assert draw_groups(b"h" * 32, peers[:5], 3) == []
    many = [f"P{n}".replace("0", "z") for n in range(1111, 2111)]
    assert [len(draw_groups(b"h" * 32, many, size)) for size in (2, 64)] == [64, 15]


def test_any_two_meet_as_often_as_chance_says() -> None:
    """SPEC E1, E8: else the spread would not shrink as the theory has it."""
    peers, met, draws = list("ABCDEFGH"), Counter[tuple[str, str]](), 2000
    for number in range(draws):
        for group in draw_groups(number.to_bytes(32, "big"), peers, 4):
            met.update(combinations(sorted(group), 2))
    assert len(met) == 28 and all(abs(count / draws - 3 / 7) < 0.05 for count in met.values())


def test_which_rounds_are_exact() -> None:
    """SPEC E2: one of three here, those for which too few are assigned, and the last."""
    run = gossip(until=9)
    run.opening(*FOUR)
    kinds = []
    for round_ in range(1, 9):
        kinds.append(bool(run.head.groups))
        _ = round_of(run) if kinds[-1] else run.round(*(FOUR[:3] if round_ == 6 else FOUR))
    assert kinds == [True, True, False, True, True, False, False, True]
    assert run.head.round == 8 and run.head.since_exact == 1 and run.head.groups == []


def test_a_roster_counts_for_no_round() -> None:
    """SPEC E2."""
    run = gossip()
    run.opening(*FOUR)
    round_of(run)
    run.decide(run.proposal(NOTHING, {}, FOUR))
    assert run.head.since_exact == 1 and len(run.head.groups) == 2


def test_the_manifest_says_it_only_where_it_is_so() -> None:
    """SPEC M3: other runs keep their names."""
    plain = canonical(config_from_toml({"name": "a"}))
    assert "gossip" not in plain
    text = canonical(config_from_toml({"name": "a", "outer": {"schedule": "gossip"}}))
    assert '"gossip":{"exact_every":4,"group_size":4}' in text
    for bad, word in (({"exact_every": 1}, "exact_every"), ({"group_size": 65}, "group_size"), ({"k": 2}, "k")):
        with pytest.raises(BadManifest, match=word):
            config_from_toml({"name": "a", "outer": {"schedule": "gossip", "gossip": bad}})
    with pytest.raises(BadManifest, match="exactly if"):
        config_from_toml({"name": "a", "outer": {"schedule": "ring", "gossip": {}}})


# ---- the record


def test_a_record_lists_what_each_group_came_to() -> None:
    """SPEC E3: and is the same after a journey over the wire."""
    run = gossip()
    run.opening(*FOUR)
    entry = round_of(run)
    first, second = run.heads[0].groups
    assert entry.record.shape == [Group(2, g.root) for g in entry.record.shape if isinstance(g, Group)]
    assert decode_entry(encode(entry)) == entry
    assert [c.peer for c in entry.blob.contributions] == [*first, *second]
    assert run.state == run.states[0], "the state is as it was"


@pytest.mark.parametrize(
    "wrong",
    [
        "a ring of all",
        "one from each group together",
        "the second group first",
        "a group in two",
        "the roots of another",
        "no root",
        "shares",
        "sizes that do not add up",
    ],
)
def test_records_that_no_honest_leader_proposes(wrong: str) -> None:
    """SPEC E1, E2, E3."""
    run = gossip()
    run.opening(*FOUR)
    first, second = run.head.groups
    good = grouped(run)
    check_proposal(run.head, good.record, good.blob)
    change = {
        "the roots of another": {"update_root": hash_of("other")},
        "no root": {"shape": [Group(2, bytes(32)), good.record.shape[1]]},
        "shares": {"shape": [2, 2]},
        "sizes that do not add up": {"shape": [Group(2, b"r" * 32), Group(1, b"s" * 32)]},
    }
    if wrong == "a ring of all":
        ready = {peer: ready_of(run.head, peer, run.state) for peer in FOUR}
        bad = run.proposal(run.outcome(ready), ready, FOUR)
    elif wrong in change:
        bad = msgspec.structs.replace(good, record=msgspec.structs.replace(good.record, **change[wrong]))
    else:
        mixed = [[first[0], second[0]], [first[1], second[1]]]
        halves = [first[:1], first[1:]]
        bad = grouped(run, mixed if "each" in wrong else [second, first] if "first" in wrong else halves)
    with pytest.raises(BadRecord):
        check_proposal(run.head, bad.record, bad.blob)


def test_groups_where_none_are_to_be() -> None:
    """SPEC E2: in an exact round, and in another run."""
    run = gossip(every=2)
    run.opening(*FOUR)
    groups = run.head.groups
    round_of(run)
    assert run.head.groups == []
    plain = History(run_config())
    plain.opening(*FOUR)
    for history in (run, plain):
        bad = grouped(history, groups)
        with pytest.raises(BadRecord, match="schedule gossip is not this run's"):
            check_proposal(history.head, bad.record, bad.blob)


def test_each_group_has_a_majority_of_its_own() -> None:
    """SPEC E4: however many of the others have signed."""
    run = gossip()
    run.opening(*SIX)
    good, crypto = grouped(run), TagCrypto("PA")
    check_results(run.head, good, crypto)
    lone = good.blob.contributions[0].peer
    less = msgspec.structs.replace(good, results=[vote for vote in good.results if vote.voter != lone])
    with pytest.raises(BadRecord, match="majority"):
        check_results(run.head, less, crypto)
    half = grouped(run, run.head.groups[1:], SIX)  # a group that broke is not in it
    check_proposal(run.head, half.record, half.blob)
    check_results(run.head, half, crypto)


def test_the_spread_is_told_by_the_norms_of_one_group() -> None:
    """SPEC E8: two that are each 1 from the state at right angles have a mean 0.707 from it; of the others nothing is
    known but that they were drawn by the same lot."""
    run = gossip()
    run.opening(*FOUR)
    entry = round_of(run)
    group = entry.record.shape[0]
    assert isinstance(group, Group)
    spread = anchor_spread(entry, group.root, 0.5**0.5)
    assert spread == pytest.approx(((1 - 0.5) * (4 - 2) / (4 * (2 - 1))) ** 0.5 / 0.5**0.5)
    assert anchor_spread(entry, group.root, 1.0) == 0.0 and anchor_spread(entry, b"x" * 32, 1.0) is None


@pytest.mark.parametrize("norm", ["7f800000", "7fc00000"])
def test_a_norm_that_is_no_number_tells_nothing(norm: str) -> None:
    """Of a member that lies: an infinity in `status --json` would be no JSON."""
    run = gossip()
    run.opening(*FOUR)
    entry = round_of(run)
    group = entry.record.shape[0]
    assert isinstance(group, Group)
    said = [msgspec.structs.replace(one, norm=norm) for one in entry.blob.contributions]
    lying = msgspec.structs.replace(entry, blob=msgspec.structs.replace(entry.blob, contributions=said))
    assert anchor_spread(lying, group.root, 0.5) is None
