"""protocol/planner.py and costs.py: order, schedule, shape and time, from links alone. SPEC C7, C8."""

from random import Random

import pytest

from intellectd.protocol.collectives import misfit
from intellectd.protocol.costs import BEGIN_S, Network, direct_s, fit_shares, ring_s, torus_s
from intellectd.protocol.entries import Collective, Member
from intellectd.protocol.links import Estimate
from intellectd.protocol.planner import Course, chart, connectable

MB = 1e6
Known = dict[tuple[int, int], Estimate]


def link(rate: float, rtt_s: float = 0.02) -> Estimate:
    return Estimate(rate, rtt_s, 0.0, "PA")


def mesh(n: int, rate: float = 50 * MB, rtt_s: float = 0.02) -> Known:
    return {(i, j): link(rate, rtt_s) for i in range(n) for j in range(n) if i != j}


def lines(*rates: float, rtt_s: float = 0.02) -> Known:
    """Each host has one line, as wide up as down."""
    n = len(rates)
    return {(i, j): link(min(rates[i], rates[j]), rtt_s) for i in range(n) for j in range(n) if i != j}


def steps(order: list[int]) -> list[tuple[int, int]]:
    return list(zip(order, [*order[1:], order[0]], strict=True))


# ---- orders


@pytest.mark.parametrize("n", [1, 2, 5, 13, 200])
def test_without_links_it_is_a_ring_in_turn(n: int) -> None:
    """SPEC C8: and nothing is predicted."""
    assert chart([True] * n, {}, 10**9) == Course(list(range(n)), "ring", [], None)


def test_a_narrow_link_is_no_part_of_the_ring() -> None:
    """SPEC C8: known or not, the others take its place."""
    found = chart([True] * 5, {(1, 2): link(MB), (0, 1): link(50 * MB)}, 10**9, "ring")
    assert (1, 2) not in steps(found.order) and sorted(found.order) == list(range(5))
    assert found.seconds == pytest.approx(2 * 4 / 5 * 1e9 / (50 * MB), rel=0.05)


def test_the_same_of_the_same() -> None:
    """SPEC C8: whoever plans, and in whichever order links were learned."""
    rng = Random(3)
    known = {pair: link(2.0 ** rng.randrange(16, 27), 0.1 * rng.random()) for pair in mesh(9)}
    pairs = list(known)
    rng.shuffle(pairs)
    assert chart([True] * 9, known, 10**9) == chart([True] * 9, {pair: known[pair] for pair in pairs}, 10**9)


def test_the_last_ring_stays_while_another_is_hardly_quicker() -> None:
    """SPEC C8: nor if somebody new is here, or links are unknown, or it could no longer be."""
    last, every = [2, 0, 3, 1], [True] * 4
    assert chart(every, mesh(4), 10**9, "ring", last).order == last
    assert chart(every, {}, 10**9, "ring", last).order == [0, 1, 2, 3]
    assert chart([False, True, False, True], mesh(4), 10**9, "ring", last).order != last
    for narrow, stays in ((0.96, True), (0.9, False)):
        known = {**mesh(4), (2, 0): link(narrow * 50 * MB)}
        assert (chart(every, known, 10**10, "ring", last).order == last) == stays


def test_a_large_ring_avoids_the_narrow_links_that_are_known() -> None:
    """SPEC C8: of hundreds, no more than neighbours are looked at."""
    n = 300
    known = {(i, (i + 1) % n): link(MB if i % 7 == 0 else 50 * MB) for i in range(n)}
    found = chart([True] * n, known, 10**9, "ring")
    assert sorted(found.order) == list(range(n))
    assert [pair for pair in steps(found.order) if pair in known and known[pair].rate == MB] == []


# ---- who cannot be dialled


@pytest.mark.parametrize("known", [{}, mesh(9)], ids=["unknown", "known"])
@pytest.mark.parametrize("hidden", [(0, 1), (0, 1, 2, 3), (5, 6, 7, 8), (3,)])
def test_no_two_that_nobody_can_dial_are_neighbours(known: Known, hidden: tuple[int, ...]) -> None:
    """SPEC C8."""
    found = chart([place not in hidden for place in range(9)], known, 10**9)
    assert sorted(found.order) == list(range(9)) and found.left == []
    if found.schedule == "ring":
        assert not any(i in hidden and j in hidden for i, j in steps(found.order))


