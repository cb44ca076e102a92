"""How a run grows: hosts by the hundred, trained for a virtual hour while one of them fails each minute.

Owns the scenario, which is the manifest's default timers over a wide-area network, and the figures. Refuses to judge
them.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from random import Random
from typing import Any

from tests.sim.config import default_config
from tests.sim.host import Host
from tests.sim.play import seldom_collecting
from tests.sim.scenario import Weather, name_of
from tests.sim.world import World

ROUND_S, RING_S = 120.0, 20.0  # an inner phase of two minutes; a ring of 20 s, as 1 GB of int8 takes at 0.5 Gbit/s
WEATHER = Weather(loss=0.01, latency_s=0.1, jitter=0.5, reorder=0.01, ring_s=RING_S)
FAILURE_S = 60.0  # one somewhere, so often
BACK_S = (30.0, 120.0)  # and so long it is away
OPENING_S_MAX = 600.0
SAMPLE_S = 0.1  # how exactly the moment of a decision is known
NAMES = {
    "nodes": "hosts",
    "rounds": "committed in the hour",
    "round_s": "median, s",
    "missed": "of the rounds a host was named for",
    "messages_round": "sent, a host and round",
    "messages_s": "sent, a host and second",
    "busiest_s": "sent a second by the busiest host",
    "kib_round": "KiB sent, a host and round",
    "death_commit_s": "from a death to the next commit, median, s",
    "behind_s": "from a commit until 99 % have the record, median, s",
    "events": "handled by nodes",
    "real_s": "of one core",
}


@dataclass
class Growth:
    """One row of the table."""

    nodes: int
    rounds: int
    round_s: float
    missed: float
    messages_round: float
    messages_s: float
    busiest_s: float
    kib_round: float
    death_commit_s: float
    behind_s: float
    events: int
    real_s: float


class Churn:
    """A host fails each minute: its process is killed, its machine too every other time, and it comes back."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._rng = world, Random(f"churn {seed}")
        self.deaths: list[float] = []

    def begin(self) -> None:
        self._world.at(FAILURE_S * self._rng.random(), self._fail)

    def _fail(self) -> None:
        world = self._world
        up = [host for host in world.hosts.values() if host.node is not None]
        if up:
            host = self._rng.choice(up)
            if self._rng.random() < 0.5:
                world.training.die(host)
            world.die(host, self._rng.uniform(*BACK_S), "of churn")
            self.deaths.append(world.now)
        world.at(FAILURE_S, self._fail)


class Clock:
    """When each record was decided, and when nearly everybody had it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.decided: list[float] = []
        self.reached: dict[int, float] = {}

    def look(self) -> None:
        world = self._world
        self.decided.extend([world.now] * (len(world.truth.entries) - len(self.decided)))
        newest = len(self.decided) - 1
        if newest >= 0 and newest not in self.reached:
            up = [host.node.head.round for host in world.hosts.values() if host.node is not None]
            if sum(round_ >= newest for round_ in up) >= 0.99 * len(up):
                self.reached[newest] = world.now
        world.at(SAMPLE_S, self.look)


def grow(nodes: int, minutes: float = 60.0, seed: int = 1, faults: bool = True) -> Growth:
    """Play it, from the first committed round on. Raises Violation if an invariant breaks, AssertionError if the run
    does not open."""
    began = time.process_time()
    world = World(seed, default_config(start_peers=max(1, nodes // 2)))
    world.net.weather, world.training.round_s = WEATHER, ROUND_S
    hosts = [world.add(name_of(number), [name_of(0)] if number else []) for number in range(nodes)]
    for host in hosts:
        host.speed = 1.0  # steps take 5 % more or less: who misses a round missed it by a failure, not by being slow
    clock, churn = Clock(world), Churn(world, seed)
    with seldom_collecting():
        clock.look()
        assert world.run(OPENING_S_MAX + ROUND_S, lambda: len(clock.decided) > 1), "the run did not open"
        messages, sent, from_s = world.net.messages, world.net.bytes, world.now
        before = dict(world.net.sent_by)
        if faults:
            churn.begin()
        world.run(minutes * 60.0)
    return _figures(world, hosts, clock, churn, (messages, sent, from_s, before), time.process_time() - began)


def _figures(world: World, hosts: list[Host], clock: Clock, churn: Churn, then: Any, real_s: float) -> Growth:
    messages, sent, from_s, before = then
    decided = [at for at in clock.decided if at >= from_s]
    seconds, turns = world.now - from_s, max(1, len(decided) - 1) * len(hosts)
    messages, sent = world.net.messages - messages, world.net.bytes - sent
    by = [count - before.get(name, 0) for name, count in world.net.sent_by.items()]
    named, missed = missed_places(world)
    nexts = [min((at for at in decided if at > death), default=None) for death in churn.deaths]
    waits = [at - death for at, death in zip(nexts, churn.deaths, strict=True) if at is not None]
    behind = [at - clock.decided[round_] for round_, at in clock.reached.items() if clock.decided[round_] >= from_s]
    return Growth(
        nodes=len(hosts),
        rounds=len(decided) - 1,
        round_s=_median([after - at for at, after in pairwise(decided)]),
        missed=round(missed / max(1, named), 4),
        messages_round=round(messages / turns, 1),
        messages_s=round(messages / seconds / len(hosts), 2),
        busiest_s=round(max(by) / seconds, 1),
        kib_round=round(sent / turns / 1024, 1),
        death_commit_s=_median(waits),
        behind_s=_median(behind),
        events=world.handled,
        real_s=round(real_s, 1),
    )


def missed_places(world: World) -> tuple[int, int]:
    """Of the places that records gave for the round after them: (how many, how many without a contribution)."""
    entries = [entry for _, entry in sorted(world.truth.entries.items())]
    named = missed = 0
    for before, after in pairwise(entries):
        there = dict.fromkeys(c.peer for c in after.blob.contributions)
        named += len(before.blob.assignments)
        missed += sum(a.peer not in there for a in before.blob.assignments)
    return named, missed


def table(rows: list[Growth]) -> list[str]:
    """Lines of Markdown: one a figure, one column a size."""
    lines = ["| |" + "".join(f" {row.nodes} |" for row in rows), "|---|" + "---|" * len(rows)]
    for name, unit in list(NAMES.items())[1:]:
        values = "".join(f" {asdict(row)[name]} |" for row in rows)
        lines.append(f"| {name.removesuffix('_round').removesuffix('_s')}: {unit} |{values}")
    return lines


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2) if values else 0.0
