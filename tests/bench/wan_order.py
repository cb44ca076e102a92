"""Hosts far apart with unequal links: the planned ring against other orders, and against the bound.

Owns the orders that are tried and the bound: no ring can do without the slowest link of the best order, so all that a
member must send, at that link's rate, is the least time. The planner is the production code's, told every link as the
topology has it; of few hosts all orders are listed too, which gives the worst, and the bound for certain.
"""

import itertools
import random
import statistics
from typing import Any

from intellectd.kernels.codec import codec_by_name
from intellectd.protocol.collectives import AUTO, RING
from intellectd.protocol.links import Estimate
from intellectd.protocol.planner import Course, chart
from tests.bench import collective_peer
from tests.bench.members import Shape, slowest
from tests.bench.wan_scaling import CODEC, elements_for, formula_bytes, swarm_on
from tests.wan.network import why_not
from tests.wan.topology import Topology, load

Row = dict[str, Any]
Order = tuple[str, ...]
SECONDS, SECONDS_QUICK = 4.0, 0.5  # what the bound takes
RANDOM, RANDOM_QUICK = 6, 2
ROUNDS, ROUNDS_QUICK = 3, 1
ALL_HOSTS_MAX = 9  # 40,320 orders
FOURTEEN_SCALE = 0.05  # of intellect1's rates: then all together are below 2 Gbit/s


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
    """All rings, from the best to the worst; none of many hosts."""
    first, *others = topology.names
    if len(topology.names) > ALL_HOSTS_MAX:
        return []
    found = [(first, *rest) for rest in itertools.permutations(others)]
    return sorted(found, key=lambda order: cost(topology, order))


def bound_mbit(topology: Topology) -> float:
    """Of the slowest link that any ring needs. Of many hosts: each needs one link out and one in."""
    names, found = topology.names, orders(topology)
    if found:
        return 1 / cost(topology, found[0])[0]
    others = {a: [b for b in names if b != a] for a in names}
    out = [max(link_mbit(topology, a, b) for b in others[a]) for a in names]
    return min(*out, *(max(link_mbit(topology, b, a) for b in others[a]) for a in names))


def planned(topology: Topology, elements: int, manifest: str) -> tuple[Order, Course]:
    names = topology.names
    known = {}
    for (i, a), (j, b) in itertools.permutations(enumerate(names), 2):
        rtt_s = (topology.path(a, b).delay_ms + topology.path(b, a).delay_ms) / 1e3
        known[i, j] = Estimate(link_mbit(topology, a, b) * 125e3, rtt_s, 0.0, a)
    course = chart([True] * len(names), known, codec_by_name(CODEC).encoded_bytes(elements), manifest)
    return tuple(names[place] for place in course.order), course


def measure(name: str, topology: Topology, quick: bool) -> tuple[list[Row], list[str]]:
    bound = bound_mbit(topology)
    elements = elements_for(SECONDS_QUICK if quick else SECONDS, len(topology.names), bound)
    bound_s = formula_bytes(elements, len(topology.names)) * 8e-6 / bound
    plan, ring = planned(topology, elements, RING)
    auto_order, auto = planned(topology, elements, AUTO)
    found, lots = orders(topology), random.Random(1)
    drawn = [tuple(lots.sample(topology.names, len(topology.names))) for _ in range(RANDOM_QUICK if quick else RANDOM)]
    tried = {"planned": (plan, ring)} | {f"random {i}": (order, ring) for i, order in enumerate(drawn)}
    tried |= {"worst": (found[-1], ring)} if found else {}
    notes = [f"{name}: planned {' '.join(plan)}; {codec_by_name(CODEC).encoded_bytes(elements) / 1e6:.0f} MB encoded"]
    if auto.schedule in collective_peer.SCHEDULES:
        tried["auto"] = auto_order, auto
    times: dict[str, list[float]] = {key: [] for key in tried}
    with swarm_on(topology, Shape((CODEC,), elements)) as (wan, swarm):
        for number in range(1 + (ROUNDS_QUICK if quick else ROUNDS)):
            for key, (order, course) in tried.items():
                seconds = slowest(swarm.run(f"{key} {number}", order, course.schedule, shape=course.shape))
                if number:  # in the first round connections are made
                    times[key].append(seconds)
        doubt = wan.counts().distrust()
    if doubt:
        notes.append(f"{name}: {doubt}")
    medians = {key: statistics.median(seen) for key, seen in times.items()}
    best = medians["planned"]
    average = statistics.fmean(medians[f"random {i}"] for i in range(len(drawn)))
    made = [row(f"{name}_planned_vs_bound", best, bound_s, f"the slowest necessary link: {bound_s:.2f} s")]
    made.append(row(f"{name}_random_vs_planned", average, best, f"planned; mean of {len(drawn)} orders"))
    if "worst" in medians:
        made.append(row(f"{name}_worst_vs_planned", medians["worst"], best, "planned"))
    if "auto" in medians:
        predicted = auto.seconds or 0.0
        made.append(row(f"{name}_auto_vs_predicted", medians["auto"], predicted, f"{auto.schedule}: {predicted:.2f} s"))
    else:
        notes.append(f"{name}_auto_vs_predicted: no figure, this engine has no schedule {auto.schedule}")
    return made, notes


def row(name: str, value: float, against_s: float, against: str) -> Row:
    return {"name": name, "value": round(value, 3), "unit": "s", "against": against} | {
        "ratio": round(value / against_s, 3)
    }


def rows(name: str, quick: bool) -> tuple[list[Row], list[str]]:
    refused = why_not()
    if refused:
        return [], [f"{name}: no figures, no WAN here: {refused}"]
    return measure(name.replace("-", "_"), load(name).scaled(FOURTEEN_SCALE if name == "intellect1" else 1.0), quick)
