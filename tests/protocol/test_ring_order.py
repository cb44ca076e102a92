"""protocol/ring_order.py: the widest ring. SPEC C8."""

from itertools import permutations
from random import Random

import pytest

from intellectd.protocol import ring_order
from intellectd.protocol.ring_order import EXACT_MAX, Matrix, widest_ring, width


def around(order: tuple[int, ...] | list[int]) -> list[tuple[int, int]]:
    return list(zip(order, [*order[1:], order[0]], strict=True))


def links(n: int, rng: Random, sparse: float = 0.0) -> tuple[Matrix, Matrix]:
    """Lines of very different width, paths of different loss; few different rates, so that there are ties."""
    lines = [2.0 ** rng.randrange(1, 7) for _ in range(n)]
    rates = [[min(lines[i], lines[j] * 2, 2.0 ** rng.randrange(1, 8)) * (i != j) for j in range(n)] for i in range(n)]
    rates = [[0.0 if rng.random() < sparse else rate for rate in row] for row in rates]
    return rates, [[rng.choice([0.01, 0.05, 0.2]) for _ in range(n)] for _ in range(n)]


@pytest.mark.parametrize("seed", range(60))
def test_of_few_the_very_best(seed: int) -> None:
    """SPEC C8: beside every order there is; and of equally wide ones the shortest way around."""
    rng = Random(seed)
    n = rng.randrange(2, 8)
    rates, rtts = links(n, rng, rng.choice([0.0, 0.3, 0.6]))
    every = [(0, *rest) for rest in permutations(range(1, n))]
    best = max(width(list(order), rates) for order in every)
    found = widest_ring(rates, rtts)
    if best == 0.0:
        assert found is None
        return
    assert found is not None and sorted(found) == list(range(n)) and found[0] == 0
    assert width(found, rates) == best
    way = min(sum(rtts[i][j] for i, j in around(o)) for o in every if width(list(o), rates) == best)
    assert n == 2 or sum(rtts[i][j] for i, j in around(found)) == pytest.approx(way)


def test_equal_links_leave_the_order_as_it_is() -> None:
    for n in (1, 2, 3, 7, EXACT_MAX, 40):
        even = [[float(i != j) for j in range(n)] for i in range(n)]
        assert widest_ring(even, even) == list(range(n))


@pytest.mark.parametrize("n", [EXACT_MAX + 1, 20, 50, 128])
def test_of_many_a_ring_near_the_bound(n: int) -> None:
    """SPEC C8: no ring is wider than the narrowest of its members' widest links; beside a plain order it is far."""
    for seed in range(4):
        rng = Random(seed)
        rates = [[rng.uniform(1.0, 100.0) * (i != j) for j in range(n)] for i in range(n)]
        found = widest_ring(rates, rates)
        assert found is not None and sorted(found) == list(range(n)) and found[0] == 0
        assert width(found, rates) >= 0.8 * ring_order._bound(rates) > 4 * width(list(range(n)), rates)


def test_the_search_for_many_is_near_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both can be asked: never wider, mostly as wide, and it finds a ring wherever links are not scarce."""
    ratios = []
    for seed in range(40):
        rates, rtts = links(9, Random(seed), 0.2)
        exact = widest_ring(rates, rtts)
        with monkeypatch.context() as patched:
            patched.setattr(ring_order, "EXACT_MAX", 2)
            other = widest_ring(rates, rtts)
        if exact is not None:
            ratios.append(width(other, rates) / width(exact, rates) if other else 0.0)
    assert len(ratios) > 30 and max(ratios) == 1.0 and sum(ratios) / len(ratios) > 0.95


def test_links_that_are_not_there_are_not_used() -> None:
    """Every other place can be dialled by nobody: they stand between the others."""
    for n in (4, 8, 12, 30):
        rates = [[0.0 if i == j or (i % 2 and j % 2) else 1.0 for j in range(n)] for i in range(n)]
        found = widest_ring(rates, rates)
        assert found is not None and all(not (i % 2 and j % 2) for i, j in around(found))
        rates[1] = [0.0] * n
        assert widest_ring(rates, rates) is None
