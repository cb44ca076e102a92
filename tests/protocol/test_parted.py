"""Two hosts that are well, and cannot reach each other: the next ring keeps them apart. SPEC A10, C5, C8."""

from itertools import combinations
from random import Random

import pytest

from intellectd.protocol import limits
from intellectd.protocol.collectives import neighbours
from intellectd.protocol.entries import Collective, Member
from intellectd.protocol.ids import hash_of
from intellectd.protocol.manifest import Timers
from intellectd.protocol.planner import chart
from intellectd.protocol.suspicion import Suspicion
from tests.protocol import puppets as say
from tests.protocol.history import History
from tests.protocol.playbook import Host, swarm
from tests.protocol.test_planner import mesh
from tests.protocol.test_planning import turn
from tests.protocol.test_round_failures import NEXT, THEIRS
from tests.protocol.test_round_leader import ring

PEERS = ("PA", "PB", "PC", "PD", "PE")


def collective(n: int, schedule: str, shape: list[int]) -> Collective:
    return Collective([Member(f"P{k}", 1, hash_of(f"{k}")) for k in range(n)], schedule, shape)


def beside(order: list[int] | tuple[str, ...], one: int | str, other: int | str) -> bool:
    members = list(order)
    return (members.index(one) - members.index(other)) % len(members) in (1, len(members) - 1)  # type: ignore[arg-type]


# ---- the planner


def test_who_stands_beside_whom() -> None:
    """SPEC A10, C7: in rows and columns, or everybody."""
    assert neighbours(collective(3, "ring", [])) == [("P0", "P1"), ("P1", "P2"), ("P2", "P0")]
    assert sorted(neighbours(collective(3, "direct", [1, 1, 1]))) == [("P0", "P1"), ("P0", "P2"), ("P1", "P2")]
    torus = {frozenset(pair) for pair in neighbours(collective(6, "torus", [2]))}
    assert (
        frozenset(("P0", "P3")) in torus and frozenset(("P0", "P2")) in torus and frozenset(("P2", "P3")) not in torus
    )


@pytest.mark.parametrize("n", [4, 7, 12, 13, 40, 128, 200])
@pytest.mark.parametrize("links", [False, True])
def test_parted_members_are_no_neighbours(n: int, links: bool) -> None:
    """SPEC C8: whether links are known or not; and the order is the one in turn while nobody is parted."""
    if links and n > 40:
        return
    known = mesh(n) if links else {}
    parted = [(1, 0)] if n < 7 else [(1, 0), (2, 3), (n - 2, n - 1)]
    found = chart([True] * n, known, 10**10, "ring", (), parted)
    assert sorted(found.order) == list(range(n)) and found.parted == found.left == []
    assert not any(beside(found.order, i, j) for i, j in parted)
    assert links or chart([True] * n, known, 10**10, "ring", (), ()).order == list(range(n))


@pytest.mark.parametrize("openness", [0.8, 0.5])  # how many can be dialled
@pytest.mark.parametrize("seed", range(40))
def test_of_those_that_can_be_connected_nobody_is_lost(seed: int, openness: float) -> None:
    """SPEC C8: whatever is parted, more than half stay, without two parted neighbours or as if nobody were parted."""
    rng = Random(seed)
    n = rng.randint(2, 14)
    parted = rng.sample([(j, i) for i, j in combinations(range(n), 2)], rng.randint(1, n * (n - 1) // 2))
    dialable = [rng.random() < openness for _ in range(n)]
    found = chart(dialable, {}, 10**9, "auto", (), parted)
    stayed = n - len(found.left)
    assert sorted([*found.order, *found.left, *found.parted]) == list(range(n))
    assert stayed < 2 or 2 * len(found.order) > stayed
    pairs = [{i, j} for i, j in parted]
    ends = zip(found.order, [*found.order[1:], found.order[0]], strict=True)
    broken = len(found.order) > 1 and any({i, j} in pairs for i, j in ends)
    assert not broken or found.order == chart(dialable, {}, 10**9, "auto").order


def test_whom_two_found_no_way_to_waits() -> None:
    """SPEC C8: though there would be a ring; but not where too few stay."""
    parted = [(0, 2), (4, 2)]
    found = chart([True] * 5, {}, 10**9, "ring", (), parted)
    assert (found.order, found.parted) == ([0, 1, 3, 4], [2])
    assert chart([True] * 5, {}, 10**9, "ring", (), parted, 5).parted == []
    assert chart([True] * 2, {}, 10**9, "ring", (), [(0, 1)]).order == [0, 1]


def test_no_direct_exchange_of_parted_members_and_no_torus_through_them() -> None:
    """SPEC C8."""
    assert chart([True] * 6, {}, 10**9, "direct").schedule == "direct"
    assert chart([True] * 6, {}, 10**9, "direct", (), [(0, 3)]).schedule == "ring"
    for i, j in combinations(range(6), 2):
        found = chart([True] * 6, {}, 10**9, "torus", (), [(i, j)])
        made = Collective([Member(str(k), 1, hash_of("")) for k in found.order], found.schedule, found.shape)
        assert not {(str(i), str(j)), (str(j), str(i))} & {*neighbours(made)}


def test_a_last_order_with_parted_neighbours_is_left() -> None:
    """SPEC C8: or those that stood side by side in the round before would never be parted."""
    last = [0, 2, 1, 3, 4]
    assert chart([True] * 5, mesh(5), 10**9, "ring", last).order == last
    assert not beside(chart([True] * 5, mesh(5), 10**9, "ring", last, [(2, 1)]).order, 1, 2)


# ---- the accusations


def test_accusations_are_bounded() -> None:
    """SPEC A10, L1: of each accuser the newest count."""
    suspicion = Suspicion(Timers())
    names = [f"P{number}" for number in range(limits.PARTED_MAX + 1)]
    for name in (*names, names[1]):
        suspicion.part("PA", name)
    assert suspicion.parted(["PA", *names]) == [(0, place) for place in [*range(3, limits.PARTED_MAX + 2), 2]]
    assert suspicion.parted(["PA", "P0"]) == [], "the oldest is forgotten"


def broken(*accusations: tuple[str, str]) -> tuple[History, Host, tuple[str, ...]]:
    """PB leads attempt 0 in turn; these say that it broke at those; PA is about to plan attempt 1."""
    run = swarm("PB", "PA", "PC", "PD", "PE")
    pa = Host(run).meet(*PEERS[1:]).work()
    pa.told(*(pa.ready(peer) for peer in PEERS[1:])).skip()
    members = turn(run, *PEERS)
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, *members))).skip()
    for accuser, suspect in accusations:
        if accuser == "PA":
            pa.told(say.broke(run, *members, suspect=suspect, silent=True)).skip()
        else:
            pa.told(pa.says(accuser, say.abort(run, THEIRS, suspect, silent=True))).skip()
    return run, pa, members


