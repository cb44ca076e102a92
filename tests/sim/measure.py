"""What a run costs: round time, messages and bytes a peer and round, rounds missed, in calm and in fair weather.

Owns the yardstick, which is the same for every revision of the machines. Refuses to judge.
"""

import statistics
from itertools import pairwise
from typing import Any

from tests.sim.drawing import draw
from tests.sim.faults import Faults
from tests.sim.play import make
from tests.sim.scale import missed_places
from tests.sim.scenario import Scenario, Weather

SAMPLE_S = 0.1  # how exactly the moment of a decision is known
MEASURES = {
    "round_s": "s",
    "round_s_p90": "s",
    "messages": "a peer and round",
    "bytes": "a peer and round",
    "missed": "of the rounds a peer was named for",
    "commits": "",
}


def measure(nodes: int, minutes: float, seeds: int) -> dict[str, dict[str, float]]:
    """By case; a case's worlds are put together."""
    calm = [Scenario(s, nodes, minutes, start_peers=nodes, weather=Weather(loss=0.01)) for s in range(seeds)]
    fair = [draw(seed, (nodes, nodes), minutes) for seed in range(seeds)]
    return {"calm": _case(calm), "faults": _case(fair)}


def _case(scenarios: list[Scenario]) -> dict[str, float]:
    times: list[float] = []
    total = {"commits": 0, "messages": 0, "bytes": 0, "turns": 0, "named": 0, "missed": 0}
    for scenario in scenarios:
        for name, value in _world(scenario, times).items():
            total[name] += value
    return {
        "round_s": round(statistics.median(times or [0.0]), 2),
        "round_s_p90": round(sorted(times or [0.0])[int(0.9 * len(times))], 2),
        "messages": round(total["messages"] / max(1, total["turns"]), 1),
        "bytes": round(total["bytes"] / max(1, total["turns"])),
        "missed": round(total["missed"] / max(1, total["named"]), 4),
        "commits": total["commits"],
    }


def _world(scenario: Scenario, times: list[float]) -> dict[str, int]:
    world = make(scenario)
    Faults(world, scenario).schedule()
    decided: list[float] = []

    def look() -> None:
        decided.extend([world.now] * (len(world.truth.entries) - len(decided)))
        world.at(SAMPLE_S, look)

    world.at(SAMPLE_S, look)
    world.run(scenario.seconds)
    times += [after - before for before, after in pairwise(decided)]
    named, missed = missed_places(world)
    turns = len(decided) * len(world.hosts)
    sent = {"messages": world.net.messages, "bytes": world.net.bytes}
    return {"commits": len(decided), "turns": turns, "named": named, "missed": missed, **sent}


def table(columns: dict[str, dict[str, Any]]) -> list[str]:
    """Lines: one a measure and case, one column a revision."""
    names = list(columns)
    lines = [f"{'':28}" + "".join(f"{name:>16}" for name in names)]
    for case in next(iter(columns.values())):
        for measure_, unit in MEASURES.items():
            values = "".join(f"{columns[name][case][measure_]:>16}" for name in names)
            lines.append(f"{f'{case}: {measure_}':28}{values}  {unit}")
    return lines
