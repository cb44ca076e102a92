"""Random schedules until an invariant breaks; then the line that replays it, cut down, and its trace.

Owns the range of seeds, the worker processes and what is printed. A seed is the same world in every process and
on every machine. Refuses to know the protocol.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

from tests.sim.drawing import STORMS, draw
from tests.sim.ledger import Tally
from tests.sim.mutants import MUTANTS, in_force
from tests.sim.play import Outcome, play
from tests.sim.scenario import Scenario
from tests.sim.shrink import shrink

# Of so many seeds one is in a storm: nobody asks whether it can go on, only for one history; one forks.
STORMS_EVERY = 4
TRACE_LINES_MAX = 200
AHEAD = 4  # seeds given to each process beyond the one that is waited for: some take ten times as long as others


@dataclass(frozen=True)
class Plan:
    """What is explored."""

    first_seed: int
    seeds: int
    nodes: tuple[int, int]
    minutes: float
    mutant: str | None = None
    weather: str | None = None  # of every seed; None: by the seed

    def scenario(self, seed: int) -> Scenario:
        return draw(seed, self.nodes, self.minutes, self.weather or weather_of(seed))

    def arguments(self, revision: str | None) -> dict[str, Any]:
        """What a ledger knows of it: all but which seeds."""
        same = {"nodes": list(self.nodes), "minutes": self.minutes, "mutant": self.mutant, "weather": self.weather}
        return {**same, "revision": revision}


@dataclass
class Found:
    seed: int
    problem: str
    scenario: Scenario
    replay: str = ""


def weather_of(seed: int) -> str:
    turn, rest = divmod(seed, STORMS_EVERY)
    if rest == STORMS_EVERY - 2:
        return "fork"
    return STORMS[turn % len(STORMS)] if rest == STORMS_EVERY - 1 else "fair"


def with_mutant(name: str | None, scenario: Scenario, trace: bool = False) -> Outcome:
    with in_force(MUTANTS[name].patches() if name else []):
        return play(scenario, trace)


def _one(plan: Plan, seed: int) -> Outcome:
    return with_mutant(plan.mutant, plan.scenario(seed))


def outcomes(plan: Plan, jobs: int) -> Iterator[tuple[int, Outcome]]:
    """In the order of the seeds, however many processes work at them. Raises BrokenProcessPool when one is killed."""
    seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
    if min(jobs, plan.seeds) <= 1:
        yield from ((seed, _one(plan, seed)) for seed in seeds)
        return
    pool = ProcessPoolExecutor(jobs, get_context("fork"))
    under_way: deque[tuple[int, Future[Outcome]]] = deque()
    try:
        for seed in seeds:
            under_way.append((seed, pool.submit(_one, plan, seed)))
            if len(under_way) > AHEAD * jobs:
                first, future = under_way.popleft()
                yield first, future.result()
        yield from ((seed, future.result()) for seed, future in under_way)
    finally:
        pool.shutdown(cancel_futures=True)


def explore(plan: Plan, jobs: int, tell: Callable[[Tally], None] = lambda tally: None) -> tuple[Tally, Found | None]:
    """Until the first that breaks."""
    tally = Tally()
    for seed, outcome in outcomes(plan, jobs):
        tally.add(outcome)
        if outcome.problem:
            return tally, Found(seed, outcome.problem, plan.scenario(seed))
        tell(tally)
    return tally, None


def cut_down(found: Found, mutant: str | None, seconds: float) -> Found:
    """The smallest scenario found within so much real time that breaks in the same way."""
    small, problem = shrink(found.scenario, found.problem, lambda s: with_mutant(mutant, s), seconds)
    return Found(found.seed, problem, small, replay(small, mutant))


def replay(scenario: Scenario, mutant: str | None) -> str:
    """The line that plays it with its trace."""
    return f"python -m tests.sim replay {f'--mutant {mutant} ' if mutant else ''}'{scenario.on_one_line()}'"


def show(found: Found, mutant: str | None) -> Iterator[str]:
    """The trace, for people."""
    outcome = with_mutant(mutant, found.scenario, trace=True)
    small = found.scenario
    yield f"{small.nodes} hosts, {small.minutes * 60:.0f} s, {len(small.faults)} faults"
    if len(outcome.log) > TRACE_LINES_MAX:
        yield f"... {len(outcome.log) - TRACE_LINES_MAX} lines before"
    yield from outcome.log[-TRACE_LINES_MAX:]
    yield f"{outcome.at_s:9.3f} {f'BROKEN {outcome.problem}' if outcome.problem else 'nothing broke'}"


def report(plan: Plan, tally: Tally) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {"schema": 1, "first_seed": plan.first_seed, **tally.said()}


def line(tally: Tally) -> str:
    """The same for people."""
    return (
        f"{tally.seeds} seeds, {tally.virtual_minutes:.0f} virtual minutes, {tally.commits} commits, "
        f"{sum(tally.faults.values())} faults, {len(tally.found)} violations, "
        f"{tally.seeds_per_minute:.1f} seeds a minute, {tally.events / max(tally.seconds, 1e-9):.0f} events a second"
    )


def run(plan: Plan, jobs: int, as_json: bool, shrink_s: float) -> int:
    """The command: 0 when nothing broke, 1 when something did."""
    say = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    say(f"seeds {plan.first_seed} to {plan.first_seed + plan.seeds - 1}, {jobs} processes")
    began, told = time.monotonic(), time.monotonic()

    def tell(tally: Tally) -> None:
        nonlocal told
        if time.monotonic() - told > 30:
            told = time.monotonic()
            say(f"  {tally.seeds} seeds, {60 * tally.seeds / (told - began):.1f} a minute")

    tally, found = explore(plan, jobs, tell)
    tally.seconds = time.monotonic() - began
    if found is not None:
        say(f"seed {found.seed} broke: {found.problem}\n{again(plan, found.seed)}\ncutting it down ...")
        found = cut_down(found, plan.mutant, shrink_s)
        for text in show(found, plan.mutant):
            say(text)
        say(found.replay)
        tally.found = [said(found)]
    if as_json:
        print(json.dumps(report(plan, tally)))
    say(line(tally))
    return 1 if found else 0


def said(found: Found) -> dict[str, Any]:
    return {"seed": found.seed, "problem": found.problem, "replay": found.replay}


def again(plan: Plan, seed: int) -> str:
    """The line that plays this seed as it was."""
    low, high = plan.nodes
    line = f"python -m tests.sim explore --first-seed {seed} --seeds 1 --minutes {plan.minutes:g}"
    line += f" --nodes {low if low == high else f'{low}-{high}'}"
    line += f" --weather {plan.weather}" if plan.weather else ""
    return line + (f" --mutant {plan.mutant}" if plan.mutant else "")
