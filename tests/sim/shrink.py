"""A scenario that breaks, made smaller as long as it breaks in the same way.

Owns the order of attempts: less time, fewer faults, fewer hosts, better weather. Refuses to know why it breaks.
"""

import re
import time
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from tests.sim.play import Outcome
from tests.sim.scenario import CALM_S, Scenario, Weather, name_of

DRAWS = 3  # other draws of the network, tried for each candidate: what was left out has moved all later ones
MARGIN_S = 5.0


def shape(problem: str) -> str:
    """What is left of a problem when names, numbers and lists are taken away."""
    return re.sub(r"\[.*?\]|\(.*\)|\bP[1-9A-Z]{1,2}\b|[-\d.]+|leader='\w+'", "_", problem)


def shrink(
    scenario: Scenario, problem: str, run: Callable[[Scenario], Outcome], seconds: float
) -> tuple[Scenario, str]:
    """(the smallest found within so much real time, what breaks in it)."""
    return _Shrinking(scenario, problem, run, time.monotonic() + seconds).go()


class _Shrinking:
    def __init__(self, scenario: Scenario, problem: str, run: Callable[[Scenario], Outcome], until: float) -> None:
        self._best, self._problem, self._run, self._until = scenario, problem, run, until
        self._shape = shape(problem)

    def go(self) -> tuple[Scenario, str]:
        self._try(self._best)  # when does it break?
        smaller = True
        while smaller:
            smaller = self._fewer_faults()
            smaller = self._first_that_breaks(self._fewer_hosts()) or smaller
            smaller = self._first_that_breaks(self._better_weather()) or smaller
        return self._best, self._problem

    def _try(self, candidate: Scenario) -> bool:
        for draw in range(DRAWS):
            if time.monotonic() > self._until:
                return False
            tried = replace(candidate, seed=candidate.seed + draw * 1_000_003)
            outcome = self._run(tried)
            if outcome.problem and shape(outcome.problem) == self._shape:
                self._best, self._problem = tried, outcome.problem
                self._end_early(outcome.at_s)
                return True
        return False

    def _end_early(self, at_s: float) -> None:
        """Nothing that comes after it broke matters, unless it broke for want of healing, or because calm had come."""
        best = self._best
        ended = replace(best, minutes=round((at_s + CALM_S + MARGIN_S) / 60, 2))
        ended = replace(ended, faults=tuple(f for f in best.faults if f.at <= at_s))
        if at_s < best.seconds - CALM_S and ended != best and ended.minutes <= best.minutes:
            outcome = self._run(ended)
            if outcome.problem and shape(outcome.problem) == self._shape:
                self._best, self._problem = ended, outcome.problem

    def _fewer_faults(self) -> bool:
        """Half of them, a quarter, … one by one."""
        before, size = self._best, max(1, len(self._best.faults) // 2)
        while True:
            start = 0
            while start < len(self._best.faults):
                faults = self._best.faults
                if not self._try(replace(self._best, faults=faults[:start] + faults[start + size :])):
                    start += size
            if size == 1:
                return self._best != before
            size //= 2

    def _first_that_breaks(self, candidates: Iterator[Scenario]) -> bool:
        return any(self._try(candidate) for candidate in candidates)

    def _fewer_hosts(self) -> Iterator[Scenario]:
        best = self._best
        if best.nodes > 2:
            last = name_of(best.nodes - 1)
            faults = tuple(f for f in best.faults if f.host != last)
            start = min(best.start_peers, best.nodes - 1)
            yield replace(best, nodes=best.nodes - 1, start_peers=start, faults=faults)

    def _better_weather(self) -> Iterator[Scenario]:
        best = self._best
        for name in ("loss", "duplicates", "reorder", "ring_s", "latency_s", "drift"):
            calm = replace(best.weather, **{name: getattr(Weather(), name)})
            if calm != best.weather:
                yield replace(best, weather=calm)
        if best.speeds:
            yield replace(best, speeds={})
        if best.uplinks:
            yield replace(best, uplinks={})
