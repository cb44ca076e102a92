"""Three continents with unequal links: the planned ring against other orders, and against the bound.

Owns the orders that are tried and the bound: no ring can do without the slowest link of the best order, so all that a
member must send, at that link's rate, is the least time. Orders are found here by trying all, a stand-in until a
planner of the production code is asked; `planned` is the least by (slowest link, sum of delays).
"""

import itertools
import random
import statistics
from typing import Any

from intellectd.kernels.codec import codec_by_name
from tests.bench.members import Shape, slowest
from tests.bench.wan_scaling import CODEC, formula_bytes, swarm_on
from tests.wan.network import why_not
from tests.wan.topology import Topology, load

Row = dict[str, Any]
Order = tuple[str, ...]
ELEMENTS, ELEMENTS_QUICK = 2**26, 2**23
RANDOM, RANDOM_QUICK = 8, 2
ROUNDS, ROUNDS_QUICK = 3, 1
HOSTS_MAX = 9  # 40,320 orders


def link_mbit(topology: Topology, start: str, end: str) -> float:
    hosts = {host.name: host for host in topology.hosts}
    rates = (hosts[start].up_mbit, topology.path(start, end).mbit, hosts[end].down_mbit)
    return min(rate for rate in rates if rate)


def cost(topology: Topology, order: Order) -> tuple[float, float]:
    """(seconds a megabit on its slowest link, milliseconds once around)."""
    links = list(zip(order, order[1:] + order[:1], strict=True))
    slowest_mbit = min(link_mbit(topology, *link) for link in links)
    return 1 / slowest_mbit, sum(topology.path(*link).delay_ms for link in links)


def orders(topology: Topology) -> list[Order]:
    """All rings, from the best to the worst."""
    first, *others = topology.names
    if len(topology.names) > HOSTS_MAX:
        raise ValueError(f"{len(topology.names)} hosts have too many orders to try all")
    found = [(first, *rest) for rest in itertools.permutations(others)]
    return sorted(found, key=lambda order: cost(topology, order))


def rows(quick: bool) -> tuple[list[Row], list[str]]:
    refused = why_not()
    if refused:
        return [], [f"three_continents: no figures, no WAN here: {refused}"]
    topology = load("three-continents")
    elements = ELEMENTS_QUICK if quick else ELEMENTS
    by_cost = orders(topology)
    drawn = random.Random(1).sample(by_cost, RANDOM_QUICK if quick else RANDOM)
    times: dict[Order, list[float]] = {order: [] for order in (by_cost[0], by_cost[-1], *drawn)}
    with swarm_on(topology, Shape((CODEC,), elements)) as (wan, swarm):
        for number in range(1 + (ROUNDS_QUICK if quick else ROUNDS)):
            for order, seen in times.items():
                seconds = slowest(swarm.run(f"{number} {order}", order))
                if number:  # in the first round connections are made
                    seen.append(seconds)
        doubt = wan.counts().distrust()
    bound_s = formula_bytes(elements, len(topology.names)) * 8e-6 * cost(topology, by_cost[0])[0]
    medians = {order: statistics.median(seen) for order, seen in times.items()}
    planned, worst = medians[by_cost[0]], medians[by_cost[-1]]
    average = statistics.fmean(medians[order] for order in drawn)
    made = [
        row("planned_vs_bound", planned, f"the slowest necessary link: {bound_s:.2f} s", planned / bound_s),
        row("worst_vs_planned", worst, f"planned {planned:.2f} s", worst / planned),
        row("random_vs_planned", average, f"planned; mean of {len(drawn)} orders", average / planned),
    ]
    size = codec_by_name(CODEC).encoded_bytes(elements)
    notes = [f"three_continents: planned {' '.join(by_cost[0])}; {size / 1e6:.0f} MB encoded"]
    return made, notes + ([f"three_continents: {doubt}"] if doubt else [])


def row(name: str, value: float, against: str, ratio: float) -> Row:
    value, ratio = round(value, 3), round(ratio, 3)
    return {"name": f"three_continents_{name}", "value": value, "unit": "s", "against": against, "ratio": ratio}
