"""`python -m tests.sim`: explore random schedules, replay one, compare with another revision."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.sim import compare, explore, scale, slices
from tests.sim.drawing import WEATHERS
from tests.sim.measure import measure, table
from tests.sim.mutants import MUTANTS
from tests.sim.scenario import Scenario, read

SHRINK_S = 120.0


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="The production machines under faults.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    look = commands.add_parser("explore", help="random schedules until an invariant breaks")
    look.set_defaults(run=_explore)
    look.add_argument("--seeds", type=int, default=100, metavar="N")
    look.add_argument("--first-seed", type=int, default=0, metavar="S")
    look.add_argument("--fresh", action="store_true", help="begin at a seed that the clock chooses, and print it")
    look.add_argument("--nodes", type=_range, metavar="7|2-9", help="hosts (2-9; of a mutant: 3-5)")
    look.add_argument("--minutes", type=float, metavar="M", help="virtual ones (20; of a mutant: 2.5)")
    look.add_argument("--weather", choices=WEATHERS, help="the same for every seed (a mutant has its own)")
    look.add_argument("--mutant", choices=sorted(MUTANTS), metavar="NAME", help="with the machines broken so")
    look.add_argument("--list-mutants", action="store_true")
    look.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes")
    look.add_argument("--shrink-s", type=float, metavar="S", help="real time for cutting down (120; into a ledger: 0)")
    look.add_argument("--ledger", type=Path, metavar="FILE", help="play all, record each block, go on where it ends")
    look.add_argument("--revision", metavar="REV", help="said in the ledger; another revision's lines do not count")
    look.add_argument("--json", action="store_true")
    again = commands.add_parser("replay", help="play one scenario with its trace")
    again.set_defaults(run=_replay)
    again.add_argument("scenario", help="as explore printed it, or a file with it")
    again.add_argument("--mutant", choices=sorted(MUTANTS), metavar="NAME")
    cost = commands.add_parser("measure", help="round time, messages a peer and round, missed rounds")
    cost.set_defaults(run=_measure)
    large = commands.add_parser("scale", help="what a virtual hour costs, from ten hosts to a thousand")
    large.set_defaults(run=_scale)
    large.add_argument("--nodes", default="10,30,100,300,1000", metavar="N,N", help="one world each")
    large.add_argument("--minutes", type=float, default=60.0, metavar="M", help="virtual ones")
    large.add_argument("--seed", type=int, default=1)
    large.add_argument("--calm", action="store_true", help="nobody fails")
    large.add_argument("--json", action="store_true")
    other = commands.add_parser("compare", help="the same, beside another revision")
    other.set_defaults(run=_compare)
    other.add_argument("revision", metavar="REV", help="as git names it")
    for parts in (cost, other):
        parts.add_argument("--nodes", type=int, default=7)
        parts.add_argument("--minutes", type=float, default=10.0)
        parts.add_argument("--seeds", type=int, default=3, metavar="N", help="worlds of each kind")
        parts.add_argument("--json", action="store_true")
    return parser


def _scale(options: argparse.Namespace) -> int:
    rows = []
    for nodes in (int(text) for text in options.nodes.split(",")):
        rows.append(scale.grow(nodes, options.minutes, options.seed, not options.calm))
        print(asdict(rows[-1]), file=sys.stderr, flush=True)
    print(
        json.dumps({"schema": 1, "rows": [asdict(r) for r in rows]}) if options.json else "\n".join(scale.table(rows))
    )
    return 0


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    cases = measure(options.nodes, options.minutes, options.seeds)
    return {"schema": 1, "nodes": options.nodes, "minutes": options.minutes, "seeds": options.seeds, "cases": cases}


def _measure(options: argparse.Namespace) -> int:
    said = _measured(options)
    print(json.dumps(said) if options.json else "\n".join(table({"here": said["cases"]})))
    return 0


def _compare(options: argparse.Namespace) -> int:
    arguments = [f"--{name}={getattr(options, name)}" for name in ("nodes", "minutes", "seeds")]
    try:
        there, simulator = compare.measured_at(options.revision, arguments)
    except compare.NotComparable as why:
        print(f"cannot compare with {options.revision}: {why}", file=sys.stderr)
        return 1
    here = _measured(options)
    columns = {options.revision: there["cases"], "here": here["cases"]}
    simulators = {options.revision: simulator, "here": compare.HERE}
    lines = [*table(columns), f"{options.revision} was measured by {simulator}"]
    print(json.dumps({**here, "cases": columns, "simulators": simulators}) if options.json else "\n".join(lines))
    return 0


def _explore(options: argparse.Namespace) -> int:
    if options.list_mutants:
        print("\n".join(f"{name:24} {mutant.says}" for name, mutant in sorted(MUTANTS.items())))
        return 0
    mutant = MUTANTS.get(options.mutant)
    plan = explore.Plan(
        first_seed=int(time.time()) * 1000 if options.fresh else options.first_seed,
        seeds=options.seeds,
        nodes=options.nodes or ((3, 5) if mutant else (2, 9)),
        minutes=options.minutes or (2.5 if mutant else 20.0),
        mutant=options.mutant,
        weather=options.weather or (mutant.weather if mutant else None),
    )
    jobs, shrink_s = max(1, options.jobs), options.shrink_s
    if options.ledger is not None:
        return slices.run(plan, jobs, options.json, shrink_s or 0.0, options.ledger, options.revision)
    return explore.run(plan, jobs, options.json, SHRINK_S if shrink_s is None else shrink_s)


def _replay(options: argparse.Namespace) -> int:
    text = options.scenario
    try:
        scenario: Scenario = read(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        print(f"this is no scenario: {error}", file=sys.stderr)
        return 2
    found = explore.Found(scenario.seed, "", scenario)
    for line in explore.show(found, options.mutant):
        print(line)
    return 1 if explore.with_mutant(options.mutant, scenario).problem else 0


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    if not low.isdigit() or not (high or low).isdigit() or not 1 <= int(low) <= int(high or low):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of hosts nor a range as 2-9")
    return int(low), int(high or low)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