def planned(run: History, pa: Host, done: Collective | None = None) -> tuple[str, ...]:
    for peer in PEERS[1:]:
        pa.told(pa.says(peer, say.promise(run, NEXT, completed=done)))
    return tuple(ring(pa))


def test_the_next_ring_keeps_accuser_and_suspect_apart() -> None:
    """SPEC A10, C8: both live, and both are in it."""
    members = turn(swarm("PB", "PA", "PC", "PD", "PE"), *PEERS)
    one = next(k for k in range(5) if "PA" not in (members[k], members[(k + 1) % 5]))
    accuser, suspect = members[one], members[(one + 1) % 5]
    run, pa, _ = broken((accuser, suspect))
    after = planned(run, pa)
    assert sorted(after) == sorted(members) and not beside(after, accuser, suspect)


@pytest.mark.parametrize("own", [True, False])
def test_also_when_it_is_this_host_that_was_accused_or_accuses(own: bool) -> None:
    """SPEC A10: the leader does not leave itself out, but its place is another."""
    members = turn(swarm("PB", "PA", "PC", "PD", "PE"), *PEERS)
    near = members[members.index("PA") - 1]
    run, pa, _ = broken(("PA", near) if own else (near, "PA"))
    after = planned(run, pa)
    assert sorted(after) == sorted(members) and not beside(after, "PA", near)


def test_word_of_a_suspect_further_off_parts_nobody() -> None:
    """SPEC A10: a neighbour that gives up says why, and it is passed on."""
    members = turn(swarm("PB", "PA", "PC", "PD", "PE"), *PEERS)
    accuser, suspect = next((i, j) for i, j in combinations(PEERS[1:], 2) if not beside(members, i, j))
    run, pa, _ = broken((accuser, suspect))
    assert planned(run, pa) == members


def test_without_a_suspect_the_order_stays() -> None:
    """SPEC C2, C8: so that an equal transfer goes on under the next leader."""
    run = swarm("PB", "PA", "PC", "PD", "PE")
    pa = Host(run).meet(*PEERS[1:]).work()
    pa.told(*(pa.ready(peer) for peer in PEERS[1:])).skip()
    members = turn(run, *PEERS)
    pa.told(pa.says("PB", say.prepare(run, THEIRS)), pa.says("PB", say.plan(run, THEIRS, *members))).skip()
    pa.told(pa.says("PC", say.abort(run, THEIRS, None))).skip()
    assert planned(run, pa) == members


def test_a_result_of_one_member_is_not_waited_for_across_a_parted_pair() -> None:
    """SPEC C5: the others would try the same ring for ever; a majority's is planned again."""
    members = turn(swarm("PB", "PA", "PC", "PD", "PE"), *PEERS)
    one = next(k for k in range(5) if "PA" not in (members[k], members[(k + 1) % 5]))
    run, pa, _ = broken((members[one], members[(one + 1) % 5]))
    done = say.plan(run, THEIRS, *members).collective
    pa.told(pa.says("PB", say.promise(run, NEXT, completed=done)))
    assert planned(run, pa) != members
    run, pa, _ = broken((members[one], members[(one + 1) % 5]))
    assert planned(run, pa, done) == members


def test_who_is_left_out_misses_the_next_attempt_however_late_it_comes() -> None:
    """SPEC A10: the pause before it is no time in which the suspect was left out."""
    run, pa, _ = broken()
    attempts, timers = pa.node.round.parts.attempts, pa.node.context.config.timers
    for attempt in range(1, 7):  # each failure makes the pause longer
        attempts.failed(attempt, pa.now)
    pa.told(pa.says("PB", say.abort(run, THEIRS, "PC", silent=False))).skip()
    begins, suspicion = attempts.resumes_at(pa.now), pa.node.round.parts.suspicion
    assert begins > pa.now + timers.beacon_s and suspicion.excluded("PC", begins + timers.suspect_s - 0.1)
    assert not suspicion.excluded("PC", begins + timers.suspect_s + 0.1)
