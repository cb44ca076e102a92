"""Codecs that no ring may encode anew, and error feedback: what a run with them allows. SPEC C6-C8, M4, P10."""

import random

import pytest

from intellectd.kernels.codec import CODECS, codec_by_name, update_codec
from intellectd.protocol import effects as ef
from intellectd.protocol import events as ev
from intellectd.protocol import manifest as mf
from intellectd.protocol.collectives import DIRECT_ONLY, allowed, misfit
from intellectd.protocol.entries import Collective, Member
from intellectd.protocol.head import Head
from intellectd.protocol.ids import NO_HASH, hash_of
from intellectd.protocol.limits import DIRECT_MEMBERS_MAX, FEEDBACK_ROUNDS_MAX
from intellectd.protocol.links import Estimate
from intellectd.protocol.manifest import BadManifest, RunConfig, config_from_toml, is_direct_only
from intellectd.protocol.messages import Ready
from intellectd.protocol.planner import chart
from tests.protocol.history import RUN, manifest_of, ready_of
from tests.protocol.playbook import History, Host, run_config

ROOT = hash_of("a delta of PZ")


def config_with(**outer: object) -> RunConfig:
    return config_from_toml({"name": "x", "outer": outer})


def of(members: int, schedule: str, *shape: int) -> Collective:
    return Collective([Member("P" + "Q" * n, 1, bytes(32)) for n in range(members)], schedule, list(shape))


@pytest.mark.parametrize("codec", ["int4", "e3m0", "topk"])
@pytest.mark.parametrize("schedule", ["auto", "direct"])
def test_small_codecs_go_by_direct_exchange_alone(codec: str, schedule: str) -> None:
    """SPEC C7."""
    config = config_with(codec=codec, schedule=schedule, error_feedback=codec == "topk")
    assert is_direct_only(config.outer) and allowed(config.outer) == DIRECT_ONLY
    assert mf.config_of(manifest_of(config, "PA")) == config


@pytest.mark.parametrize("codec", ["int8", "bf16", "int4", "e3m0"])
def test_error_feedback_goes_by_direct_exchange_alone(codec: str) -> None:
    """SPEC C7: a ring would encode sums anew, and nobody would know what that loses."""
    assert allowed(config_with(codec=codec, error_feedback=True).outer) == DIRECT_ONLY
    with pytest.raises(BadManifest, match="is for direct exchanges") as refused:
        config_with(codec=codec, error_feedback=True, schedule="torus")
    assert refused.value.hint == 'set outer.schedule = "direct"'
    if codec in ("int8", "bf16"):
        assert allowed(config_with(codec=codec, schedule="torus").outer) == "torus"


@pytest.mark.parametrize(
    ("outer", "says"),
    [
        ({"codec": "int4", "schedule": "ring"}, 'outer.codec "int4" is for direct exchanges'),
        ({"codec": "e3m0", "schedule": "torus"}, 'outer.codec "e3m0" is for direct exchanges'),
        ({"codec": "int8", "error_feedback": True, "schedule": "ring"}, "outer.error_feedback is for direct"),
        ({"codec": "fp32", "error_feedback": True}, "fp32 loses nothing"),
        ({"codec": "topk"}, "the rest would be lost"),
        ({"codec": "int2"}, '`outer.codec` must be "int8" or "bf16" or "fp32" or "int4" or "e3m0" or "topk"'),
        ({"error_feedback": 1}, "`outer.error_feedback` must be true or false; it is 1"),
    ],
)
def test_contradictions_are_refused(outer: dict[str, object], says: str) -> None:
    """SPEC M4: in a run.toml, and where the types allow it in a manifest from elsewhere, too."""
    with pytest.raises(BadManifest) as refused:
        config_with(**outer)
    assert says in str(refused.value)
    if outer.get("codec") in CODECS:
        manifest = manifest_of(RunConfig(name="x", outer=mf.Outer(**outer)), "PA")  # type: ignore[arg-type]
        with pytest.raises(BadManifest):
            mf.config_of(manifest)


def test_which_collectives_such_a_run_allows() -> None:
    """SPEC C7: no ring, not even of one."""
    for collective in (of(1, "direct", 1), of(3, "direct", 0, 5, 1), of(64, "direct", *[1] * 64)):
        assert misfit(collective, DIRECT_ONLY) == ""
    for collective in (
        *(of(1, "ring"), of(4, "ring"), of(4, "torus", 2), of(3, "direct"), of(2, "direct", 0, 0)),
        *(of(2, "direct", 1, 1, 1), of(65, "direct", *[1] * 65), of(0, "direct")),
    ):
        assert "direct exchanges alone" in misfit(collective, DIRECT_ONLY)


def test_the_mean_has_a_codec_that_bears_it() -> None:
    """SPEC C6: the record's size of an update is that of the mean."""
    assert {name: update_codec(codec).name for name, codec in CODECS.items()} == {
        **{"fp32": "fp32", "bf16": "bf16", "int8": "int8"},
        **{"int4": "int8", "e3m0": "int8", "topk": "int8"},
    }
    for name in ("bf16", "int4", "topk"):
        config = config_with(codec=name, error_feedback=name == "topk")
        head = Head(manifest_of(config, "PA"), RUN, None)
        assert head.update_bytes == update_codec(codec_by_name(name)).encoded_bytes(256)
        part = codec_by_name(name).encoded_bytes(256)
        assert head.codec == name and head.transfer_bytes == (part + head.update_bytes) // 2


def links(n: int, rate: float = 1e7) -> dict[tuple[int, int], Estimate]:
    return {(i, j): Estimate(rate * (1 + i), 0.02, 0.0, "sent") for i in range(n) for j in range(n) if i != j}


