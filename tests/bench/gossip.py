"""Gossip rounds against exact ones, from 16 to 256 hosts: `python tests/bench/gossip.py [--quick] [--json]`.

The production machines in the simulator, where a transfer takes what the planner's model of time says for its members'
lines (0.5 to 4 Gbit/s, drawn once a swarm), 1 GB encoded, 100 ms round trips. Two things of each swarm, once with exact
rounds alone and once with gossip: how long a round is from the work's end to the record, in virtual time, beside the
formula of the bytes; and, by passing vectors through the very groups that the records list, how far the anchors part
when each round adds to every host's parameters what the others do not have. Nothing is asserted here.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from intellectd.protocol.costs import Network, ring_s
from intellectd.protocol.entries import Entry, groups_of
from intellectd.protocol.links import Estimate
from intellectd.protocol.manifest import RunConfig, config_from_toml
from tests.sim.play import seldom_collecting
from tests.sim.rings import Ring, Rings
from tests.sim.scenario import Weather, name_of
from tests.sim.world import World

LINES = (62.5e6, 125e6, 250e6, 500e6)  # bytes a second, INTELLECT-1's
RTT_S, SIZE = 0.1, 10**9
ROUND_S = 120.0
EVERY, GROUP = 4, 4  # the manifest's defaults
PEERS, PEERS_QUICK = (16, 64, 256), (16, 64)
ROUNDS, ROUNDS_QUICK = 12, 4
ELEMENTS = 2000
Row = dict[str, Any]


class Timed(Rings):
    """A ring takes what the model says of it: not one time for whatever size."""

    def __init__(self, world: World, lines: dict[str, float]) -> None:
        super().__init__(world)
        self._lines = lines

    def _needs(self, ring: Ring) -> float:
        return modelled_s([self._lines[member] for member in ring.members])


def modelled_s(lines: list[float]) -> float:
    """Of a ring in this order, each link as wide as the narrower of its ends' lines."""
    n = len(lines)
    pairs = {(i, (i + 1) % n) for i in range(n)} if n > 1 else set()
    known = {(i, j): Estimate(min(lines[i], lines[j]), RTT_S, 0.0, "P") for i, j in sorted(pairs)}
    return ring_s(Network([True] * n, known, SIZE), list(range(n)))


def config(gossip: bool, peers: int) -> RunConfig:
    outer = {"schedule": "gossip", "gossip": {"exact_every": EVERY, "group_size": GROUP}} if gossip else {}
    swarm = {"start_peers": peers}
    return config_from_toml(
        {"name": "bench", "swarm": swarm, "inner": {"steps": 10}, "outer": outer or {"schedule": "ring"}}
    )


def played(gossip: bool, peers: int, rounds: int) -> tuple[list[Entry], dict[str, list[float]]]:
    """The records, and by kind of round the seconds from when the slowest was ready to the decision."""
    world = World(1, config(gossip, peers))
    world.net.weather, world.training.round_s = Weather(loss=0.0, latency_s=RTT_S / 2), ROUND_S
    rng = Random(peers)
    lines = {name_of(n): rng.choice(LINES) * rng.uniform(0.7, 1.1) for n in range(peers)}
    world.rings = Timed(world, lines)
    for n in range(peers):
        world.add(name_of(n), [name_of(0)] if n else []).speed = 1.0
    took: dict[str, list[float]] = {"gossip": [], "exact": []}
    with seldom_collecting():
        assert world.run(3600, lambda: len(world.truth.entries) > 1), "the run did not open"
        for _ in range(rounds):
            known = len(world.truth.entries)
            assert world.run(3600, lambda known=known: len(world.truth.entries) > known), "no round"
            ready_at = max(host.trainer.done_at for host in world.hosts.values() if host.trainer.done_at <= world.now)
            kind = "gossip" if world.truth.entries[known].record.schedule == "gossip" else "exact"
            took[kind].append(world.now - ready_at)
    return [entry for _, entry in sorted(world.truth.entries.items())], took


def spreads(entries: list[Entry]) -> tuple[list[float], list[float]]:
    """(mean square distance of parameters before, of anchors after) each round but the exact ones, of which the latter
    is zero; in units of what a round adds."""
    peers = sorted(a.peer for a in entries[0].blob.assignments)
    places = {peer: place for place, peer in enumerate(peers)}
    x, generator = torch.zeros(len(peers), ELEMENTS, dtype=torch.float64), torch.Generator().manual_seed(1)
    before, after = [], []
    for entry in entries[1:]:
        x += torch.randn(x.shape, generator=generator, dtype=torch.float64) / ELEMENTS**0.5
        groups = [members for _, members in groups_of(entry.record, entry.blob)]
        here = _variance(x)
        for members in groups or [[c.peer for c in entry.blob.contributions]]:
            mine = [places[peer] for peer in members if peer in places]
            x[mine] = x[mine].mean(dim=0)
        if groups:
            before.append(here)
            after.append(_variance(x))
    return before, after


def _variance(x: torch.Tensor) -> float:
    return float((x - x.mean(dim=0)).square().sum(dim=1).mean())


def in_theory(peers: int) -> list[float]:
    """After each of the rounds between two exact ones."""
    factor, value, found = (peers - GROUP) / (GROUP * (peers - 1)), 0.0, []
    for _ in range(EVERY - 1):
        value = (value + (peers - 1) / peers) * factor
        found.append(value)
    return found


def rows(quick: bool) -> Iterator[Row]:
    for peers in PEERS_QUICK if quick else PEERS:
        rounds = ROUNDS_QUICK if quick else ROUNDS
        _, ring = played(False, peers, rounds)
        entries, took = played(True, peers, rounds)
        exact_s, group_s = 2 * (peers - 1) / peers * SIZE / min(LINES), 2 * (GROUP - 1) / GROUP * SIZE / min(LINES)
        yield row(f"exact_round_{peers}", statistics.median(ring["exact"]), "s", exact_s)
        yield row(f"gossip_round_{peers}", statistics.median(took["gossip"]), "s", group_s)
        mean = statistics.mean([*took["gossip"], *took["exact"]])
        yield row(f"gossip_mean_of_rounds_{peers}", mean, "s, exact ones among them", statistics.mean(ring["exact"]))
        left = [1 - len(e.blob.contributions) / peers for e in entries[1:] if e.record.schedule == "gossip"]
        yield row(f"gossip_left_out_{peers}", statistics.mean(left), "of the hosts, a round in groups", 1.0)
        before, after = spreads(entries)
        theory = in_theory(peers)
        for place, expected in enumerate(theory):
            found = statistics.mean(after[place :: EVERY - 1])
            yield row(f"spread_after_{place + 1}_{peers}", found, "of what a round adds, squared", expected)
        yield row(
            f"contraction_{peers}",
            statistics.mean(a / b for a, b in zip(after, before, strict=True)),
            "of the mean square distance",
            (peers - GROUP) / (GROUP * (peers - 1)),
        )


def row(name: str, value: float, unit: str, against: float) -> Row:
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "against": against,
        "ratio": value / against if against else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Gossip rounds against exact ones.")
    parser.add_argument("--quick", action="store_true", help="up to 64 hosts, fewer rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = []
    for result in rows(options.quick):
        results.append(result)
        if not options.json:
            print(
                f"{result['name']:<32} {result['value']:>9.4f} {result['unit']:<34} against {result['against']:.4f}",
                flush=True,
            )
    if options.json:
        print(json.dumps({"schema": 1, "results": results}))


if __name__ == "__main__":
    main()
