"""Random schedules until an invariant breaks; then the line that replays it, cut down, and its trace.

Owns the range of seeds, the worker processes and what is printed. A seed is the same world in every process and
on every machine. Refuses to know the protocol.
"""

import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.sim.drawing import STORMS, draw
from tests.sim.mutants import MUTANTS, in_force
from tests.sim.play import Outcome, play
from tests.sim.scenario import Scenario
from tests.sim.shrink import shrink

STORMS_EVERY = (
    4  # of so many seeds one is in a storm: nobody asks whether it can go on, only for one history; one forks
)
TRACE_LINES_MAX = 200


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


@dataclass
class Found:
    seed: int
    problem: str
    scenario: Scenario
    replay: str = ""


@dataclass
class Tally:
    seeds: int = 0
    commits: int = 0
    events: int = 0
    virtual_minutes: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.commits += outcome.commits
        self.events += outcome.events
        self.virtual_minutes += outcome.at_s / 60
        self.faults.update(outcome.faults)


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
    """In the order of the seeds, however many processes work at them."""
    seeds = range(plan.first_seed, plan.first_seed + plan.seeds)
    if min(jobs, plan.seeds) <= 1:
        yield from ((seed, _one(plan, seed)) for seed in seeds)
        return
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from zip(seeds, pool.imap(partial(_one, plan), seeds), strict=True)


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
    replay = f"python -m tests.sim replay {f'--mutant {mutant} ' if mutant else ''}'{small.on_one_line()}'"
    return Found(found.seed, problem, small, replay)


def show(found: Found, mutant: str | None) -> Iterator[str]:
    """The trace, for people."""
    outcome = with_mutant(mutant, found.scenario, trace=True)
    small = found.scenario
    yield f"{small.nodes} hosts, {small.minutes * 60:.0f} s, {len(small.faults)} faults"
    if len(outcome.log) > TRACE_LINES_MAX:
        yield f"... {len(outcome.log) - TRACE_LINES_MAX} lines before"
    yield from outcome.log[-TRACE_LINES_MAX:]
    yield f"{outcome.at_s:9.3f} BROKEN {outcome.problem}"


def report(plan: Plan, tally: Tally, found: Found | None, seconds: float) -> dict[str, Any]:
    """The object that `--json` prints."""
    broken = [{"seed": found.seed, "problem": found.problem, "replay": found.replay}] if found else []
    return {
        "schema": 1,
        "first_seed": plan.first_seed,
        "seeds": tally.seeds,
        "commits": tally.commits,
        "virtual_minutes": round(tally.virtual_minutes, 1),
        "faults": dict(sorted(tally.faults.items())),
        "violations": len(broken),
        "found": broken,
        "events": tally.events,
        "seeds_per_minute": round(60 * tally.seeds / max(seconds, 1e-9), 1),
    }


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
    seconds = time.monotonic() - began
    if found is not None:
        say(f"seed {found.seed} broke: {found.problem}\n{again(plan, found.seed)}\ncutting it down ...")
        found = cut_down(found, plan.mutant, shrink_s)
        for line in show(found, plan.mutant):
            say(line)
        say(found.replay)
    said = report(plan, tally, found, seconds)
    if as_json:
        print(json.dumps(said))
    say(
        f"{tally.seeds} seeds, {tally.virtual_minutes:.0f} virtual minutes, {tally.commits} commits, "
        f"{sum(tally.faults.values())} faults, {said['violations']} violations, "
        f"{said['seeds_per_minute']} seeds a minute, {tally.events / max(seconds, 1e-9):.0f} events a second"
    )
    return 1 if found else 0


def again(plan: Plan, seed: int) -> str:
    """The line that plays this seed as it was."""
    low, high = plan.nodes
    line = f"python -m tests.sim explore --first-seed {seed} --seeds 1 --minutes {plan.minutes:g}"
    line += f" --nodes {low if low == high else f'{low}-{high}'}"
    line += f" --weather {plan.weather}" if plan.weather else ""
    return line + (f" --mutant {plan.mutant}" if plan.mutant else "")