def test_who_takes_part_in_an_exchange_of_all_with_all() -> None:
    """SPEC C8."""
    assert chart([True], {}, 10**9, DIRECT_ONLY).shape == [1]
    found = chart([True] * 5, {}, 10**9, DIRECT_ONLY)
    assert (found.order, found.schedule, found.shape, found.seconds) == ([0, 1, 2, 3, 4], "direct", [1] * 5, None)
    known = chart([True] * 5, links(5), 10**9, DIRECT_ONLY)
    assert known.seconds is not None and known.seconds > 0 and known.shape[4] > known.shape[0]
    hidden = chart([True, False, True, False, False], links(5), 10**9, DIRECT_ONLY)
    assert (hidden.order, hidden.left, hidden.parted) == ([0, 1, 2, 3, 4], [], [])
    assert hidden.seconds is not None and known.seconds < hidden.seconds < 10 * known.seconds
    alone = chart([False] * 3, {}, 10**9, DIRECT_ONLY)
    assert (alone.order, alone.left) == ([0], [1, 2])  # nobody could join them
    crowd = chart([True] + 10 * [False], {}, 10**9, DIRECT_ONLY)
    assert (crowd.order, crowd.left) == ([0, 1, 2, 3, 4, 5, 6], [7, 8, 9, 10])
    many = chart([True] * 70, {}, 10**9, DIRECT_ONLY)
    assert (many.order, many.left) == ([*range(DIRECT_MEMBERS_MAX)], [*range(64, 70)])


def test_of_two_that_are_parted_the_more_accused_waits() -> None:
    """SPEC C8: as long as more than half stay, and min_peers."""
    found = chart([True] * 5, {}, 10**9, DIRECT_ONLY, (), [(0, 3), (1, 3), (4, 2)])
    assert (found.order, found.parted) == ([0, 1, 4], [2, 3])
    assert chart([True] * 5, {}, 10**9, DIRECT_ONLY, (), [(0, 3)], 5).order == [0, 1, 2, 3, 4]
    assert chart([True] * 2, {}, 10**9, DIRECT_ONLY, (), [(0, 1)]).order == [0, 1]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_known_the_plan_is_one_that_members_follow(seed: int) -> None:
    chance = random.Random(seed)
    n = chance.randint(1, 9)
    known = {pair: e for pair, e in links(n).items() if chance.random() < 0.5}
    parted = [(i, j) for i in range(n) for j in range(n) if i != j and chance.random() < 0.1]
    found = chart([chance.random() < 0.7 for _ in range(n)], known, 10**9, DIRECT_ONLY, (), parted)
    members = [Member(f"P{place}", 1, bytes(32)) for place in found.order]
    assert misfit(Collective(members, found.schedule, found.shape), DIRECT_ONLY) == ""
    assert sorted([*found.order, *found.left, *found.parted]) == list(range(n))


# ---- error feedback


def feeding(until: int | None = None) -> tuple[History, Host]:
    data = {"name": "test", "outer": {"codec": "topk", "error_feedback": True}, "inner": {"steps": 10}}
    run = History(config_from_toml(data))
    run.opening("PA")
    run.round("PA", able=["PA", "PZ"])
    return run, Host(run, "PZ").meet("PA")


def freeze(pz: Host, round_: int, root: bytes) -> ef.Freeze:
    found = pz.told(ev.TrainerReady(round_, 100, 10)).one(ef.Freeze)
    pz.told(ev.DeltaFrozen("3f800000", root))
    return found


def decide(run: History, pz: Host, *others: str, ready: Ready | None = None) -> None:
    said = {peer: ready_of(run.head, peer, run.state) for peer in others}
    if ready is not None:
        said["PZ"] = ready
    entry = run.decide(run.proposal(run.outcome(said), said, ["PA", "PZ"]))
    pz.told(ev.MessageReceived("PA", pz.sealed("PA", entry)))
    pz.told(ev.UpdateHeld(entry.record.update_root))
    pz.told(ev.Applied(entry.record.round, run.state)).skip()


def test_what_is_fed_back_is_of_the_delta_that_was_decided_last() -> None:
    """SPEC P10: left out, it stays; a host without one for long has none."""
    run, pz = feeding()
    pz.told(ev.TrainerAttached(None)).skip()
    assert freeze(pz, 2, ROOT) == ef.Freeze("topk", True, NO_HASH)
    decide(run, pz, ready=pz.node.progress.ready)
    left = hash_of("left out")
    assert freeze(pz, 3, left) == ef.Freeze("topk", True, ROOT)
    decide(run, pz, "PA")
    assert freeze(pz, 4, hash_of("another")) == ef.Freeze("topk", True, ROOT)
    pz.told(ev.TrainerDetached("it left")).skip()
    for _ in range(FEEDBACK_ROUNDS_MAX):
        decide(run, pz, "PA")
    pz.told(ev.TrainerAttached(None)).skip()
    late = run.head.round + 1
    assert freeze(pz, late, hash_of("late")) == ef.Freeze("topk", True, NO_HASH)


def test_without_it_nothing_is_fed_back() -> None:
    run = History(run_config())
    run.opening("PA")
    run.round("PA", able=["PA", "PZ"])
    pz = Host(run, "PZ").meet("PA")
    pz.told(ev.TrainerAttached(None)).skip()
    assert freeze(pz, 2, ROOT) == ef.Freeze("int8")
    decide(run, pz, ready=pz.node.progress.ready)
    assert freeze(pz, 3, hash_of("next")) == ef.Freeze("int8")
