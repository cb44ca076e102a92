"""A slice of many seeds, played block by block into a ledger: cut off, it goes on where the ledger ends.

Owns what is recorded of a block, and that one finding does not end a slice. Refuses to know the ledger's form.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from tests.sim import explore
from tests.sim.explore import Found, Plan
from tests.sim.ledger import BLOCK_SEEDS, Ledger, Tally
from tests.sim.play import Outcome


def record(
    plan: Plan, played: Iterable[tuple[int, Outcome]], shrink_s: float, say: Callable[[str], None]
) -> tuple[int, Tally]:
    """(the last seed, what these came to), whatever breaks in them."""
    tally, began, seed = Tally(), time.monotonic(), plan.first_seed
    for seed, outcome in played:
        tally.add(outcome)
        if outcome.problem:
            scenario = plan.scenario(seed)
            found = Found(seed, outcome.problem, scenario, explore.replay(scenario, plan.mutant))
            say(f"seed {seed} broke: {outcome.problem}\n{explore.again(plan, seed)}")
            tally.found.append(explore.said(explore.cut_down(found, plan.mutant, shrink_s) if shrink_s else found))
    tally.seconds = time.monotonic() - began
    return seed, tally


def run(plan: Plan, jobs: int, as_json: bool, shrink_s: float, path: Path, revision: str | None) -> int:
    """The command: 1 when something broke in the slice, now or in a part of it that was played before; else 0."""
    say = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    ledger = Ledger(path, plan.arguments(revision))
    ends = plan.first_seed + plan.seeds
    seed, total = ledger.played(plan.first_seed, plan.seeds)
    say(f"seeds {plan.first_seed} to {ends - 1}, {jobs} processes; {total.seeds} are in {path} already")
    outcomes = explore.outcomes(replace(plan, first_seed=seed, seeds=ends - seed), jobs)
    while seed < ends:
        last, tally = record(plan, islice(outcomes, min(BLOCK_SEEDS, ends - seed)), shrink_s, say)
        ledger.append(seed, last, tally)
        seed, (_, total) = last + 1, ledger.played(plan.first_seed, plan.seeds)
        say(f"  {total.seeds} of {plan.seeds} seeds, {tally.seeds_per_minute:.1f} a minute, {len(total.found)} broke")
    if as_json:
        print(json.dumps(explore.report(plan, total)))
    say(explore.line(total))
    return 1 if total.found else 0