def test_of_too_many_that_nobody_can_dial_some_wait() -> None:
    """SPEC C8: the last in turn, which is another in each round."""
    assert connectable([False, True, False, False, True]) == ([0, 1, 2, 4], [3])
    assert connectable([False] * 3) == ([0], [1, 2])
    assert connectable([True, False]) == ([0, 1], []) and connectable([]) == ([], [])
    found = chart([False, False, True, False], mesh(4), 10**9)
    assert (sorted(found.order), found.left) == ([0, 2], [1, 3])


def test_what_cannot_be_connected_is_no_torus() -> None:
    assert chart([False, False, True, True, True, True], mesh(6), 10**9, "torus").schedule in ("ring", "torus")
    assert chart([False, True, False, True], mesh(4), 10**9, "torus").schedule == "ring"
    network = Network([False, True, True, False], {}, 10**9)
    assert torus_s(network, [0, 1, 2, 3], 2) is not None and torus_s(network, [0, 1, 3, 2], 2) is None


def test_two_that_nobody_can_dial_meet_at_a_relay_which_costs() -> None:
    """SPEC C8."""
    dialable = [False, True, False, True]
    assert chart(dialable, mesh(4), 10**9, "direct").schedule == "direct"
    network, open_ = (
        Network(dialable, mesh(4, 50 * MB, 0.02), 10**9),
        Network([True] * 4, mesh(4, 50 * MB, 0.02), 10**9),
    )
    assert (network.relay(0, 2), network.relay(2, 0), network.relay(0, 1)) == (1, 1, None)
    assert (network.carried(0, 2), network.way_s(0, 2), network.way_s(0, 1)) == (50 * MB, 0.04, 0.02)
    assert direct_s(network, [1] * 4) > 1.5 * direct_s(open_, [1] * 4)
    assert Network([False] * 3, {}, 1).relay(0, 1) is None
    assert chart([False, False], mesh(2), 10**9, "direct").left == [1]


# ---- schedules


def test_the_manifest_names_the_schedule() -> None:
    """SPEC C7, C8: also while no link is known; where it cannot be, it is a ring."""
    assert chart([True] * 6, {}, 10**9, "direct") == Course(list(range(6)), "direct", [1] * 6, None)
    torus = chart([True] * 6, {}, 10**9, "torus")
    assert (torus.schedule, torus.order) == ("torus", list(range(6))) and torus.shape in ([2], [3])
    assert chart([True] * 7, {}, 10**9, "torus").schedule == "ring"
    assert chart([True] * 65, {}, 10**9, "direct").schedule == "ring"
    assert chart([True] * 6, mesh(6, rtt_s=1.0), 10**6, "ring").schedule == "ring"


def test_even_lines_and_many_bytes_make_a_ring() -> None:
    """SPEC C8: others send as many bytes, and are not worth it."""
    assert chart([True] * 4, mesh(4), 10**10).schedule == "ring"


def test_few_bytes_and_long_ways_make_a_direct_exchange() -> None:
    """SPEC C8: two hops instead of 2(M-1)."""
    found = chart([True] * 8, mesh(8, rtt_s=0.2), 10**6)
    assert found.schedule == "direct" and len(found.shape) == 8 and len(set(found.shape)) == 1


def test_uneven_lines_make_a_direct_exchange_in_which_the_wide_own_more() -> None:
    """SPEC C8: in a ring everybody waits for the narrowest."""
    known = lines(200 * MB, 200 * MB, 200 * MB, 20 * MB)
    found = chart([True] * 4, known, 10**9)
    assert found.schedule == "direct"
    shares = [share / sum(found.shape) for share in found.shape]
    assert shares[3] < 0.15 < shares[0] == pytest.approx(shares[1]) == pytest.approx(shares[2])
    ring = chart([True] * 4, known, 10**9, "ring")
    assert found.seconds is not None and ring.seconds is not None and found.seconds < 0.8 * ring.seconds


def test_large_rosters_with_long_ways_make_a_torus() -> None:
    """SPEC C8: 2(r-1) + 2(c-1) hops instead of 2(rc-1)."""
    n = 100
    known = {(i, (i + 1) % n): link(50 * MB, 0.1) for i in range(n)}
    found = chart([True] * n, known, 100 * 10**6)
    assert found.schedule == "torus" and found.shape[0] in (4, 5, 10, 20)


