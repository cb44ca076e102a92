"""How good the planned rings are, and how long planning takes: `python tests/bench/planner.py [--quick] [--json]`.

Hosts with lines of 0.5 to 4 Gbit/s (INTELLECT-1's) on three continents whose paths are narrower than their lines.
Of the narrowest link, each the worst and the mean of many draws: the search for many beside the exact one where both
can be asked; that search beside the bound that no ring can pass, which few rings reach; and random orders beside the
planned ring. Then the predicted time of what is planned beside the ring's. Nothing is asserted here.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.protocol import ring_order
from intellectd.protocol.links import Estimate
from intellectd.protocol.planner import chart
from intellectd.protocol.ring_order import Matrix, widest_ring, width

LINES = (62.5e6, 125e6, 250e6, 500e6)  # bytes a second
RTT_S = ((0.01, 0.09, 0.16), (0.09, 0.01, 0.22), (0.16, 0.22, 0.01))
BETWEEN = 40e6  # of a path between continents, at best
PLAN_LIMIT_S = 0.1  # in a leader's loop, which sends beacons meanwhile
SIZE = 10**9
Row = dict[str, Any]


def world(n: int, rng: Random, nat: float = 0.0) -> tuple[Matrix, Matrix, list[bool]]:
    """(rates, round trips, who can be dialled). Of every other host `nat` is the chance that nobody can dial it."""
    lines = [rng.choice(LINES) * rng.uniform(0.7, 1.1) for _ in range(n)]
    where = [rng.randrange(3) for _ in range(n)]
    dialable = [place % 2 == 0 or rng.random() >= nat for place in range(n)]
    rates = [[0.0] * n for _ in range(n)]
    for i in range(n):
        for j in range(n):
            path = BETWEEN * rng.uniform(0.1, 1.0) if where[i] != where[j] else 1e9
            if i != j and (dialable[i] or dialable[j]):
                rates[i][j] = min(lines[i], lines[j], path)
    return rates, [[RTT_S[where[i]][where[j]] for j in range(n)] for i in range(n)], dialable


def by_search_for_many(rates: Matrix, rtts: Matrix) -> list[int] | None:
    exact, ring_order.EXACT_MAX = ring_order.EXACT_MAX, 2
    try:
        return widest_ring(rates, rtts)
    finally:
        ring_order.EXACT_MAX = exact


def beside_exact(n: int, draws: int) -> Iterator[float]:
    for seed in range(draws):
        rates, rtts, _ = world(n, Random(seed), nat=0.5 * (seed % 2))
        best, other = widest_ring(rates, rtts), by_search_for_many(rates, rtts)
        assert best is not None
        yield (width(other, rates) if other else 0.0) / width(best, rates)


def beside_bound(n: int, draws: int) -> Iterator[float]:
    for seed in range(draws):
        rates, rtts, _ = world(n, Random(seed), nat=0.5 * (seed % 2))
        found = widest_ring(rates, rtts)
        yield (width(found, rates) if found else 0.0) / ring_order._bound(rates)


def covered(rates: Matrix) -> float:
    """A tighter bound: the widest rate at which cycles cover all and each can reach each; not every such swarm has a
    ring."""
    widths = sorted({rate for row in rates for rate in row if rate})
    low, high = 0, len(widths)
    while low < high:
        middle = (low + high) // 2
        masks = ring_order._wide(rates, widths[middle])
        if ring_order._cover(masks, 0) is not None and connected(masks):
            low = middle + 1
        else:
            high = middle
    return widths[low - 1]


def connected(masks: list[int]) -> bool:
    back = [sum(1 << i for i in range(len(masks)) if masks[i] >> j & 1) for j in range(len(masks))]
    return all(reached(way) == (1 << len(masks)) - 1 for way in (masks, back))


def reached(masks: list[int]) -> int:
    seen, queue = 1, [0]
    for place in queue:
        new = masks[place] & ~seen
        seen |= new
        queue += ring_order._bits(new)
    return seen


def beside_cover(n: int, draws: int) -> Iterator[float]:
    for seed in range(draws):
        rates, rtts, _ = world(n, Random(seed), nat=0.5 * (seed % 2))
        found = widest_ring(rates, rtts)
        yield (width(found, rates) if found else 0.0) / covered(rates)


def beside_random(n: int, draws: int) -> Iterator[float]:
    """The mean of random orders' times over the planned one's."""
    for seed in range(draws):
        rng = Random(seed)
        rates, rtts, _ = world(n, rng)
        found = widest_ring(rates, rtts)
        assert found is not None
        times = [width(found, rates) / width(rng.sample(range(n), n), rates) for _ in range(50)]
        yield statistics.mean(times)


def planning_s(n: int, draws: int) -> Iterator[float]:
    for seed in range(draws):
        rates, rtts, dialable = world(n, Random(seed), nat=0.3)
        few = 13 if n > ring_order.DENSE_MAX else n  # what beacons tell of one host
        pairs = [(i, (i + k) % n) for i in range(n) for k in range(1, few)]
        known = {(i, j): Estimate(rates[i][j], rtts[i][j], 0.0, "P") for i, j in pairs if rates[i][j]}
        began = time.perf_counter()
        chart(dialable, known, SIZE)
        yield time.perf_counter() - began


def of_ring(n: int, draws: int, size: int) -> Iterator[float]:
    """The planned schedule's predicted time over the ring's."""
    for seed in range(draws):
        rates, rtts, dialable = world(n, Random(seed))
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        known = {(i, j): Estimate(rates[i][j], rtts[i][j], 0.0, "P") for i, j in pairs}
        ring, free = chart(dialable, known, size, "ring").seconds, chart(dialable, known, size).seconds
        assert ring and free
        yield free / ring


def rows(draws: int) -> Iterator[Row]:
    for n in (6, 9, 12):
        yield from both(f"heuristic_vs_exact_{n}", list(beside_exact(n, draws)), min, "of the widest")
    for n in (16, 32, 64, 128):
        yield from both(f"ring_vs_bound_{n}", list(beside_bound(n, max(2, draws // (n // 8)))), min, "of the bound")
    for n in (12, 16, 32, 64, 128):
        yield from both(f"ring_vs_cover_{n}", list(beside_cover(n, max(2, draws // (n // 8)))), min, "of the bound")
    for n in (4, 8, 12):
        yield from both(f"random_order_vs_planned_{n}", list(beside_random(n, draws)), max, "times as long")
    for n, size in ((8, 10**9), (8, 10**6), (16, 10**9), (64, 10**8)):
        times = list(of_ring(n, max(2, draws // n), size))
        yield from both(f"auto_vs_ring_{n}_{size}", times, max, "of the ring's time")
    for n in (4, 8, 12, 16, 64, 128, 1024):
        yield from both(f"planning_{n}", list(planning_s(n, max(2, min(draws, 400 // n)))), max, "s", PLAN_LIMIT_S)


def both(name: str, values: list[float], worst: Any, unit: str, limit: float = 1.0) -> Iterator[Row]:
    for kind, value in (("worst", worst(values)), ("mean", statistics.mean(values))):
        yield {"name": f"{name}_{kind}", "value": value, "unit": unit, "against": limit, "ratio": value / limit}


def main() -> None:
    parser = argparse.ArgumentParser(description="Planned rings beside the best ones, and what planning takes.")
    parser.add_argument("--quick", action="store_true", help="fewer draws")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = list(rows(8 if options.quick else 100))
    if options.json:
        print(json.dumps({"schema": 1, "results": results}))
        return
    for result in results:
        print(f"{result['name']:<40} {result['value']:>9.4f} {result['unit']}")


if __name__ == "__main__":
    main()