def test_few_known_links_are_no_reason_to_leave_the_ring() -> None:
    """SPEC C8: as many must be known as a ring has."""
    few = {(0, 1): link(50 * MB, 0.2), (1, 0): link(50 * MB, 0.2)}
    assert chart([True] * 8, few, 10**6).schedule == "ring"


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_planned_may_be(seed: int) -> None:
    """SPEC C7: with links and lines of any width, and any manifest."""
    rng = Random(seed)
    n, manifest = rng.randrange(1, 40), rng.choice(["auto", "ring", "direct", "torus"])
    pairs = [pair for pair in mesh(n) if rng.random() < rng.choice([0.1, 1.0])]
    known = {pair: link(2.0 ** rng.uniform(10, 32), rng.uniform(0.0001, 0.5)) for pair in pairs}
    dialable = [rng.random() < 0.7 for _ in range(n)]
    found = chart(dialable, known, rng.choice([260, 10**6, 10**10]), manifest)
    members = [Member(f"P{place}", 1, bytes(32)) for place in found.order]
    assert misfit(Collective(members, found.schedule, found.shape), manifest) == ""
    assert sorted([*found.order, *found.left]) == list(range(n))
    assert (found.seconds is None) == (not any(i not in found.left and j not in found.left for i, j in known))


# ---- the model of time


def test_a_ring_takes_what_its_bytes_take() -> None:
    """2(M-1)/M of the update over the narrowest link; the published all-reduce of INTELLECT-1 would have been so."""
    network = Network([True] * 4, {**mesh(4, 62.5 * MB, 0.1), (2, 3): link(31.25 * MB, 0.1)}, 512 * 2**20)
    assert ring_s(network, [0, 1, 2, 3]) == pytest.approx(BEGIN_S + 1.5 * 512 * 2**20 / (31.25 * MB))
    assert ring_s(network, [0, 2, 1, 3]) == pytest.approx(BEGIN_S + 1.5 * 512 * 2**20 / (62.5 * MB))
    assert ring_s(network, [0]) == 0.0


def test_of_few_bytes_the_hops_are_what_takes_time() -> None:
    network = Network([True] * 10, mesh(10, 1000 * MB, 0.2), 1000)
    assert ring_s(network, list(range(10))) == pytest.approx(BEGIN_S + 18 * 0.1, rel=0.01)
    assert torus_s(network, list(range(10)), 2) == pytest.approx(BEGIN_S + 10 * 0.1, rel=0.01)
    assert direct_s(network, [1] * 10) == pytest.approx(BEGIN_S + 0.2 + 9 * 0.005, rel=0.01)


def test_a_torus_sends_as_many_bytes_as_a_ring() -> None:
    network = Network([True] * 12, mesh(12, 50 * MB, 0.0001), 10**10)
    assert torus_s(network, list(range(12)), 3) == pytest.approx(ring_s(network, list(range(12))), rel=0.01)


def test_shares_that_end_together_are_better_than_even_ones() -> None:
    network = Network([True] * 5, lines(400 * MB, 100 * MB, 100 * MB, 50 * MB, 25 * MB), 10**9)
    shares = fit_shares(network)
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.1 * shares[0]
    assert direct_s(network, shares) < 0.65 * direct_s(network, [1] * 5)
    least = 10**9 / (25 * MB)  # what the narrowest has to send and receive even if it owns nothing
    assert least < direct_s(network, shares) < 1.2 * least


def test_what_was_not_measured_is_as_the_middle_one_but_for_what_lines_carry() -> None:
    known = {(0, 1): link(10 * MB), (0, 2): link(8 * MB), (2, 1): link(90 * MB), (3, 4): link(50 * MB)}
    network = Network([True, True, True, False, False], known, 1)
    assert network.usual == 50 * MB
    assert network.rate(0, 3) == 10 * MB, "two links of one host tell its line"
    assert network.rate(3, 0) == network.rate(2, 0) == 50 * MB, "one does not"
    assert network.rate(3, 4) == 0.0, "nobody can dial either"
    assert network.rtt(1, 0) == network.rtt(0, 1)
